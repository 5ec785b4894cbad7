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


def imported(folder, *arguments):
    """The top-level and heavy modules that a command imports."""
    script = (
        "import sys\nfrom rnnlab.__main__ import main\n"
        f"code = main({list(arguments)!r})\nprint()\nprint(*sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("command", "others"),
    [
        (["evaluate", "RUN", "split=train"], ("hydra", "omegaconf", "tensorboard")),
        pytest.param(["generate", "RUN", "length=4"], ("hydra", "omegaconf", "tensorboard"), marks=pytest.mark.slow),
        (
            ["train", *TINY[:1], *TINY[2:], "logger.tensorboard=false", "budget.parameters=2052"],
            ("tensorboard",),
        ),
        (["evaluate", "--help"], ("torch", "hydra", "omegaconf", "numpy")),
    ],
    ids=lambda given: " ".join(given[:1]),
)
def test_a_command_imports_nothing_heavy_that_it_does_not_use(run, command, others, tmp_path):
    assert imported(tmp_path, *(argument.replace("RUN", str(run)) for argument in command)).isdisjoint(
        {*HEAVY, *others}
    )


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
