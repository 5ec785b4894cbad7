"""The orthogonal network: U is orthogonal, stays so, and is the one of other implementations."""

import pickle
from math import pi

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rnnlab import cells
from rnnlab.cells.orthogonal.orthogonal import exponential
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

INPUT, HIDDEN = 5, 7
CLOSE = {"rtol": 0, "atol": 1e-12}


def _make(hidden_size=HIDDEN, **options):
    torch.manual_seed(0)
    return cells.create("orthogonal", input_size=INPUT, hidden_size=hidden_size, **options).double()


def _assert_orthogonal(cell):
    U = cell.recurrent_matrix().detach()
    torch.testing.assert_close(U @ U.t(), torch.eye(len(U), dtype=U.dtype), **CLOSE)
    torch.testing.assert_close(torch.linalg.det(U), torch.tensor((-1.0) ** cell.rho, dtype=U.dtype), **CLOSE)


@pytest.mark.parametrize("hidden_size", [1, 2, 7, 64])
@pytest.mark.parametrize("init", ["henaff", "cayley", "identity"])
@pytest.mark.parametrize(("way", "rho"), [("matrix_exp", 0), ("matrix_exp", 1), ("cayley", 0), ("cayley", 1)])
def test_the_recurrent_matrix_is_orthogonal_and_stays_so(way, rho, init, hidden_size):
    cell = _make(hidden_size, map=way, rho=rho, recurrent_init=init)
    _assert_orthogonal(cell)
    before = cell.recurrent_matrix().detach()
    optimizer = torch.optim.Adam(cell.parameters(), lr=0.1)
    for _ in range(3):
        outputs, _ = Recurrent(cell)(torch.randn(6, 3, INPUT, dtype=torch.float64))
        outputs.pow(3).mean().backward()
        optimizer.step()
        _assert_orthogonal(cell)
    if hidden_size > 1:
        assert (cell.recurrent_matrix() - before).abs().max() > 0.01


@pytest.mark.parametrize("way", ["matrix_exp", "cayley"])
@pytest.mark.parametrize(("init", "low", "high"), [("henaff", 0.0, pi), ("cayley", 0.0, pi / 2)])
def test_the_first_matrix_turns_planes_by_the_angles_of_its_paper(way, init, low, high):
    U = _make(1001, map=way, recurrent_init=init).recurrent_matrix().detach()
    planes = [U[k : k + 2, k : k + 2] for k in range(0, 1000, 2)]
    torch.testing.assert_close(torch.block_diag(*planes, torch.ones(1, 1, dtype=U.dtype)), U, **CLOSE)
    angles = torch.stack([plane[0, 0] for plane in planes]).clamp(-1, 1).acos().sort().values  # of cos, so at least 0
    uniform = torch.linspace(low, high, 500, dtype=U.dtype)
    # The largest difference of 500 uniform draws from their distribution passes 0.07 in one of 70 cases; the seed is
    # set.
    assert (angles - uniform).abs().max() / (high - low) < 0.07


def test_the_maps_are_those_of_torch():
    # torch takes A from below the diagonal, and A/2 with the other sign for the Cayley map.
    for way, factor in (("matrix_exp", -1.0), ("cayley", 2.0)):
        cell = _make(map=way)
        nn.init.normal_(cell.U_skew, std=0.7)
        row, column = torch.triu_indices(HIDDEN, HIDDEN, 1)
        peer = nn.Linear(HIDDEN, HIDDEN, bias=False).double()
        parametrizations.orthogonal(peer, orthogonal_map=way, use_trivialization=False)
        with torch.no_grad():
            original = peer.parametrizations.weight.original.zero_()
            original[column, row] = factor * cell.U_skew
        torch.testing.assert_close(cell.recurrent_matrix(), peer.weight, **CLOSE)


@pytest.mark.parametrize("way", ["matrix_exp", "cayley"])
def test_it_is_the_network_of_the_authors(way):
    # Their rows are multiplied from the right, h B, with B = exp(A) or (I + A)⁻¹ (I - A): U is Bᵀ, and their A is -A.
    cell = _make(map=way)
    nn.init.normal_(cell.U_skew, std=0.7)
    nn.init.normal_(cell.b)
    raw = torch.zeros(HIDDEN, HIDDEN, dtype=torch.float64)
    raw[tuple(torch.triu_indices(HIDDEN, HIDDEN, 1))] = -cell.U_skew.detach()
    A, eye = raw.triu(1) - raw.triu(1).t(), torch.eye(HIDDEN, dtype=torch.float64)
    B = torch.linalg.matrix_exp(A) if way == "matrix_exp" else torch.inverse(eye + A) @ (eye - A)
    inputs = torch.randn(6, 3, INPUT, dtype=torch.float64)
    h = torch.zeros(3, HIDDEN, dtype=torch.float64)
    expected = []
    for x in inputs:
        z = x @ cell.W.t() + h @ B
        h = torch.sign(z) * torch.relu(torch.abs(z) + cell.b)
        expected.append(h)
    torch.testing.assert_close(Recurrent(cell)(inputs)[0], torch.stack(expected), **CLOSE)


def test_gradients_neither_vanish_nor_explode_over_a_thousand_steps():
    # Where no modReLU cuts, the Jacobian of every step is U, and the gradient keeps its length.
    cell = _make(64)
    nn.init.zeros_(cell.b)
    state = (torch.randn(3, 64, dtype=torch.float64, requires_grad=True),)
    outputs, _ = Recurrent(cell)(torch.zeros(1000, 3, INPUT, dtype=torch.float64), state)
    direction = torch.randn(3, 64, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((outputs[-1] * direction).sum(), state)
    torch.testing.assert_close(gradient.norm(dim=1), direction.norm(dim=1), rtol=1e-10, atol=0)


def test_it_can_be_pickled():
    cell = _make(map="cayley", rho=2)
    inputs = torch.randn(4, 2, INPUT, dtype=torch.float64)
    assert torch.equal(Recurrent(pickle.loads(pickle.dumps(cell)))(inputs)[0], Recurrent(cell)(inputs)[0])


def test_a_diagonal_with_more_entries_than_it_has_is_refused():
    with pytest.raises(InputError, match="rho=8"):
        _make(rho=8)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.3, 1.0, 5.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_exponential_is_torch_s(scale, dtype):
    torch.manual_seed(0)
    A = torch.randn(9, 9, dtype=torch.float64)
    A = (scale * (A - A.t()) / 4).requires_grad_()
    upstream = torch.randn(9, 9, dtype=torch.float64)
    expected = [A.matrix_exp(), *torch.autograd.grad(A.matrix_exp(), A, upstream)]
    given = A.detach().to(dtype).requires_grad_()
    U = exponential(given)
    found = [U, *torch.autograd.grad(U, given, upstream.to(dtype))]
    # Rounding grows with the number of squarings, six at most here.
    tolerance = 64 * torch.finfo(dtype).eps * max(1.0, scale)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_a_matrix_that_is_no_number_has_an_exponential_that_is_none():
    assert exponential(torch.full((3, 3), torch.nan)).isnan().all()
    assert not exponential(torch.full((3, 3), torch.inf)).isfinite().any()
