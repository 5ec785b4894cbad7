"""Jacobians, Lyapunov exponents and memory compared with analytic cases, autograd and finite differences."""

from math import log

import pytest
import tiers
import torch
from outside.shapes import Elementwise
from torch import nn
from torch.nn.functional import linear

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.diagnostics import follow, half_life, influence, lyapunov_exponents, spectrum, step_jacobian
from rnnlab.diagnostics.jacobian import flatten, state_size, unflatten
from rnnlab.interface import InputError
from rnnlab.trees import map_state, tensors_of

F, H, B, T = 3, 4, 2, 6


@pytest.fixture(autouse=True)
def precise():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Linear(Cell):
    """h_t = A h_{t-1} + x_t."""

    def __init__(self, A):
        super().__init__(len(A), len(A))
        self.A = nn.Parameter(A)

    def prepare(self, inputs):
        return self.A, inputs

    def step(self, A, x, state):
        h = linear(state[0], A) + x
        return h, (h,)


class Mixed(Cell):
    """A cell whose state is a nested tuple: a complex vector, a matrix, an integer and a real number per sequence."""

    states = ("z", "M", "count", "v")

    def __init__(self):
        super().__init__(H, H)
        self.w = nn.Parameter(torch.randn(H))

    def initial_state(self, batch_size):
        z = torch.zeros(batch_size, H, dtype=torch.complex128)
        M = self.w.new_zeros(batch_size, 2, 2)
        return z, (M, torch.zeros(batch_size, dtype=torch.int64)), self.w.new_zeros(batch_size)

    def prepare(self, inputs):
        return self.w, inputs

    def step(self, w, x, state):
        z, (M, count), v = state
        z = 0.9j * z + torch.complex(x, w * x) * (1 + v.unsqueeze(-1))
        M = (M + z.real[:, :2, None] * z.imag[:, None, :2]).tanh()
        v = (v + M.sum((1, 2))).sin()
        return z.real * v.unsqueeze(-1), (z, (M, count + 1), v)


def by_autograd(trajectory, step):
    """Compute the step Jacobian row by row with backward passes."""
    leaves = [tensor.detach().clone() for tensor in tensors_of(trajectory.before[step])]
    for leaf in leaves:
        leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex())
    continuous = [leaf for leaf in leaves if leaf.requires_grad]
    again = iter(leaves)
    state = map_state(lambda _: next(again), trajectory.before[step])
    constants, inputs = trajectory.prepared()
    after = flatten(trajectory.cell.step(constants, inputs[step], state)[1])
    rows = []
    for number in range(after.shape[1]):
        grads = torch.autograd.grad(
            after[:, number].sum(), continuous, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(flatten(tuple(grads)))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("name", tiers.core(cells.available()))
def test_the_step_jacobian_of_every_cell_equals_autograd(name):
    cell = cells.create(name, input_size=F, hidden_size=H).eval()
    trajectory = follow(cell, torch.randn(T, B, F))
    torch.testing.assert_close(step_jacobian(trajectory, 2), by_autograd(trajectory, 2))
    assert lyapunov_exponents(trajectory, count=2).shape == (2, B)
    assert influence(trajectory).shape == (T + 1,)
    assert spectrum(trajectory, points=1).radius.shape == (1, B)


def test_a_nested_state_is_flattened_to_one_real_vector_and_restored():
    trajectory = follow(Mixed(), torch.randn(T, B, H))
    assert state_size(trajectory) == 2 * H + 4 + 1
    state = trajectory.after[-1]
    again = unflatten(flatten(state), state)
    assert all(map(torch.equal, tensors_of(again), tensors_of(state)))
    torch.testing.assert_close(step_jacobian(trajectory, 3), by_autograd(trajectory, 3))


def test_the_step_jacobian_equals_finite_differences():
    cell = cells.create("lstm", input_size=F, hidden_size=H)
    trajectory = follow(cell, torch.randn(T, 1, F))
    constants, inputs = trajectory.prepared()
    at, size = flatten(trajectory.before[3]), 1e-6

    def after(vector):
        return flatten(cell.step(constants, inputs[3], unflatten(vector, trajectory.before[3]))[1])

    columns = [(after(at + size * unit) - after(at - size * unit)) / (2 * size) for unit in torch.eye(2 * H)]
    torch.testing.assert_close(step_jacobian(trajectory, 3)[0], torch.cat(columns).t(), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("a", [0.5, 0.97, 1.3])
def test_a_scalar_linear_cell(a):
    trajectory = follow(Linear(torch.tensor([[a]])), torch.randn(20, B, 1))
    torch.testing.assert_close(lyapunov_exponents(trajectory), torch.full((1, B), log(a)))
    left = influence(trajectory, skip=4)
    torch.testing.assert_close(left, a ** torch.arange(17.0))
    assert half_life(left) == (pytest.approx(log(2) / abs(log(a))) if a == 0.5 else None)
    if a < 1:
        assert half_life(a ** torch.arange(100.0)) == pytest.approx(log(2) / abs(log(a)))


def test_exponents_of_a_linear_cell_are_the_logarithms_of_its_eigenvalues():
    basis = torch.randn(H, H)
    A = basis @ torch.diag(torch.tensor([1.1, 0.9, 0.5, 0.2])) @ basis.inverse()
    trajectory = follow(Linear(A), torch.randn(200, 1, H))
    exponents = lyapunov_exponents(trajectory, count=H, skip=60)
    torch.testing.assert_close(exponents[:, 0], torch.tensor([1.1, 0.9, 0.5, 0.2]).log(), atol=1e-6, rtol=0)
    found = spectrum(trajectory, points=3)
    torch.testing.assert_close(found.radius, torch.full((3, 1), 1.1))
    torch.testing.assert_close(found.singular[0, 0], torch.linalg.svdvals(A))
    # The influence after k steps is the Frobenius norm of A^k, divided by that of H unit directions.
    k = 5
    expected = torch.linalg.matrix_norm(torch.linalg.matrix_power(A, k)) / H**0.5
    torch.testing.assert_close(influence(trajectory)[k], expected)


def test_an_orthogonal_cell_preserves_every_perturbation():
    cell = cells.create("orthogonal", input_size=F, hidden_size=H, activation="relu")
    A = cell.prepare(torch.zeros(1, 1, F))[0]
    matrix = next(tensor for tensor in tensors_of(A) if tensor.dim() == 2)
    trajectory = follow(Linear(matrix.detach()), torch.randn(30, B, H))
    torch.testing.assert_close(spectrum(trajectory).singular, torch.ones(8, B, H))
    torch.testing.assert_close(lyapunov_exponents(trajectory), torch.zeros(H, B))
    torch.testing.assert_close(influence(trajectory), torch.ones(31))
    assert half_life(influence(trajectory)) is None


def test_the_sum_of_exponents_is_the_log_determinant():
    """For any cell, the sum of all exponents is the logarithm of the determinant of the product of Jacobians."""
    cell = cells.create("gru", input_size=F, hidden_size=H)
    trajectory = follow(cell, torch.randn(T, B, F))
    product = torch.eye(H).expand(B, H, H)
    for step in range(T):
        product = step_jacobian(trajectory, step) @ product
    torch.testing.assert_close(T * lyapunov_exponents(trajectory, H).sum(0), product.det().abs().log())
    torch.testing.assert_close(influence(trajectory)[-1], (product.square().sum((1, 2)).mean() / H).sqrt())


def test_random_directions_estimate_the_exact_influence():
    cell = cells.create("gru", input_size=F, hidden_size=32)
    trajectory = follow(cell, torch.randn(T, B, F))
    exact, guess = influence(trajectory), influence(trajectory, directions=16)
    torch.testing.assert_close(guess, exact, rtol=0.15, atol=0)
    torch.testing.assert_close(influence(trajectory, directions=16), guess, rtol=0, atol=0)  # the directions are fixed


def test_exponents_are_nan_for_infinite_states_and_minus_infinity_for_forgotten_ones():
    blown = follow(Elementwise(lambda x, h, v: h * float("inf")), torch.randn(3, B, 4))
    assert spectrum(blown).singular.isnan().all()
    assert lyapunov_exponents(blown).isnan().all()
    assert half_life(influence(blown)) is None
    blank = follow(Elementwise(lambda x, h, v: x + 0 * h), torch.randn(3, B, 4))
    assert lyapunov_exponents(blank).isneginf().all()
    assert half_life(influence(blank)) == 1.0


def test_the_global_random_generator_is_unchanged():
    trajectory = follow(cells.create("lstm", input_size=F, hidden_size=H), torch.randn(T, B, F))
    before = torch.get_rng_state()
    lyapunov_exponents(trajectory)
    influence(trajectory, directions=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: lyapunov_exponents(t, skip=T), f"skip={T} must be at least 0 and less than {T}"),
        (lambda t: influence(t, skip=-1), "skip=-1 must be at least 0"),
        (lambda t: lyapunov_exponents(t, count=0), "count=0 must be at least 1"),
        (lambda t: step_jacobian(t, T), f"step={T} must be between 0 and {T - 1}"),
        (lambda t: follow(t.cell, torch.zeros(T, B, F + 1)), f"the cell expects [T, B, {F}]"),
    ],
)
def test_invalid_arguments_are_refused(call, says):
    trajectory = follow(cells.create("rnn", input_size=F, hidden_size=H), torch.randn(T, B, F))
    with pytest.raises(InputError) as error:
        call(trajectory)
    assert says in str(error.value)
