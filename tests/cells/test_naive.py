"""Every cell against its paper's equations, written out once more over single numbers."""

import importlib
import pkgutil
from types import SimpleNamespace

import naive
import pytest
import tiers
import torch

from rnnlab import cells, engine
from rnnlab.layers import Recurrent
from rnnlab.trees import map_state, tensors_of

CASES = {
    name: case
    for module in pkgutil.iter_modules(naive.__path__)
    for name, case in importlib.import_module(f"naive.{module.name}").CASES.items()
}
STEPS, BATCH, INPUT, HIDDEN = 6, 2, 3, 4
OLD = {"rnn", "lstm", "gru"}  # test_equations.py has these


def make(name):
    """The cell of a case, in float64, its parameters drawn such that none is zero and every term shows."""
    kind, options, _ = CASES[name]
    torch.manual_seed(0)
    cell = cells.create(kind, input_size=INPUT, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return cell.eval()


def by_hand(name, cell, inputs, state):
    """The equations run over every sequence by itself: outputs and final states."""
    tensors = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    lists = {key.replace(".", "_"): tensor.tolist() for key, tensor in tensors.items()}
    absent = {key: None for key in {**vars(cell), **cell._parameters} if getattr(cell, key, 0) is None}
    p = SimpleNamespace(cell=cell, **lists, **absent)
    outputs, final = [], []
    for row in range(BATCH):
        now = [part[row].tolist() for part in tensors_of(state)]
        outputs.append([])
        for x in inputs[:, row].tolist():
            output, now = CASES[name][2](p, x, now)
            outputs[-1].append(output)
        final.append(now)
    states = [torch.tensor(part, dtype=torch.float64) for part in zip(*final, strict=True)]
    return torch.tensor(outputs, dtype=torch.float64).transpose(0, 1), states


FIRST = list({kind: name for name, (kind, _, _) in reversed(CASES.items())}.values())
"""Of every cell one case, which runs on every backend in the quick tier too."""
ALL = [("reference", name) for name in CASES] + [("others", name) for name in CASES]


@pytest.mark.parametrize(
    ("backends", "name"), tiers.quick_if(ALL, lambda case: case[0] == "reference" or case[1] in FIRST)
)
def test_the_cell_computes_the_equations(backends, name):
    cell = make(name)
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    state = map_state(lambda tensor: tensor + 0.5 * torch.rand_like(tensor), cell.initial_state(BATCH))
    expected, states = by_hand(name, cell, inputs, state)
    chosen = [backend for backend in engine.backends_of(cell) if (backend == "reference") == (backends == "reference")]
    if not chosen:
        pytest.skip("only the reference runs this cell")
    for backend in chosen:
        outputs, final = Recurrent(cell, backend)(inputs, state)
        for ours, theirs in zip([outputs, *tensors_of(final)], [expected, *states], strict=True):
            # Sums of some ten float64 terms over six steps: off by some 1e-15 of the largest number. A term that is
            # missing or misplaced shows at 1e-2.
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max().clamp_min(1), backend


def test_every_cell_has_its_equations():
    assert {kind for kind, _, _ in CASES.values()} == set(cells.available()) - OLD
