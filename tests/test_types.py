"""Pyright finds no error in the public API, whose files `pyproject.toml` lists."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _check(*files):
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    return found["summary"]["filesAnalyzed"], [
        f"{one['file']}:{one['range']['start']['line'] + 1}: {one['message']}" for one in found["generalDiagnostics"]
    ]


@pytest.mark.slow
def test_the_public_interface_has_no_type_errors():
    pytest.importorskip("pyright")
    analysed, problems = _check()
    assert analysed > 30
    assert not problems


@pytest.mark.slow
def test_a_script_of_a_user_is_checked(tmp_path):
    """The types of the package are seen from outside: a wrong argument is found, right ones are not."""
    pytest.importorskip("pyright")
    script = tmp_path / "script.py"
    script.write_text(
        "from torch import Tensor, nn, randn\n"
        "from rnnlab import cells, weights\n"
        "from rnnlab.layers import Recurrent, Stack, to_torch\n"
        "stack: Stack = weights.read(nn.GRU(3, 4))\n"
        "outputs: Tensor = stack(randn(5, 2, 3))[0]\n"
        "module: nn.RNNBase = to_torch(stack)\n"
        "layer = Recurrent(cells.create('lstm', input_size=3, hidden_size=4))\n"
        "layer = Recurrent('lstm')\n"
    )
    _, problems = _check(script)
    assert len(problems) == 1
    assert "script.py:8" in problems[0]
