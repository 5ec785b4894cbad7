"""Nothing lost: however a run is cut short, the same command goes on and ends bit-identical to a run that never was."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path

import processes
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from rnnlab import config
from rnnlab.interface import InputError
from rnnlab.tasks.char_lm import CharLM
from rnnlab.training import checkpoint, evaluate_run, train
from rnnlab.training.directory import RunDirectory
from rnnlab.training.signals import end_with_parent, stop_signals
from rnnlab.training.trainer import Trainer

CLOCK = ("seconds", "window_seconds", "tokens_per_second")
"""What is measured by the clock, and the only thing that may differ between two runs."""

# Dropout between two layers makes every step depend on the random generator. Checkpoints fall between two records of
# the training metrics, so that a window is cut in the middle; they fall between evaluations too.
MODEL = ["model.hidden_size=16", "model.embedding_size=8", "model.num_layers=2", "model.dropout=0.3"]
TASK = ["task.corpus=corpus.txt", "task.batch_size=4", "task.seq_len=8"]
LONG = ["trainer.steps=300", "trainer.eval_every=90", "trainer.checkpoint_every=33", "trainer.log_every=20"]
SHORT = ["trainer.steps=9", "trainer.eval_every=4", "trainer.checkpoint_every=3", "trainer.log_every=2"]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with a corpus."""
    folder = tmp_path_factory.mktemp("survival")
    draw = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "stream", "state", "gate"]
    (folder / "corpus.txt").write_text(" ".join(draw.choice(words) for _ in range(300)))
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    """A long run of a process of its own that was never stopped."""
    return finish(folder, "reference")


@pytest.fixture(scope="module")
def short_reference(folder):
    """A short run of this process that was never stopped."""
    train(short_config(folder, "short_reference"))
    return folder / "short_reference"


def short_config(folder, name, *options):
    options = [*SHORT, *options, f"task.corpus={folder / 'corpus.txt'}", f"run_dir={folder / name}"]
    return config.compose([*TASK, *MODEL, *options])


def start(folder, name):
    """The command, in a process of its own."""
    command = [processes.programs() / "rnnlab", "train", *TASK, *MODEL, *LONG, f"run_dir={name}"]
    # One thread is fastest for a model this small, and two test workers then leave each other alone.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def finish(folder, name):
    process = start(folder, name)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads((folder / name / "summary.json").read_text())["status"] == "finished"
    return folder / name


def stop(folder, name, number, lines, delay=0.0):
    """Start the command and send it a signal once it has recorded ``lines`` lines more, and ``delay`` seconds later."""
    metrics = folder / name / "metrics.jsonl"
    process = start(folder, name)
    deadline = time.monotonic() + 120
    already = None  # counted when the process has removed what is past the checkpoint, which is before it says this
    while already is None or len(metrics.read_text().splitlines()) < already + lines:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        if already is None and process.stdout.readline().startswith("run directory"):
            already = len(metrics.read_text().splitlines())
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def last_step(run):
    """The step of the last checkpoint; 0 where there is none."""
    path = run / "checkpoints" / "last.pt"
    return checkpoint.load(path)["progress"]["step"] if path.exists() else 0


def raw_events(run):
    """(tag, step) of everything that lies in the event files, hidden by TensorBoard or not."""
    events = [Event.FromString(record) for path in event_files(run) for record in RawEventFileLoader(str(path)).Load()]
    return [(value.tag, event.step) for event in events for value in event.summary.value]


def event_files(run):
    return sorted(run.glob("events.out.tfevents.*"))


def scalars(run):
    """(step, value) of every scalar as TensorBoard shows it.

    In order of steps: files are read in the order of their names, which begin with the second they were made in, and
    one test here makes several in a second.
    """
    shown = EventAccumulator(str(run), size_guidance={"scalars": 0})
    shown.Reload()
    return {tag: sorted((e.step, e.value) for e in shown.Scalars(tag)) for tag in shown.Tags()["scalars"]}


def untimed(value):
    """``value`` without what the clock measured, and tensors as what can be compared bit by bit."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in (*CLOCK, "run_dir")}
    if isinstance(value, list | tuple):
        return [untimed(item) for item in value]
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    return value


def assert_same(run, reference, tensorboard=True):
    """Everything a run leaves behind is what the reference left, and each step is there once."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = checkpoint.load(run / "checkpoints" / name), checkpoint.load(reference / "checkpoints" / name)
        for key, tensor in theirs["model"].items():
            assert torch.equal(ours["model"][key], tensor), f"{name}: {key}"
        for key in theirs:  # optimizer, carried state, random generators, progress with its window
            assert untimed(ours[key]) == untimed(theirs[key]), f"{name}: {key}"
    assert untimed(records(run)) == untimed(records(reference))
    assert max(Counter((r["split"], r["step"]) for r in records(run)).values()) == 1
    assert untimed(json.loads((run / "summary.json").read_text())) == untimed(
        json.loads((reference / "summary.json").read_text())
    )
    samples = {path.name: path.read_text() for path in (run / "samples").iterdir()}
    assert samples == {path.name: path.read_text() for path in (reference / "samples").iterdir()}
    if tensorboard:
        assert sorted(raw_events(run)) == sorted(raw_events(reference))
        assert max(Counter(raw_events(run)).values()) == 1
        ours, theirs = scalars(run), scalars(reference)
        del ours["train/tokens_per_second"], theirs["train/tokens_per_second"]
        assert ours == theirs


def test_sigkill_before_the_first_checkpoint_and_later_at_random(folder, reference):
    draw = random.Random(1)
    name = "killed"
    returncode, _ = stop(folder, name, signal.SIGKILL, lines=1)
    assert returncode == -signal.SIGKILL
    assert last_step(folder / name) == 0
    steps = [0]
    for lines in (draw.randint(2, 5), draw.randint(4, 7)):
        returncode, _ = stop(folder, name, signal.SIGKILL, lines, delay=draw.uniform(0, 0.06))
        assert returncode == -signal.SIGKILL
        assert not (folder / name / "summary.json").exists()
        steps.append(last_step(folder / name))
    assert steps == sorted(set(steps)), "every process must have gone on from the one before"
    assert_same(finish(folder, name), reference)


def test_sigkill_in_the_middle_of_a_line_and_of_an_event(folder, reference):
    run = folder / "torn"
    returncode, _ = stop(folder, run.name, signal.SIGKILL, lines=random.Random(2).randint(5, 7))
    assert returncode == -signal.SIGKILL
    assert last_step(run) % 20, "the checkpoint must cut a window of the training metrics"
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 1, "split": "train", "lo')
    [events] = event_files(run)
    events.write_bytes(events.read_bytes() + events.read_bytes()[:20])
    assert_same(finish(folder, run.name), reference)


def test_sigterm_and_ctrl_c_save_and_say_so(folder, reference):
    run = folder / "stopped"
    for number, exit_code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        returncode, output = stop(folder, run.name, number, lines=5)
        assert returncode == exit_code
        summary = json.loads((run / "summary.json").read_text())
        assert summary["status"] == "stopped"
        assert summary["signal"] == number
        assert last_step(run) == summary["steps"]
        assert f"stopped at step {summary['steps']}" in output
    assert_same(finish(folder, run.name), reference)


def test_cut_short_in_every_batch(folder, short_reference, monkeypatch):
    """The process ends in each batch of training, validation and test, one after the other."""
    batch = CharLM.batch
    seen, now = set(), [0]

    def dying_batch(task, split, step):
        if split == "train" and now[0] >= 0:
            now[0] = step
        moment = (now[0], split, step)
        if now[0] >= 0 and moment not in seen:
            seen.add(moment)
            raise Killed
        return batch(task, split, step)

    settings = short_config(folder, "cut")
    # The digest of the data is none of the moments: this task takes it from the text.
    monkeypatch.setattr(CharLM, "batch", dying_batch)
    while True:
        try:
            train(settings)
            break
        except Killed:
            continue
    splits = Counter(split for _, split, _ in seen)
    assert splits["train"] == 9
    assert splits["valid"] > 3
    assert splits["test"] > 1
    assert_same(folder / "cut", short_reference)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.slow
def test_cut_short_at_every_file(folder, short_reference, monkeypatch, when):
    """The process ends just before or just after each file takes its place."""
    replace = os.replace
    calls = [0, 0]  # made, and the one that ends the process

    def dying_replace(source, target):
        calls[0] += 1
        if calls[0] == calls[1] and when == "before":
            raise Killed
        replace(source, target)
        if calls[0] == calls[1]:
            raise Killed

    monkeypatch.setattr(os, "replace", dying_replace)
    for moment in count(1):
        run = folder / f"{when}_{moment}"
        settings = short_config(folder, run.name, "logger.tensorboard=false")
        calls[:] = [0, moment]
        try:
            train(settings)
            break  # there is no such moment
        except Killed:
            pass
        calls[:] = [0, -1]
        train(settings)
        plain = {**checkpoint.load(run / "checkpoints" / "last.pt"), "config": None}
        wanted = {**checkpoint.load(short_reference / "checkpoints" / "last.pt"), "config": None}
        assert untimed(plain) == untimed(wanted), f"moment {moment}"
        assert untimed(records(run)) == untimed(records(short_reference)), f"moment {moment}"
        names = sorted(path.name for path in run.rglob("*") if path.name != ".lock")
        assert not [name for name in names if name.startswith(".")], f"moment {moment} left a temporary file"
    assert moment > 12, "the configuration, four samples, checkpoints of two kinds, the summary"


def test_a_checkpoint_is_never_ahead_of_the_events(folder, monkeypatch):
    """TensorBoard writes in a thread of its own: what it has not yet written must not be in a checkpoint already."""
    run = folder / "slow_events"
    write, save = RecordWriter.write, checkpoint.save
    missing = []

    def slow_write(self, data):
        time.sleep(0.02)
        write(self, data)

    def checking_save(path, content):
        recorded = [(f"{r['split']}/loss", r["step"]) for r in records(run)]
        missing.extend(set(recorded) - set(raw_events(run)))
        save(path, content)

    monkeypatch.setattr(RecordWriter, "write", slow_write)
    monkeypatch.setattr(checkpoint, "save", checking_save)
    train(short_config(folder, run.name))
    assert not missing


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_event_file_keeps_its_whole_events(short_reference, tmp_path, share):
    run = shutil.copytree(short_reference, tmp_path / "run")
    [path] = event_files(run)
    whole = raw_events(run)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    RunDirectory(run).rewind(6)
    rest = raw_events(run)
    assert rest == [event for event in whole[: len(rest)] if event[1] <= 6]
    assert all(step <= 6 for _, step in rest)
    assert bool(rest) == (share > 0)


def test_rewinding_removes_what_is_past_the_step_and_nothing_else(short_reference, tmp_path):
    run = shutil.copytree(short_reference, tmp_path / "run")
    before, before_events = records(run), raw_events(run)
    RunDirectory(run).rewind(5)
    assert records(run) == [r for r in before if r["step"] <= 5 and r["split"] != "test"]
    assert raw_events(run) == [e for e in before_events if e[1] <= 5 and not e[0].startswith("test/")]
    assert {path.name for path in (run / "samples").iterdir()} == {"00000000.txt", "00000004.txt"}
    assert not (run / "summary.json").exists()
    assert Path(run / "checkpoints" / "last.pt").exists()


def test_one_sigterm_of_several_at_once_is_heard_and_a_later_one_acts_as_usual(monkeypatch):
    """Schedulers send it to a process, to its group, to its job; the first asks to save, and the others too."""
    clock = [0.0]
    monkeypatch.setattr("rnnlab.training.signals.perf_counter", lambda: clock[0])
    usual = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: usual.append(number))
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with stop_signals() as caught:
            for clock[0] in (0.0, 0.01, 0.9):
                signal.raise_signal(signal.SIGTERM)
            assert (caught, usual) == ([signal.SIGTERM], [])
            clock[0] = 2.0
            signal.raise_signal(signal.SIGTERM)
            assert (caught, usual) == ([signal.SIGTERM], [signal.SIGTERM])
        with stop_signals() as caught:
            signal.raise_signal(signal.SIGINT)
            assert caught == [signal.SIGINT]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal at the end of a parent")
def test_the_end_of_a_parent_is_told_once():
    """Linux would send SIGTERM for each thread of a killed parent, the last when the run writes its summary."""
    asked = ctypes.c_int()

    def when_parent_ends():
        ctypes.CDLL(None).prctl(2, ctypes.byref(asked))  # PR_GET_PDEATHSIG
        return asked.value

    try:
        end_with_parent(os.getppid())
        assert when_parent_ends() == signal.SIGTERM
        with stop_signals() as caught:
            signal.raise_signal(signal.SIGTERM)
        assert (caught, when_parent_ends()) == ([signal.SIGTERM], 0)
    finally:
        ctypes.CDLL(None).prctl(1, 0)


def test_a_process_without_its_parent_ends():
    script = (
        "from rnnlab.training.signals import end_with_parent; print('saved'); end_with_parent(-1); print('went on')"
    )
    done = subprocess.run(
        [processes.programs() / "python", "-c", script], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (143, "saved\n")


def test_a_damaged_last_checkpoint_names_the_way_out(folder, short_reference, monkeypatch):
    """Once it is deleted, the run goes on from the best one, which holds as much, and ends as if it had been whole."""
    settings, run, step_on = short_config(folder, "damaged"), folder / "damaged", Trainer.set_learning_rate

    def stop_at_eight(self):
        if self.progress.step == 7:
            raise Killed
        step_on(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "set_learning_rate", stop_at_eight)
        with pytest.raises(Killed):
            train(settings)
    last, best = run / "checkpoints" / "last.pt", run / "checkpoints" / "best.pt"
    step = checkpoint.load(best)["progress"]["step"]
    assert (step, checkpoint.load(last)["progress"]["step"]) == (4, 6)
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(InputError, match=r"last\.pt cannot be loaded .*; delete it to use best\.pt instead"):
        train(settings)
    last.unlink()
    train(settings)
    assert_same(run, short_reference)


def test_a_damaged_best_checkpoint_names_the_way_out(folder):
    run = folder / "damaged best"
    train(short_config(folder, run.name))
    best = run / "checkpoints" / "best.pt"
    best.write_bytes(b"")
    with pytest.raises(InputError, match=r"best\.pt cannot be loaded .*; delete it to use last\.pt instead"):
        evaluate_run(run, "valid")
    best.unlink()
    assert evaluate_run(run, "valid")["step"] == 9
