"""The package as a user gets it: the wheel, installed, in a folder where there is no checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RNNLAB"))}
TINY = ["task=hello", "model.hidden_size=8", "trainer.steps=20", "trainer.eval_every=10", "logger.tensorboard=false"]
CELL = '''
from torch.nn.functional import linear

from rnnlab.cells import Cell
from rnnlab.cells.base import input_weights, recurrent_weights


class Leaky(Cell):
    """h_t = decay h_{t-1} + tanh(W x_t + U h_{t-1})."""

    def __init__(self, input_size: int, hidden_size: int, *, decay: float = 0.5) -> None:
        super().__init__(input_size, hidden_size)
        self.decay = decay
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)

    def prepare(self, inputs):
        return self.U, linear(inputs, self.W)

    def step(self, U, x, state):
        (h,) = state
        h = self.decay * h + (x + linear(h, U)).tanh()
        return h, (h,)
'''
TASK = '''
import torch

from rnnlab.interface import Batch, Metric, Tokens
from rnnlab.outputs import categorical_loss
from rnnlab.tasks import Task


class Repeat(Task):
    """Say what is heard."""

    metrics = {"loss": Metric("nats per symbol")}

    def __init__(self, seed: int = 0, data_root: str = "data", *, symbols: int = 4) -> None:
        super().__init__(seed, data_root)
        self.input, self.output_size = Tokens(symbols), symbols

    def num_batches(self, split):
        return 2

    def batch(self, split, step):
        inputs = torch.randint(self.output_size, (5, 8), generator=self.generator(split, step))
        return Batch(inputs, inputs)

    def loss(self, outputs, batch):
        return categorical_loss(outputs, batch.targets)
'''
FILES = {
    "my_cells.py": CELL,
    "my_tasks.py": TASK,
    "conf/task/repeat.yaml": "# Say what is heard.\nname: repeat\nclass: my_tasks:Repeat\nsymbols: 3\n",
    "presets/cell/slow.yaml": "# Forgets slowly.\nname: slow\nclass: my_cells:Leaky\ndecay: 0.75\n",
}


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: building leaves folders behind, which must not lie in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".git", *ignored))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip("wheel", *options, "--wheel-dir", folder, folder / "source")
    [wheel] = folder.glob("rnnlab-*.whl")
    shutil.rmtree(folder / "source")  # nothing may need it any more
    return wheel


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of the programs of a new environment with the wheel, and with the suite's other packages."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=120)
    python = place / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # The suite's packages come after the environment's own. Files *.pth among them, such as the one by which an
    # editable rnnlab is found, are not read there. Only now, as pip would see the suite's rnnlab too.
    [packages] = place.glob("lib/python*/site-packages")
    suite = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "suite.pth").write_text("\n".join(suite))
    return python.parent


@pytest.fixture(scope="module")
def command(programs):
    """A function that runs the installed command in a folder, and returns what it printed."""

    def run(folder, *arguments):
        arguments = [programs / "rnnlab", *arguments]
        done = subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def folder(tmp_path):
    """A user's folder, with a cell, a task and configurations of their own."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def read(path):
    return json.loads(path.read_text())


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rnnlab").rglob("*.py")}
    choices = {f"rnnlab/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert {"rnnlab/conf/config.yaml", "rnnlab/conf/model/gru.yaml"} <= choices
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rnnlab" / "engine" / "cpu" / "c").iterdir()}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "rnnlab" / "report").glob("page.*")}
    assert {"rnnlab/engine/cpu/c/step.h", "rnnlab/report/page.css", "rnnlab/report/page.js"} <= sources
    sources.add("rnnlab/py.typed")
    held = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(held) == sorted({"rnnlab/conf/__init__.py", *modules, *choices, *sources})


@pytest.mark.slow
def test_it_is_the_installed_package_that_runs(programs, tmp_path):
    code = "import rnnlab, rnnlab.conf, torch; print(rnnlab.__file__, rnnlab.conf.__file__, torch.__file__, sep='\\n')"
    command = [programs / "python", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    *ours, torch = [Path(line) for line in done.stdout.splitlines()]
    assert len(ours) == 2, done.stderr
    assert all(path.is_relative_to(programs.parent) for path in ours)
    assert not torch.is_relative_to(programs.parent)


@pytest.mark.slow
def test_help_and_cells(command, folder):
    said = command(folder, "--help")
    assert "rnnlab generate run=DIR " in said
    for name, remark in {"gru": "", "hello": "Minimal example", "repeat": "Say what is heard"}.items():
        assert re.search(rf"\n  {name} +{remark}", said)
    listed = command(folder, "cells")
    assert listed.startswith("family")
    assert all(f"  {name} " in listed for name in ("rnn", "lstm", "gru"))


@pytest.mark.slow
def test_the_first_example(command, folder):
    command(folder, "train", "experiment=hello", "run_dir=hello")
    summary = read(folder / "hello" / "summary.json")
    assert (summary["status"], summary["steps"], summary["parameters"]) == ("finished", 300, 33)
    assert command(folder, "generate", "run=hello", "prompt=h", "length=4", "temperature=0") == "hello\n"
    measured = json.loads(command(folder, "evaluate", "run=hello", "split=train"))
    assert measured == {"split": "train", **summary["best"], "baselines": summary["baselines"]["train"]}


@pytest.mark.slow
def test_a_sweep_does_not_train_again_what_is_done(command, folder):
    sweep = ["train", "-m", *TINY, "cell=rnn", "seed=0,1"]
    said = command(folder, *sweep)
    assert said.count(": finished at step 20") == 2
    runs = sorted((folder / "runs" / "hello").iterdir())
    assert [yaml.safe_load((run / "config.yaml").read_text())["seed"] for run in runs] == [0, 1]
    written = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    said = command(folder, *sweep)
    assert said.count("the run has already ended (finished at step 20) and is not trained again") == 2
    assert {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")} == written


@pytest.mark.slow
def test_stopped_with_a_cell_of_ones_own_and_taken_up_again(command, programs, folder):
    train = [
        "train",
        *TINY,
        "cell=my_cells:Leaky",
        "trainer.steps=800",
        "trainer.log_every=10",
        "trainer.eval_every=100",
        "run_dir=own",
    ]
    metrics = folder / "own" / "metrics.jsonl"
    process = subprocess.Popen(
        [programs / "rnnlab", *train], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():  # it trains: signals are waited for
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    stopped = read(folder / "own" / "summary.json")
    assert process.returncode == 128 + signal.SIGTERM, said
    assert stopped["status"] == "stopped"
    assert 0 < stopped["steps"] < 800

    assert f"resuming at step {stopped['steps']} of 800" in command(folder, *train)
    assert read(folder / "own" / "summary.json")["status"] == "finished"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"] == list(range(10, 801, 10))
    # The cell is found again by whatever loads the run, here in another process.
    said = command(folder, "generate", "run=own", "prompt=h", "length=4", "temperature=0")
    assert said.startswith("h")
    assert len(said) == len("hello\n")


@pytest.mark.slow
def test_a_task_and_configurations_of_ones_own(command, folder):
    """The task's file lies in conf/ of the working folder, the cell's in a folder that --config-dir names."""
    options = ["task=repeat", "cell=slow", "model.hidden_size=8", "trainer.steps=20", "run_dir=own"]
    options += ["task.symbols=5", "logger.tensorboard=false"]
    command(folder, "train", "--config-dir", "presets", *options)
    config = yaml.safe_load((folder / "own" / "config.yaml").read_text())
    assert config["task"] == {"name": "repeat", "class": "my_tasks:Repeat", "symbols": 5}
    assert config["cell"] == {"name": "slow", "class": "my_cells:Leaky", "decay": 0.75}
    measured = json.loads(command(folder, "evaluate", "run=own", "split=test"))
    assert measured == {"split": "test", **read(folder / "own" / "summary.json")["test"], "baselines": {}}
