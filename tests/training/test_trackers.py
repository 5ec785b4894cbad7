"""Weights & Biases, MLflow and Trackio have the numbers of metrics.jsonl, also after a run was killed and resumed."""

import json
import math
import struct

import pytest

from rnnlab import config
from rnnlab.interface import InputError, Metric
from rnnlab.training import train
from rnnlab.training.directory import RunDirectory
from rnnlab.training.logger import TRACKERS, Logger
from rnnlab.training.trackers import External

OPTIONS = ["task=hello", "model.hidden_size=4", "logger.progress=false", "trainer.device=cpu", "trainer.steps=40"]
OPTIONS += ["trainer.eval_every=20", "trainer.log_every=4", "trainer.checkpoint_every=10", "run_dir=run"]
EXTERNAL = [tracker.package for tracker in TRACKERS if issubclass(tracker, External)]


class Killed(Exception):
    pass


def recorded(path):
    """(step, value) of every scalar in metrics.jsonl, by SPLIT/METRIC."""
    found = {}
    for record in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()):
        split, step = record.pop("split"), record.pop("step")
        for name, value in record.items():
            if name not in ("tokens", "seconds", "by_length"):
                found.setdefault(f"{split}/{name}", []).append((step, value))
    return found


def records(data):
    """The records of a .wandb file: LevelDB's log format, with blocks of 32 KiB, after a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield record
            record = b""


def in_wandb(path, known):
    from wandb.proto.wandb_internal_pb2 import Record

    found, files = {}, sorted(path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert [file.stem for file in files] == [f"run-{known}"] * 2, "both processes wrote the same run"
    for record in (Record.FromString(data) for file in files for data in records(file.read_bytes())):
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            if "/" in name and not name.startswith("sample/"):
                found.setdefault(name, []).append((items["step"], value))
    return found, None


def in_mlflow(path, known):
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(known)
    assert run.info.run_name == path.name
    assert run.data.params["cell.name"] == "gru"
    history = {name: client.get_metric_history(known, name) for name in run.data.metrics}
    found = {name: [(metric.step, metric.value) for metric in metrics] for name, metrics in history.items()}
    return found, run.info.status


def in_trackio(path, known):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("mine")
    assert run.name == known
    assert run.config["cell.name"] == "gru"
    found = {}
    for record in SQLiteStorage.get_logs("mine", known):
        for name, value in record.items():
            if "/" in name and isinstance(value, float | int):
                found.setdefault(name, []).append((record["step"], value))
    return found, None


@pytest.mark.parametrize("package", EXTERNAL)
@pytest.mark.filterwarnings("default")  # those of the tools themselves
def test_a_tool_has_the_numbers_of_the_metrics_file(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read by the import
    pytest.importorskip(package)
    options = [*OPTIONS, f"logger={package}", "logger.tensorboard=false", "logger.project=mine"]
    written = Logger.scalars

    def killed(self, split, step, *rest):
        written(self, split, step, *rest)
        if step == 28:
            raise Killed

    monkeypatch.setattr(Logger, "scalars", killed)
    with pytest.raises(Killed):
        train(config.compose(options))
    monkeypatch.setattr(Logger, "scalars", written)
    assert train(config.compose(options))["status"] == "finished"

    known = json.loads((tmp_path / "run" / "trackers.json").read_text())[package]
    found, status = {"wandb": in_wandb, "mlflow": in_mlflow, "trackio": in_trackio}[package](tmp_path / "run", known)
    expected = recorded(tmp_path / "run")
    assert [step for step, _ in expected["train/loss"]] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert {name: sorted(values) for name, values in found.items()} == expected
    assert status in ("FINISHED", None)


class Recorder(External):
    """A tool that keeps what it is sent and fails for a chosen name."""

    package, title, install = "recorder", "Recorder", "recorder"

    def open(self, options, known):
        self.sent, self.ended = [], None
        return known or "new"

    def send(self, step, values):
        if "train/odd" in values:
            raise OSError("no route to host")
        self.sent.append((step, values))

    def end(self, status):
        self.ended = status


def with_recorder(folder):
    logger = Logger(RunDirectory(folder), {"loss": Metric("nats")}, tensorboard=False)
    recorder = Recorder(logger.directory, "mine")
    logger.trackers = [recorder]
    return logger, recorder


def test_measurements_are_sent_when_a_checkpoint_follows(tmp_path):
    logger, recorder = with_recorder(tmp_path)
    logger.begin({"seed": 3}, is_new=True)
    logger.scalars("train", 2, {"loss": 1.5}, 8, 0.1)
    assert recorder.sent == []
    logger.flush()
    assert recorder.sent == [(2, {"train/loss": 1.5})]
    logger.scalars("train", 4, {"loss": 1.0}, 16, 0.2)
    logger.close("stopped")
    assert len(recorder.sent) == 1, "the resumed run measures step 4 again"
    assert recorder.ended == "stopped"

    logger, recorder = with_recorder(tmp_path)
    logger.begin({"seed": 3}, is_new=False)
    logger.scalars("train", 4, {"loss": math.nan}, 16, 0.2)
    logger.close("diverged")
    assert [step for step, _ in recorder.sent] == [4]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"recorder": "new"}


def test_a_tool_that_fails_is_reported_once_and_training_continues(tmp_path, caplog):
    logger, recorder = with_recorder(tmp_path)
    logger.begin({}, is_new=True)
    for step, name in enumerate(["odd", "odd", "loss"]):
        logger.scalars("train", step, {name: 1.0}, 8, 0.1)
    logger.close("finished")
    assert recorder.sent == [(2, {"train/loss": 1.0})]
    assert caplog.text.count("Recorder did not take a measurement (no route to host); training continues") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_tool_that_cannot_start_is_an_error_of_one_sentence(tmp_path, monkeypatch):
    def unavailable(self, options, known):
        raise ConnectionError("no account")

    monkeypatch.setattr(Recorder, "open", unavailable)
    logger, _ = with_recorder(tmp_path)
    with pytest.raises(InputError, match=r"logger\.recorder=true: Recorder cannot be started: no account"):
        logger.begin({}, is_new=True)
    logger.close()


@pytest.mark.parametrize("package", EXTERNAL)
def test_a_missing_package_names_the_extra(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=rf"logger\.{package}=true needs .* pip install 'rnnlab\[{package}\]'"):
        train(config.compose([*OPTIONS, f"logger={package}"]))


def test_several_tools_at_once():
    chosen = config.compose([*OPTIONS, "logger=[wandb,mlflow]", "logger.diagnostics=true"])["logger"]
    switched = {name for name, value in chosen.items() if value is True}
    assert switched == {"tensorboard", "wandb", "mlflow", "diagnostics"}
