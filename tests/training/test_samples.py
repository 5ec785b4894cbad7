"""Samples of every kind: stored by suffix, shown in TensorBoard as they are encoded, and removed on going back."""

import io
import struct
import wave
import zlib

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnnlab import config
from rnnlab.heads import Categorical
from rnnlab.interface import SAMPLE_SUFFIXES, Batch, InputError, Sample, Tokens, samples_of
from rnnlab.tasks import Task
from rnnlab.training import train
from rnnlab.training.directory import RunDirectory


def png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0abc\0def"))
        + chunk(b"IEND", b"")
    )


def wav():
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(40))
    return file.getvalue()


GIF = b"GIF89a" + struct.pack("<HH", 5, 4) + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x05\0\4\0\0\2\1D\0;"
MADE = [
    Sample("a text"),
    Sample(png(), ".png"),
    Sample(wav(), ".wav"),
    Sample(GIF, ".gif"),
    Sample("<svg/>", ".svg"),
    Sample(b"MThd", ".mid"),
    Sample("HIERARCHY", ".bvh"),
]


class Maker(Task):
    """A task whose model makes something of every kind."""

    splits = ("train",)
    input = Tokens(2)
    head = Categorical(2)

    def __init__(self, seed: int = 0, data_root: str = "data") -> None:
        super().__init__(seed, data_root)

    def num_batches(self, split):
        return 1

    def batch(self, split, step):
        return Batch(torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64))

    def sample(self, model):
        return MADE


@pytest.fixture
def run(tmp_path):
    options = [f"task={__name__}:Maker", "model.hidden_size=4", "trainer.steps=4", "trainer.eval_every=2"]
    train(config.compose([*options, f"run_dir={tmp_path}/run", "logger.progress=false"]))
    return tmp_path / "run"


def test_there_is_one_of_every_kind():
    assert sorted(sample.suffix for sample in MADE) == sorted(SAMPLE_SUFFIXES)


def test_samples_are_files_of_their_kind(run):
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == sorted(f"{step:08d}{suffix}" for step in (0, 2, 4) for suffix in SAMPLE_SUFFIXES)
    for sample in MADE:
        content = (run / "samples" / f"00000002{sample.suffix}").read_bytes()
        assert content == (sample.content if isinstance(sample.content, bytes) else sample.content.encode() + b"\n")


def test_the_console_shows_texts_and_names_other_files(tmp_path, caplog):
    caplog.set_level("INFO", "rnnlab")
    options = [f"task={__name__}:Maker", "model.hidden_size=4", "trainer.steps=1", "logger.tensorboard=false"]
    train(config.compose([*options, f"run_dir={tmp_path}/run", "logger.progress=false"]))
    assert "a text" in caplog.text
    assert "00000000.svg" in caplog.text
    assert "<svg/>" not in caplog.text
    assert "HIERARCHY" not in caplog.text


def test_tensorboard_shows_what_it_can(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0, "audio": 0})
    events.Reload()
    images = events.Images("sample/picture")
    for tag, size in (("sample/picture", (3, 2)), ("sample/animation", (5, 4))):
        found = [(image.step, image.width, image.height) for image in events.Images(tag)]
        assert found == [(step, *size) for step in (0, 2, 4)]
    assert png() in {image.encoded_image_string for image in images}
    (sound, *_) = events.Audio("sample/sound")
    assert (sound.sample_rate, sound.encoded_audio_string, sound.content_type) == (8000, wav(), "audio/wav")


def test_going_back_removes_later_samples_of_every_kind_and_nothing_of_the_users(run):
    mine = [
        run / "samples" / name for name in ("00000004.jpg", "4.png", "notes.txt", "00000004.txt.bak", "x00000004.wav")
    ]
    for path in mine:
        path.write_text("mine")
    RunDirectory(run).rewind(2)
    left = {path.name for path in (run / "samples").iterdir()}
    assert left == {f"{step:08d}{suffix}" for step in (0, 2) for suffix in SAMPLE_SUFFIXES} | {
        path.name for path in mine
    }


@pytest.mark.parametrize("made", [[Sample("a", ".exe")], [Sample("a"), Sample("b")]])
def test_a_suffix_is_known_and_stands_once(made):
    with pytest.raises(InputError, match="they must be distinct, and each must be one of"):
        samples_of(made)


def test_a_text_alone_is_a_sample():
    assert samples_of("so") == [Sample("so", ".txt")]
    assert samples_of(None) == []
    assert samples_of(Sample(b"", ".mid")) == [Sample(b"", ".mid")]
