"""The chunkwise mLSTM that the benchmark measures computes what the cell computes."""

import importlib.util
from pathlib import Path

import pytest
import torch

from rnnlab import cells
from rnnlab.engine import reference


def _benchmark():
    path = Path(__file__).parents[2] / "scripts" / "benchmark_heads.py"
    spec = importlib.util.spec_from_file_location("benchmark_heads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_chunks_equal_steps_in_outputs_state_and_gradients(forget_gate):
    torch.manual_seed(3)
    chunkwise = _benchmark().chunkwise
    cell = cells.create("mlstm", input_size=3, hidden_size=8, heads=2, forget_gate=forget_gate).double()
    torch.nn.init.normal_(cell.W_gates)
    inputs = torch.randn(12, 2, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        _, state = reference.run(cell, inputs, cell.initial_state(2))
    state = tuple(part.clone().requires_grad_() for part in state)
    gradient = torch.randn(12, 2, 8, dtype=torch.float64)

    def everything(run):
        outputs, (C, n, m) = run(inputs, state)
        scale = m.exp()  # C' and n' depend on the choice of m
        leaves = [inputs, *state[:2], *cell.parameters()]
        return [
            outputs,
            C * scale[..., None, None],
            n * scale[..., None],
            *torch.autograd.grad(outputs, leaves, gradient),
        ]

    expected = everything(lambda x, s: reference.run(cell, x, s))
    for size in (1, 3, 4, 12):
        found = everything(lambda x, s, size=size: chunkwise(cell, x, s, size))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
