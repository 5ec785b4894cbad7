"""Commands start quickly: they import what they use. Tested by the modules imported, not by time."""

import subprocess
import sys

import pytest

from rnnlab import config
from rnnlab.training import train

TINY = ["task=hello", "model.hidden_size=4", "trainer.steps=4", "trainer.eval_every=2", "logger.progress=false"]
HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "scipy",
    "pandas",
    "matplotlib",
    "sklearn",
    "jax",
    "onnx",
    "IPython",
)
"""Modules that take a tenth of a second or more, and that none of the commands below needs."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "run"
    train(config.compose([*TINY, "logger.tensorboard=false", f"run_dir={folder}"]))
    return folder


def imported(folder, commands):
    """The modules that are there after each of several commands, run one after the other in one process."""
    script = (
        "import sys\nfrom rnnlab.__main__ import main\n"
        f"for arguments in {commands!r}:\n    assert main(arguments) == 0\n"
        "    print()\n    print('modules', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines() if line.startswith("modules ")]


def test_a_command_imports_nothing_heavy_that_it_does_not_use(run, tmp_path):
    """Those that need the least come first: what they do not import is not there because of another."""
    commands = {
        ("evaluate", "--help"): {"torch", "hydra", "omegaconf", "numpy"},
        ("evaluate", str(run), "split=train"): {"hydra", "omegaconf", "tensorboard"},
        ("generate", str(run), "length=4"): {"hydra", "omegaconf", "tensorboard"},
        ("train", *TINY[:1], *TINY[2:], "logger.tensorboard=false", "budget.parameters=2052"): {"tensorboard"},
    }
    found = imported(tmp_path, [list(command) for command in commands])
    for (command, unused), modules in zip(commands.items(), found, strict=True):
        assert modules.isdisjoint({*HEAVY, *unused}), command
        assert "rnnlab" in modules


@pytest.mark.slow
def test_a_program_that_compiles_has_its_compiler(tmp_path):
    """The stand-in for the compiler's module is gone after a run."""
    script = (
        "import torch\nfrom rnnlab import config\nfrom rnnlab.training import train\n"
        f"train(config.compose({[*TINY, 'logger.tensorboard=false', 'run_dir=new']!r}))\n"
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item(), torch._dynamo.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("2.0 /")
