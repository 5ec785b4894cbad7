"""The command translate, and what a run of a task that generates text leaves behind."""

import csv
import subprocess
import sys

import processes
import pytest
import torch

import rnnlab
from rnnlab import config
from rnnlab.__main__ import main
from rnnlab.interface import InputError
from rnnlab.training import evaluate_run, load, train

COLOURS = {"rouge": "red", "vert": "green", "bleu": "blue", "noir": "black", "blanc": "white", "gris": "grey"}
THINGS = {"chat": "cat", "chien": "dog", "livre": "book", "pain": "bread", "lit": "bed", "mur": "wall", "sac": "bag"}
SIZES = ["model.hidden_size=32", "model.embedding_size=16", "task.batch_size=16", "task.longest_output=8"]
QUIET = ["logger.tensorboard=false", "logger.progress=false"]


def corpus(folder):
    """Every colour of everything: "le chat est rouge." is "the red cat."."""
    lines = [
        f"le {thing} est {colour}.\tthe {COLOURS[colour]} {THINGS[thing]}." for thing in THINGS for colour in COLOURS
    ]
    path = folder / "pairs.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def options(folder, *more, run="run"):
    pairs = corpus(folder)
    given = ["task=translation", f"task.corpus={pairs}", "task.eval_size=6", f"run_dir={folder}/{run}"]
    return [*given, *SIZES, *QUIET, "trainer.steps=150", "trainer.eval_every=75", "optimizer.lr=0.01", *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translating")
    train(config.compose(options(folder)))
    (folder / "pairs.tsv").unlink()  # what a trained model needs travels with it
    return folder / "run"


def command(*arguments, **given):
    return processes.rnnlab("translate", *arguments, **given)


def test_texts_files_and_standard_input_give_the_same(run, tmp_path):
    lines = ["le chat est noir.", "le mur est vert.", "le pain est blanc."]
    expected = ["the black cat.", "the green wall.", "the white bread."]
    done = command(f"run={run}", *lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected
    (tmp_path / "in.txt").write_bytes(("\ufeff" + "\r\n".join([lines[0], "", *lines[1:]])).encode())
    done = command(str(run), f"file={tmp_path}/in.txt", f"out={tmp_path}/out.txt")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "out.txt").read_text().splitlines() == [expected[0], "", *expected[1:]]
    done = command(str(run), "beam_size=1", input="\r\n".join(lines) + "\r\n")
    assert done.stdout.splitlines() == expected


def test_predictions_are_the_translations(run, tmp_path):
    lines = ["le chat est noir.", "", "le mur est vert."]
    loaded = rnnlab.load(run, "cpu")
    assert loaded.predict(lines).texts == ["the black cat.", "", "the green wall."]
    assert loaded.predict(lines[0]).rows() == [["source", "text"], [lines[0], "the black cat."]]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    assert main(["predict", str(run), f"data={tmp_path}/in.txt", f"out={tmp_path}/out.csv"]) == 0
    assert list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))[3] == [
        "le mur est vert.",
        "the green wall.",
    ]
    with pytest.raises(InputError, match="no token of the text"):
        loaded.predict(["xyz"])


def test_a_line_that_cannot_be_translated_is_reported_and_the_others_are_translated(run):
    done = command(str(run), "le chat est noir.", "日本語", "le lit est gris.")
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["the black cat.", "", "the grey bed."]
    assert done.stderr == (
        "rnnlab: line 2: the model's vocabulary has no token of the text '日本語'; give a text in the language of the "
        "training data\n"
    )
    done = command(str(run), "chat " * 5000)
    assert done.returncode == 2
    assert done.stderr.startswith("rnnlab: the text 'chat chat chat")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["beam_size=0", "x"], "beam_size=0 must be at least 1"),
        (["beamsize=2", "x"], "unknown option 'beamsize=2'; did you mean 'beam_size'"),
        (["file=missing.txt"], "missing.txt is not a file"),
        (["file=missing.txt", "x"], "texts and file= are both given"),
    ],
)
def test_a_mistake_gets_one_sentence(run, arguments, sentence):
    done = command(str(run), *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_translates_nothing_is_refused(tmp_path):
    train(config.compose(["task=hello", "trainer.steps=1", "model.hidden_size=2", f"run_dir={tmp_path}/run", *QUIET]))
    done = command(f"run={tmp_path}/run", "x")
    assert done.returncode == 2
    assert "is a run of the task hello, which translates no text" in done.stderr


def test_a_run_keeps_what_the_model_wrote(run, tmp_path):
    for split in ("valid", "test"):
        texts = {path.name: path.read_text().splitlines() for path in (run / "written" / split).iterdir()}
        assert set(texts) == {"sources.txt", "references.txt", "hypotheses.txt", "scores.txt"}
        assert len(texts["sources.txt"]) == len(texts["references.txt"]) == len(texts["hypotheses.txt"]) <= 6
        assert texts["scores.txt"][0].startswith("BLEU = ")
    sample = (run / "samples" / "00000150.txt").read_text()
    assert "reference: the " in sample
    assert (run / "samples" / "00000150.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_writes_them_elsewhere(tmp_path):
    train(config.compose(options(tmp_path, "trainer.steps=2")))
    before = sorted((tmp_path / "run").rglob("*"))
    values = evaluate_run(tmp_path / "run", "test", "cpu", out=tmp_path / "out")
    assert sorted((tmp_path / "run").rglob("*")) == before
    out = tmp_path / "out"
    arguments = [str(out / "references.txt"), "-i", str(out / "hypotheses.txt"), "-b", "-w", "6"]
    done = subprocess.run([sys.executable, "-m", "sacrebleu", *arguments], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(values["bleu"], abs=1e-5)
    assert values["folder"] == str(out)
    again = evaluate_run(tmp_path / "run", "test", "cpu", out=out)
    assert again["folder"] == f"{out}-2"  # nothing is overwritten


def test_evaluate_without_generation_refuses_a_folder(tmp_path):
    train(config.compose(["task=hello", "trainer.steps=1", "model.hidden_size=2", f"run_dir={tmp_path}/run", *QUIET]))
    with pytest.raises(InputError, match="omit out="):
        evaluate_run(tmp_path / "run", "train", "cpu", out=tmp_path / "out")


def test_a_resumed_run_with_scheduled_sampling_ends_as_if_it_had_not_stopped(tmp_path):
    more = ["model.scheduled_sampling=0.5", "model.sampling_steps=20", "model.dropout=0.1", "trainer.steps=20"]
    more += ["trainer.eval_every=10", "trainer.checkpoint_every=5"]
    train(config.compose(options(tmp_path, *more)))
    whole = load(tmp_path / "run", "cpu", "last")[1].state_dict()
    stopped = config.compose(options(tmp_path, *more, run="stopped"))

    from rnnlab.training import trainer

    class Stop(Exception):
        pass

    original = trainer.Trainer.save

    def save(self, path, identity):
        original(self, path, identity)
        if self.progress.step == 15:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "save", save)
        with pytest.raises(Stop):
            train(stopped)
    train(stopped)
    resumed = load(tmp_path / "stopped", "cpu", "last")[1].state_dict()
    assert int(resumed["updates"]) == 20
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_generate_writes_the_translation_and_a_picture(run, tmp_path):
    done = processes.rnnlab("generate", f"run={run}", "prompt=le sac est bleu.", "temperature=0")
    assert done.stdout == "the blue bag.\n"
    done = processes.rnnlab(
        "generate", f"run={run}", "prompt=le sac est bleu.", "temperature=0", f"out={tmp_path}/made"
    )
    assert done.returncode == 0
    assert (tmp_path / "made" / "sample.txt").read_text() == "the blue bag.\n"
    assert (tmp_path / "made" / "sample.png").read_bytes().startswith(b"\x89PNG")
