"""Training, evaluation and generation on a simulated device: tensors are where they belong, and the host hardly waits.

A training step must not wait for the device, or the device is idle while the host prepares the next step. Recording the
training metrics waits once, and so does a pass of evaluation.
"""

import importlib
import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import rnnlab.conf
import tiers
import torch

if torch.cuda.is_available():
    # With a second device, autograd would ignore the streams of the first one.
    pytest.skip("stands in for a GPU where there is none", allow_module_level=True)

import simulated

from rnnlab import cells, config, tasks
from rnnlab.__main__ import main
from rnnlab.engine.gpu import graphs
from rnnlab.formats.audio import encode
from rnnlab.generation import Stream
from rnnlab.tasks.languages.parity import Parity
from rnnlab.tasks.speech import _corpora
from rnnlab.training import evaluation, run, trainer

QUIET = ["logger.tensorboard=false", "logger.progress=false", "model.hidden_size=8"]
PHASES = [
    (importlib.import_module("rnnlab.engine.traced"), "verify", "trace"),
    (trainer.Trainer, "fit", "step"),
    (trainer.Trainer, "collect", "log"),
    (trainer.Trainer, "save", "checkpoint"),
    (trainer.Trainer, "show_sample", "sample"),
    (trainer, "evaluate", "evaluation"),
    (run, "evaluate", "evaluation"),
    (evaluation, "_write", "generation"),
    (Stream, "draw", "draw"),
]
"""Functions whose waits are counted separately, and the names of their phases. Before its first step, a traced cell is
compared with its trace, which waits."""
CALLS = Counter()
"""Number of calls of the functions of each phase."""


@pytest.fixture
def sim(monkeypatch, tmp_path):
    """The device; ``device=sim`` selects it, and fused cells are recorded on it as on a GPU."""
    pick = trainer.pick_device
    monkeypatch.chdir(tmp_path)
    for module in (trainer, run):
        monkeypatch.setattr(module, "pick_device", lambda name: made if name == simulated.NAME else pick(name))
    for name, value in (("_compiled", lambda function: function), ("_GRAPHS", {}), ("_NOT_COMPILED", set())):
        monkeypatch.setattr(graphs, name, value)
    monkeypatch.setitem(graphs.RECORDERS, simulated.NAME, simulated.Recorder)
    for owner, name, phase in PHASES:
        monkeypatch.setattr(owner, name, _counted(getattr(owner, name), phase))
    CALLS.clear()
    with simulated.device() as made:
        yield made
    graphs.compiled.cache_clear()


def _counted(function, phase):
    def call(*arguments, **options):
        CALLS[phase] += 1
        with simulated.phase(phase):
            return function(*arguments, **options)

    return call


def train(*options, device="sim", steps=4):
    """Train with the command; return the records of metrics.jsonl."""
    times = [f"trainer.steps={steps}", f"trainer.log_every={steps // 2}", f"trainer.eval_every={steps}"]
    assert main(["train", *options, f"trainer.device={device}", *times, *QUIET, f"run_dir={device}"]) == 0
    return [json.loads(line) for line in Path(device, "metrics.jsonl").read_text().splitlines()]


def check_waits(records, *, step=(), evaluation=()):
    """Assert that training waited once for each record of training metrics and once for each pass of evaluation.

    Args:
        records: lines of metrics.jsonl.
        step: further waits of all training steps, by operation.
        evaluation: further waits of all evaluations, by operation.
    """
    lines = sum(record["split"] == "train" for record in records)
    expected = {
        "step": Counter(step),
        "log": Counter({"copy to the host": lines}),
        "evaluation": Counter({"copy to the host": CALLS["evaluation"]}) + Counter(evaluation),
    }
    for phase, allowed in expected.items():
        assert simulated.waits(phase) == allowed, f"{phase} waits:\n{simulated.places(phase)}"


TINY = {"lengths": [6, 7], "test_lengths": [6, 7], "batch_size": 4, "eval_batches": 1, "eval_size": 4, "pool": 20}
TINY |= {"train_steps": 300, "eval_steps": 60, "train_size": 60, "longest_output": 4}
OWN = {
    "babi": {"batch_size": 500},
    "conversation": {"languages": ["english"]},
    "delayed_xor": {"lengths": [8, 9], "test_lengths": [8, 9]},
    "digit_strings": {"eval_size": 70, "digits": [1, 2], "batch_size": 70},
    "fuzzy_recall": {"lengths": [11, 12], "test_lengths": [11, 12]},
    "mqar": {"lengths": [16, 18], "test_lengths": [16, 18]},
    "selective_copying": {"lengths": [16, 18], "test_lengths": [16, 18]},
    "temporal_order": {"lengths": [10, 11], "test_lengths": [10, 11]},
    "polyphonic_music": {"seq_len": 10},
    "motion": {"seq_len": 8, "batch_size": 64},
}
"""Sizes of tasks for a test, where the task has these options."""
SPEECH = {"step": {"_ctc_loss": 4}, "evaluation": {"_ctc_loss": 2, "copy to the host": 4}}
"""PyTorch's CTC copies lengths to the device, and a text is read off the outputs of each batch on the host."""
NAMES = sorted(path.stem for path in Path(rnnlab.conf.__path__[0], "task").glob("*.yaml"))


def options_of(task, monkeypatch):
    """Options for a small run of a task; an evaluation has at most two batches, unless it judges whole splits."""
    section = config.compose([f"task={task}"])["task"]
    for kind in tasks.find(task).__mro__:
        if "num_batches" in vars(kind):

            def few(self, split, count=kind.num_batches):
                found = count(self, split)
                return found if split == "train" or self.steps_to_write(split) else min(2, found)

            monkeypatch.setattr(kind, "num_batches", few)
    sizes = {name: size for name, size in {**TINY, **OWN.get(task, {})}.items() if name in section}
    return [f"task={task}", *(f"task.{name}={size}".replace(" ", "") for name, size in sizes.items())]


def comparable(records):
    """The numbers of the records that do not depend on time."""
    others = ("split", "seconds", "tokens_per_second", "by_length")
    return [
        {name: value for name, value in record.items() if name not in others}
        | {f"at {length}": value for length, value in record.get("by_length", {}).items()}
        for record in records
    ]


def check_numbers(records, options):
    """Assert that the plain loop on the CPU computes the same numbers."""
    expected = comparable(train(*options, "engine.backend=reference", device="cpu"))
    found = comparable(records)
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("task", tiers.quick_if(NAMES, {"a_n_b_n", "hello", "parity", "vowels"}.__contains__))
def test_every_task(sim, monkeypatch, caplog, task):
    options = [*options_of(task, monkeypatch), "cell=gru"]
    records = train(*options, "engine.backend=fused")
    check_waits(records, **SPEECH if task == "digit_strings" else {})
    if CALLS["generation"]:  # one copy for each step, and one of the prompt
        assert simulated.waits("draw") == {"copy to the host": CALLS["draw"]}
        assert simulated.waits("generation") == {"copy to the host": CALLS["generation"]}, simulated.places(
            "generation"
        )
    assert not warned(caplog)
    check_numbers(records, options)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("cell", tiers.quick_if(cells.available(), {"lstm", "mingru"}.__contains__))
def test_every_cell(sim, monkeypatch, caplog, cell, backend):
    options = [*options_of("adding", monkeypatch), "model=rnn", f"cell={cell}"]
    records = train(*options, f"engine.backend={backend}")
    check_waits(records)
    assert bool(graphs._GRAPHS) == (backend == "fused")
    assert not warned(caplog)
    check_numbers(records, options)


MORE = {
    "regularisers": ["task=parity", "model.zoneout=[0.2]", "model.recurrent_dropout=0.2", "model.weight_drop=0.2"],
    "learned state and layers": ["task=parity", "model=stacked_rnn", "model.initial_state=learned", "model.norm=rms"],
    "blocks": ["task=parity", "model=block"],
    "bidirectional": ["task=a_n_b_n", "model.bidirectional=sum"],
    "streams": ["task=char_lm", "task.seq_len=8"],
    "sgd": ["task=parity", "optimizer=sgd", "optimizer.momentum=0.9", "scheduler=constant"],
    "rmsprop": ["task=parity", "optimizer=rmsprop", "trainer.lr_factors={readout: 0.1}"],
    "scan": ["task=parity", "cell=mingru", "engine.backend=scan"],
    "cayley": ["task=parity", "cell=orthogonal", "cell.map=cayley"],
    "auto": ["task=parity", "cell=lstm", "engine.backend=auto"],
    "bf16": ["task=parity", "trainer.precision=bf16"],
    "scheduled sampling": ["task=translation", "model.scheduled_sampling=0.5", "model.sampling_steps=3"],
    "input feeding": ["task=translation", "model.input_feeding=true"],
    "frames": ["task=video_caption", "model.attention=none"],
}


@pytest.mark.parametrize("options", tiers.quick_if(MORE.values(), lambda options: False), ids=MORE)
def test_further_options(sim, monkeypatch, options):
    first, *others = options
    check_waits(train(*options_of(first.partition("=")[2], monkeypatch), *others))


class Waiting(Parity):
    """A task whose loss reads a number on the host."""

    def loss(self, outputs, batch):
        found = super().loss(outputs, batch)
        assert found.total.item() >= 0
        return found


class Astray(Parity):
    """A task whose loss reads a tensor that is not on the device."""

    def loss(self, outputs, batch):
        return super().loss(outputs * torch.ones(self.output_size), batch)


SHORT = ["task.lengths=[3,4]", "task.test_lengths=[3,4]", "task.batch_size=4"]


def test_a_task_that_waits_in_a_training_step_is_found(sim):
    records = train(f"task={__name__}:Waiting", *SHORT, "engine.backend=reference")
    with pytest.raises(AssertionError, match="_local_scalar_dense") as caught:
        check_waits(records)
    assert "trainer.py" in str(caught.value)
    check_waits(records, step={"_local_scalar_dense": 4}, evaluation={"_local_scalar_dense": CALLS["evaluation"] * 2})


def test_a_task_with_a_tensor_on_the_host_is_found(sim, capsys):
    arguments = ["train", f"task={__name__}:Astray", *SHORT, *QUIET, "run_dir=run"]
    assert main([*arguments, "trainer.device=sim"]) != 0
    assert "same device" in capsys.readouterr().err


# Commands that use a trained model


@pytest.mark.slow
def test_evaluate_and_generate(sim, monkeypatch, capsys):
    train(*options_of("char_lm", monkeypatch), "task.seq_len=8")
    results, texts = [], []
    for device in ("sim", "cpu"):
        simulated.WAITS.clear()
        capsys.readouterr()
        assert main(["evaluate", "run=sim", "split=test", f"device={device}"]) == 0
        results.append(json.loads(capsys.readouterr().out))
        assert main(["generate", "run=sim", "length=20", f"device={device}"]) == 0
        texts.append(capsys.readouterr().out)
        if device == "sim":
            assert simulated.waits("draw") == {"copy to the host": 20}
            assert simulated.waits("evaluation") == {"copy to the host": 1}
    assert texts[0] == texts[1]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 3])
def test_translate(sim, monkeypatch, capsys, beam_size):
    train(*options_of("translation", monkeypatch), f"task.beam_size={beam_size}")
    results = []
    for device in ("sim", "cpu"):
        capsys.readouterr()
        assert main(["translate", "run=sim", "vingt et un", f"device={device}", f"beam_size={beam_size}"]) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digit_strings", "spoken_digits"])
def test_transcribe(sim, monkeypatch, capsys, task):
    train(*options_of(task, monkeypatch))
    Path("a.wav").write_bytes(encode(_corpora.tones()[0].samples, _corpora.RATE))
    results = []
    for device in ("sim", "cpu"):
        capsys.readouterr()
        assert main(["transcribe", "run=sim", "a.wav", f"device={device}"]) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1]
