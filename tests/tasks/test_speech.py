"""Spoken digits: features, masks, splits, joined strings and error rates, against their definitions and jiwer."""

import io
import shutil
import tarfile
from math import cos, log, log10, pi, sin

import jiwer
import numpy as np
import pytest
import torch

from rnnlab.cells import find
from rnnlab.contracts import check_task
from rnnlab.formats.audio import encode
from rnnlab.heads import IGNORE
from rnnlab.interface import InputError
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks.speech import _corpora
from rnnlab.tasks.speech._edit import edit_distance
from rnnlab.tasks.speech._features import MELS, SpecAugment, log_mel
from rnnlab.tasks.speech.base import WORDS
from rnnlab.tasks.speech.digit_strings import DigitStrings, error_rates
from rnnlab.tasks.speech.spoken_digits import SpokenDigits


def naive_log_mel(samples):
    """The features from their definition: window, Fourier transform, triangles, one after the other."""

    def mel(f):
        return 2595 * log10(1 + f / 700)

    corners = [700 * (10 ** (mel(4000) * m / 41 / 2595) - 1) for m in range(42)]
    window = [0.5 - 0.5 * cos(2 * pi * n / 256) for n in range(256)]
    waves = np.array(
        [[complex(cos(2 * pi * k * n / 256), -sin(2 * pi * k * n / 256)) for n in range(256)] for k in range(129)]
    )
    weights = np.zeros((129, 40))
    for m, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for k in range(129):
            f = 31.25 * k
            if low < f <= middle:
                weights[k, m] = (f - low) / (middle - low)
            elif middle < f < high:
                weights[k, m] = (high - f) / (high - middle)
    found = []
    for start in range(0, len(samples) - 255, 128):
        power = np.abs(waves @ (samples[start : start + 256] * window)) ** 2
        found.append([log(energy + 1e-3) for energy in power @ weights])
    return np.array(found)


@pytest.mark.parametrize("size", [256, 383, 384, 25800])
def test_features_are_those_of_the_definition(size):
    samples = np.random.default_rng(size).uniform(-1, 1, size) * np.linspace(0, 1, size) ** 4
    found = log_mel(torch.from_numpy(samples).float())
    expected = naive_log_mel(samples)
    assert found.shape == expected.shape == (size // 128 - 1, MELS)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_tone_is_in_the_band_of_its_frequency():
    tone = torch.sin(2 * torch.pi * 1000 / 8000 * torch.arange(2560))
    centre = 2595 * log10(1 + 1000 / 700) / (2595 * log10(1 + 4000 / 700) / 41) - 1
    assert abs(int(log_mel(tone).mean(0).argmax()) - centre) <= 1


def test_masks_are_bands_and_times_of_allowed_widths():
    lengths = torch.tensor([200, 30, 9])
    seen = {"bands": [], "times": []}
    for seed in range(150):
        masked = SpecAugment(1, 8, 1, 10)(torch.ones(200, 3, MELS), lengths, torch.Generator().manual_seed(seed)) == 0
        for n, length in enumerate(lengths.tolist()):
            times, bands = masked[:, n].all(1).nonzero().flatten(), masked[:, n].all(0).nonzero().flatten()
            assert int(masked[:, n].sum()) == 200 * len(bands) + MELS * len(times) - len(bands) * len(times)
            for places in (times, bands):
                assert places.diff().eq(1).all()
            assert len(times) <= min(10, 0.2 * length)
            assert not len(times) or int(times.max()) < length
            seen["bands"].append(len(bands))
            seen["times"] += [len(times)] if n == 0 else []
    assert set(seen["bands"]) == set(range(9))  # uniform from 0 to 8, and from 0 to 10
    assert set(seen["times"]) == set(range(11))
    assert np.mean(seen["bands"]) == pytest.approx(4, abs=0.5)


def test_only_training_is_masked():
    plain, masked = SpokenDigits(), SpokenDigits(frequency_masks=2, time_masks=2)
    for split, is_same in (("train", False), ("valid", True), ("test", True)):
        a, b = plain.batch(split, 1), masked.batch(split, 1)
        assert torch.equal(a.inputs, b.inputs) == is_same
        assert torch.equal(a.targets, b.targets)
    kept = masked.batch("train", 1).inputs
    assert ((kept == plain.batch("train", 1).inputs) | (kept == 0)).all()


def test_a_batch_of_digits_is_its_recordings():
    task = SpokenDigits()
    batch, part = task.batch("valid", 2), task.recordings["valid"][64:96]
    frames = torch.cat([log_mel(torch.from_numpy(one.samples)) for one in task.recordings["train"]])
    for n, one in enumerate(part):
        length = len(one.samples) // 128 - 1
        expected = (log_mel(torch.from_numpy(one.samples)) - frames.mean(0)) / frames.std(0)
        torch.testing.assert_close(batch.inputs[:length, n], expected)
        assert int(batch.lengths[n]) == length
        assert batch.targets[length - 1, n] == one.digit
        assert (batch.targets[:, n] != IGNORE).sum() == 1
        assert np.abs(one.samples).max() == 1


def test_the_features_of_a_string_are_those_of_its_sound():
    task = DigitStrings(eval_size=21, pause=5)
    for step, split in enumerate(("train", "valid", "test", "train", "train")):
        number = 0 if split != "train" else step
        strings, batch = task.chosen(split, number), task.batch(split, number)
        for n, string in enumerate(strings):
            expected = task.normalised(log_mel(task.sound(split, string)))
            torch.testing.assert_close(batch.inputs[: len(expected), n], expected, rtol=1e-4, atol=1e-4)
            assert int(batch.lengths[n]) == len(expected)
            digits = [task.recordings[split][row].digit for row in string.rows]
            assert batch.targets[: len(digits), n].tolist() == digits
            assert int(batch.target_lengths[n]) == len(digits)
            assert len({task.recordings[split][row].speaker for row in string.rows}) == 1
    pauses = [pause for step in range(20) for one in task.chosen("train", step) for pause in one.pauses]
    assert set(pauses) == set(range(6))
    assert np.mean(np.array(pauses) == 0) == pytest.approx(6 / 11, abs=0.05)
    assert sorted({len(one.rows) for one in task.strings["test"]}) == [1, 2, 3, 4, 5, 6, 7]


def fsdd(root, indices=11, speakers=("anna", "bert"), pack=False):
    """A small data set in the public layout; each recording has another amplitude."""
    folder = root / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for n, (digit, name, index) in enumerate(np.ndindex(10, len(speakers), indices)):
        time = np.arange(300 + n) / 8000
        content = encode(0.1 * np.sin(2 * np.pi * (300 + 50 * digit) * time), 8000)
        (folder / f"{digit}_{speakers[name]}_{index}.wav").write_bytes(content)
    if pack:
        with tarfile.open(folder.parent / "free-spoken-digit-dataset.tar.gz", "w:gz") as archive:
            archive.add(folder.parent / "recordings", "free-spoken-digit-dataset/recordings")
        shutil.rmtree(folder)
    return folder.parent


def names(task):
    return {split: {(r.digit, r.speaker, r.index) for r in part} for split, part in task.recordings.items()}


def test_splits_are_by_index_or_by_speaker(tmp_path):
    fsdd(tmp_path / "a")
    official = names(SpokenDigits(data_root=str(tmp_path / "a"), corpus="fsdd"))
    assert {index for _, _, index in official["test"]} == {0, 1, 2, 3, 4}
    assert {index for _, _, index in official["valid"]} == {5, 6, 7, 8, 9}
    assert {index for _, _, index in official["train"]} == {10}
    assert sum(map(len, official.values())) == len(set.union(*official.values())) == 220
    spoken = names(DigitStrings(data_root=str(tmp_path / "a"), corpus="fsdd", held_out=["bert"]))
    assert {speaker for _, speaker, _ in spoken["test"]} == {"bert"}
    assert len(spoken["test"]) == 110
    assert {speaker for _, speaker, _ in spoken["train"] | spoken["valid"]} == {"anna"}
    assert not spoken["train"] & spoken["valid"]


def test_an_archive_is_the_same_data(tmp_path):
    fsdd(tmp_path / "a")
    fsdd(tmp_path / "b", pack=True)
    first, second = (SpokenDigits(data_root=str(tmp_path / name), corpus="fsdd") for name in "ab")
    assert first.data_digest() == second.data_digest()
    assert (
        first.data_digest()
        != SpokenDigits(data_root=str(tmp_path / "a"), corpus="fsdd", held_out=["anna"]).data_digest()
    )
    assert first.describe()[0].startswith("data: 220 recordings")


def archive(path, members):
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))


TONE = encode(np.sin(np.arange(400) / 3), 8000)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"../recordings/0_a_0.wav": TONE}, "member outside its folder"),
        ({"/x/recordings/0_a_0.wav": TONE}, "member outside its folder"),
        ({"x/recordings/zero.wav": TONE}, "is not named DIGIT_SPEAKER_INDEX.wav"),
        ({"x/recordings/0_a_0.wav": TONE[:-10]}, "0_a_0.wav is truncated"),
        ({"x/recordings/0_a_0.wav": b"x" * 99}, "cannot be read as a sound"),
        ({"x/recordings/0_a_0.wav": encode(np.ones(100), 8000)}, "lasts 12 ms"),
        ({"x/recordings/0_a_0.wav": encode(np.zeros(400), 8000)}, "is silent"),
        ({"x/readme.txt": b"hello"}, "has no file recordings/"),
        ({"x/recordings/0_a_0.wav": TONE}, "leaves no recording for train"),
    ],
)
def test_archives_with_unusable_members_are_refused(tmp_path, members, says):
    home = tmp_path / "free-spoken-digit-dataset"
    home.mkdir()
    archive(home / "free-spoken-digit-dataset.tar.gz", members)
    with pytest.raises(InputError, match=says):
        _ = SpokenDigits(data_root=str(tmp_path), corpus="fsdd").recordings


def test_damaged_and_missing_archives_are_refused(tmp_path):
    with pytest.raises(InputError, match="run git clone https"):
        _ = SpokenDigits(data_root=str(tmp_path), corpus="fsdd").recordings
    home = tmp_path / "free-spoken-digit-dataset"
    home.mkdir()
    file = home / "free-spoken-digit-dataset.tar.gz"
    noise = {f"x/recordings/0_a_{n}.wav": encode(np.random.default_rng(n).uniform(-1, 1, 900), 8000) for n in range(9)}
    archive(file, noise)
    whole = file.read_bytes()
    for damaged in (whole[:-3000], b"", b"no archive", whole[:5000] + bytes(50) + whole[5050:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="free-spoken-digit-dataset"):
            _ = _corpora.fsdd(str(tmp_path))


def test_dial_tones_have_the_frequencies_of_the_standard():
    """ITU-T Q.23: rows of 697, 770, 852 and 941 Hz, columns of 1209, 1336 and 1477 Hz, 0 below 8."""
    layout = ("123", "456", "789", "*0#")
    for one in _corpora.tones():
        if one.speaker == "middle":
            row = next(n for n, keys in enumerate(layout) if str(one.digit) in keys)
            wanted = (697, 770, 852, 941)[row], (1209, 1336, 1477)[layout[row].index(str(one.digit))]
            power = np.abs(np.fft.rfft(one.samples, 8000))
            groups = (697, 770, 852, 941), (1209, 1336, 1477)
            assert tuple(max(group, key=power.__getitem__) for group in groups) == wanted


def test_edit_distances_and_error_rates_are_those_of_jiwer():
    random = np.random.default_rng(3)
    references = [" ".join(random.choice(WORDS, random.integers(1, 8))) for _ in range(60)]
    texts = [" ".join(random.choice(WORDS, random.integers(0, 9))) for _ in range(30)] + references[30:50] + [""] * 10
    found = {name: float(total.sum() / count.sum()) for name, (total, count) in error_rates(texts, references).items()}
    assert found["wer"] == pytest.approx(jiwer.wer(references, texts))
    assert found["cer"] == pytest.approx(jiwer.cer(references, texts))
    assert found["exact"] == np.mean([a == b for a, b in zip(texts, references, strict=True)])
    for text, reference in zip(texts, references, strict=True):
        measured = jiwer.process_words(reference, text)
        errors = measured.substitutions + measured.insertions + measured.deletions
        assert edit_distance(text.split(), reference.split()) == errors
    assert edit_distance("kitten", "sitting") == edit_distance("sitting", "kitten") == 3
    assert edit_distance("", "abc") == edit_distance([1] * 200, [1] * 197) == 3


def test_metrics_are_summed_over_all_strings():
    """A model that writes 3 for each frame of the first half: every string becomes "three"."""
    task = DigitStrings(eval_size=14, batch_size=5)
    totals = np.zeros((2, 4))
    references = []
    for step in range(task.num_batches("test")):
        batch = task.batch("test", step)
        outputs = torch.full((*batch.inputs.shape[:2], 11), -20.0)
        outputs[:10, :, 3] = outputs[10:, :, 10] = 20.0
        found = task.measure(outputs, batch)
        totals += [[float(one[part].sum()) for one in found.values()] for part in (0, 1)]
        references += [task.spoken("test", one) for one in task.chosen("test", step)]
    texts = [" ".join(WORDS[digit] for digit in one) for one in references]
    rates = dict(zip(found, totals[0] / totals[1], strict=True))
    assert rates["wer"] == rates["wer_beam"] == pytest.approx(jiwer.wer(texts, ["three"] * len(texts)))
    assert rates["cer"] == pytest.approx(jiwer.cer(texts, ["three"] * len(texts)))
    assert task.baselines("test")["nothing"] == {"wer": 1, "cer": 1, "exact": 0}
    assert 0.8 < task.baselines("test")["most frequent"]["wer"] <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"corpus": "timit"}, r"task\.corpus='timit' is not one of tones, fsdd"),
        ({"batch_size": 0}, r"task\.batch_size=0 must be at least 1"),
        ({"frequency_masks": -1}, r"task\.frequency_masks=-1 must be at least 0"),
        ({"frequency_width": 41}, r"task\.frequency_width=41 must be at most 40"),
        ({"digits": [3, 1]}, r"task\.digits=\[3, 1\] must be"),
        ({"digits": [0, 1]}, r"task\.digits=\[0, 1\] must be"),
        ({"pause": -1}, r"task\.pause=-1 must be at least 0"),
        ({"beam_size": 0}, r"task\.beam_size=0 must be at least 1"),
    ],
)
def test_options_that_are_not_valid_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        DigitStrings(**options)


def test_unknown_speakers_are_refused():
    with pytest.raises(InputError, match=r"task\.held_out has 'theo'; the speakers are high, low, middle"):
        _ = SpokenDigits(held_out=["theo"]).recordings
    with pytest.raises(InputError, match="leaves no recording for train"):
        _ = SpokenDigits(held_out=["low", "middle", "high"]).recordings


@pytest.mark.parametrize("make", [SpokenDigits, DigitStrings])
def test_a_trained_model_needs_no_data(make, tmp_path):
    trained, other = make(), make(corpus="fsdd", data_root=str(tmp_path))
    other.restore(trained.memory())
    torch.manual_seed(0)
    model = SequenceModel(other.input, other.output_size, find("gru"), hidden_size=8).eval()
    samples = torch.from_numpy(trained.recordings["test"][0].samples)
    (tmp_path / "a.wav").write_bytes(encode(samples.numpy(), 8000))
    texts = [task.recognise(model, samples, beam_size=3) for task in (trained, other)]
    assert texts[0] == texts[1] == other.transcribe(model, tmp_path / "a.wav", beam_size=3)
    assert set(texts[0].split()) <= set(WORDS)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "options"), [(SpokenDigits, {"time_masks": 1}), (DigitStrings, {"eval_size": 14})])
def test_the_contract_holds(make, options):
    check_task(make, **options)
