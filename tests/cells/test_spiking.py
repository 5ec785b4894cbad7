"""Steps that state a derivative of their own, against ``autograd.Function``, torch's way to state one."""

import pytest
import torch
from torch.nn.functional import linear

from rnnlab.cells import Cell, create, surrogate
from rnnlab.cells.base import input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent


class Spike(torch.autograd.Function):
    """The step function with the derivative of a fast sigmoid, as in the code that goes with the paper."""

    @staticmethod
    def forward(ctx, z, sharpness):
        ctx.save_for_backward(z)
        ctx.sharpness = sharpness
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient / (ctx.sharpness * z.abs() + 1) ** 2, None


def by_hand(cell, inputs, reset_gradient):
    i = v = torch.zeros(inputs.shape[1], cell.hidden_size, dtype=torch.float64)
    outputs = []
    alpha, beta = (torch.tensor(-1 / tau, dtype=torch.float64).exp() for tau in (5, 10))
    for x in inputs:
        s = Spike.apply(v - 1.0, 10.0)
        v = beta * v + i - (s if reset_gradient else s.detach())
        i = alpha * i + linear(x, cell.W) + linear(s, cell.U) + cell.b
        outputs.append(Spike.apply(v - 1.0, 10.0))
    return torch.stack(outputs), (i, v)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("reset_gradient", [False, True])
@pytest.mark.parametrize(("steps", "width"), [(7, 3), (100, 20)])
def test_the_gradients_are_those_of_the_surrogate(backend, reset_gradient, steps, width):
    torch.manual_seed(0)
    cell = create("lif", input_size=4, hidden_size=width, reset_gradient=reset_gradient).double()
    inputs = torch.randn(steps, 5, 4, dtype=torch.float64, requires_grad=True)
    layer = Recurrent(cell, backend)
    assert layer.choice.name == backend
    found, expected = layer(inputs), by_hand(cell, inputs, reset_gradient)
    assert 0.05 < found[0].mean() < 0.95
    leaves = [inputs, *cell.parameters()]
    weights = torch.randn_like(found[0])
    for ours, theirs in zip(
        torch.autograd.grad((weights * found[0]).sum() + found[1][1].sum(), leaves),
        torch.autograd.grad((weights * expected[0]).sum() + expected[1][1].sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize(
    ("value", "slope", "expected"),
    [
        (lambda z: z.round(), 1.0, lambda z: torch.ones_like(z)),
        (lambda z: z, -1.0, lambda z: -torch.ones_like(z)),
        (lambda z: z.sign(), lambda z: (1 - z.abs()).clamp_min(0), lambda z: (1 - z.abs()).clamp_min(0)),
    ],
)
def test_a_value_has_the_slope_that_is_stated(value, slope, expected):
    z = torch.randn(50, dtype=torch.float64, requires_grad=True)
    found = surrogate(value(z), z, slope(z) if callable(slope) else slope)
    assert torch.equal(found, value(z))
    (gradient,) = torch.autograd.grad(found.sum(), z)
    torch.testing.assert_close(gradient, expected(z.detach()), rtol=0, atol=1e-15)


class Ternary(Cell):
    """A cell whose state is -1, 0 or 1, learned straight through."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W, self.U = input_weights(1, hidden_size, input_size), recurrent_weights(1, hidden_size)

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W)

    def step(self, constants, x, state):
        z = (x + linear(state[0], constants[0])).tanh()
        h = surrogate(z.round(), z, 1.0)
        return h, (h,)


def test_a_straight_through_cell_is_compiled_and_learns():
    torch.manual_seed(0)
    layer = Recurrent(Ternary(2, 16))
    assert layer.choice.name == "fused"
    outputs, _ = layer(torch.randn(30, 8, 2))
    assert set(outputs.unique().tolist()) == {-1.0, 0.0, 1.0}
    (gradient,) = torch.autograd.grad(outputs.sum(), layer.cell.U)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["tau_synapse", "tau_membrane", "threshold", "sharpness"])
def test_constants_of_a_neuron_are_positive(name):
    with pytest.raises(InputError, match=f"{name}=0 must be positive"):
        create("lif", input_size=2, hidden_size=2, **{name: 0})
