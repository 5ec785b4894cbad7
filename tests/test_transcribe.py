"""The command transcribe, with runs of both tasks trained on dial tones."""

import csv
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import rnnlab
from rnnlab import config
from rnnlab.__main__ import main
from rnnlab.formats.audio import encode, resample
from rnnlab.tasks.speech import _corpora
from rnnlab.tasks.speech._edit import edit_distance
from rnnlab.tasks.speech.base import WORDS
from rnnlab.training import load, train

QUIET = ["logger.tensorboard=false", "logger.progress=false", "trainer.log_every=1000", "optimizer.lr=0.01"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech") / "run"
    sizes = ["model.hidden_size=48", "trainer.steps=160", "trainer.eval_every=160", "scheduler.warmup_steps=10"]
    train(config.compose(["task=spoken_digits", *sizes, f"run_dir={folder}", *QUIET]))
    return folder


class Done(NamedTuple):
    """The outcome of a command."""

    returncode: int
    stdout: str
    stderr: str


def keys():
    """A tone of each digit of the test set on the line ``middle``, with little noise."""
    found = {}
    for one in _corpora.tones():
        if one.speaker == "middle" and one.index == 0:
            found[one.digit] = one.samples
    return found


@pytest.fixture
def command(capsys):
    """A function that runs the command and returns its exit code, output and error output."""

    def run(*arguments):
        capsys.readouterr()
        code = main(["transcribe", *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return run


def test_predictions_for_a_folder_are_the_words_of_its_files(digits, tmp_path, capsys):
    (tmp_path / "sounds").mkdir()
    assert main(["predict", str(digits), f"data={tmp_path}/sounds"]) == 2
    assert "sounds has no files" in capsys.readouterr().err
    for digit, samples in list(keys().items())[::-1]:
        (tmp_path / "sounds" / f"{digit}.wav").write_bytes(encode(samples, 8000))
    found = rnnlab.load(digits, "cpu").predict(tmp_path / "sounds" / "7.wav")
    assert found.texts == ["seven"]
    assert main(["predict", str(digits), f"data={tmp_path}/sounds", f"out={tmp_path}/out.csv"]) == 0
    header, *rows = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    assert header == ["source", "text"]
    assert [row[0] for row in rows] == [str(tmp_path / "sounds" / f"{digit}.wav") for digit in range(10)]
    assert sum(text == WORDS[digit] for digit, (_, text) in enumerate(rows)) >= 9


def test_files_of_any_rate_and_encoding_are_transcribed(command, digits, tmp_path):
    tones = keys()
    (tmp_path / "a.wav").write_bytes(encode(tones[7] * 0.1, 8000))
    loud = resample(tones[3], 8000, 44100)
    soundfile.write(tmp_path / "b.wav", np.stack([loud, loud], 1) / 2, 44100, subtype="PCM_24")
    soundfile.write(tmp_path / "c.flac", resample(tones[5], 8000, 16000) / 2, 16000)
    done = command(f"run={digits}", *(tmp_path / name for name in ("a.wav", "b.wav", "c.flac")))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["seven", "three", "five"]


def test_a_bad_file_is_reported_and_the_others_are_transcribed(command, digits, tmp_path):
    (tmp_path / "good.wav").write_bytes(encode(keys()[7], 8000))
    bad = {
        "empty.wav": (b"", "is empty"),
        "cut.wav": (encode(keys()[1], 8000)[:-100], "is truncated: 100 bytes"),
        "text.wav": (b"hello", "cannot be read as a sound"),
        "short.wav": (encode(np.ones(200), 8000), "lasts 25 ms"),
        "silent.wav": (encode(np.zeros(2000), 8000), "is silent"),
        "long.wav": (encode(np.ones(8000 * 200), 8000), "lasts 200.0 s; this model accepts at most 5 s"),
        "missing.wav": (None, "is not a file"),
    }
    for name, (content, _) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    done = command(digits, *(tmp_path / name for name in bad), tmp_path / "good.wav")
    assert done.returncode == 2
    assert done.stdout.split("\n") == [*[""] * len(bad), "seven", ""]
    for line, (name, (_, says)) in zip(done.stderr.splitlines(), bad.items(), strict=True):
        assert line.startswith(f"rnnlab: {tmp_path / name} ")
        assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no sound file is given"),
        (["beam_size=0", "x.wav"], "beam_size=0 must be at least 1"),
        (["beam=2", "x.wav"], "unknown option 'beam=2'; did you mean 'beam_size'"),
    ],
)
def test_a_mistake_gets_one_sentence(command, digits, arguments, says):
    done = command(digits, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_recognises_no_speech_is_refused(command, tmp_path):
    train(config.compose(["task=hello", "trainer.steps=1", "model.hidden_size=2", f"run_dir={tmp_path}/run", *QUIET]))
    done = command(tmp_path / "run", "x.wav")
    assert done.returncode == 2
    assert "is a run of the task hello, which recognises no speech" in done.stderr


def test_a_run_writes_its_samples(digits):
    text = (digits / "samples" / "00000160.txt").read_text()
    spoken = [line.split()[-1] for line in text.splitlines() if line.startswith("spoken:")]
    assert len(spoken) == text.count("recognised: ") == 4
    assert set(spoken) <= set(WORDS)
    samples, rate = soundfile.read(digits / "samples" / "00000160.wav")
    first = load(digits, "cpu")[0].recordings["valid"][0]
    assert rate == 8000
    np.testing.assert_allclose(samples, first.samples, atol=2**-14)


@pytest.mark.slow
def test_strings_of_digits_are_learned_and_transcribed(command, tmp_path):
    sizes = ["model.hidden_size=48", "model.bidirectional=concatenate", "trainer.steps=600", "trainer.eval_every=600"]
    small = ["task.eval_size=70", "task.digits=[1,4]"]
    summary = train(config.compose(["task=digit_strings", *small, *sizes, f"run_dir={tmp_path}/run", *QUIET]))
    assert summary["test"]["wer"] < 0.15
    tones = keys()
    joined = np.concatenate([part for digit in (4, 7, 0, 8) for part in (tones[digit], np.zeros(500, np.float32))])
    (tmp_path / "four.wav").write_bytes(encode(joined, 8000))
    minutes = np.concatenate([joined] * 40)
    (tmp_path / "long.wav").write_bytes(encode(minutes, 8000))
    done = command(tmp_path / "run", tmp_path / "four.wav", tmp_path / "long.wav")
    assert (done.returncode, done.stderr) == (0, "")
    one, many = done.stdout.splitlines()
    assert edit_distance(one.split(), ["four", "seven", "zero", "eight"]) <= 1
    assert len(many.split()) > 100
