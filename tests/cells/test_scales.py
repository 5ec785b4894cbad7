"""Inputs and gates of any size: outputs and gradients are finite in float32, and near those of float64."""

from copy import deepcopy

import pytest
import tiers
import torch
from torch import nn
from torch.nn.functional import layer_norm, linear

from rnnlab import cells
from rnnlab.layers import Recurrent

T, B, F, H = 12, 3, 4, 8


def make(name, **options):
    """A cell none of whose parameters is zero, so that every gate follows the inputs."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=F, hidden_size=H, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.5 * torch.randn_like(parameter) / (parameter.shape[-1] if parameter.dim() > 1 else 1) ** 0.5
    return cell


def results(cell, inputs, dtype, backend="reference"):
    """Outputs, and the gradients of inputs and parameters, in float64."""
    inputs = inputs.to(dtype).requires_grad_()
    layer = Recurrent(deepcopy(cell).to(dtype), backend)
    outputs, _ = layer(inputs)
    gradients = torch.autograd.grad(outputs.sum(), [inputs, *layer.parameters()])
    return outputs.detach().double(), torch.cat([gradient.double().flatten() for gradient in gradients])


def errors(cell, inputs, backend="reference"):
    """The largest difference of outputs and of gradients, as a share of the largest magnitude or of 1."""
    found, truth = (results(cell, inputs, dtype, backend) for dtype in (torch.float32, torch.float64))
    assert all(part.isfinite().all() for part in (*found, *truth))
    pairs = zip(found, truth, strict=True)
    return [float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)) for ours, theirs in pairs]


@pytest.mark.parametrize("name", tiers.core(cells.available()))
def test_inputs_of_any_scale(name):
    inputs = torch.randn(T, B, F, generator=torch.Generator().manual_seed(1))
    for scale in (1e-3, 1.0, 1e2, 1e4):
        outputs, gradients = errors(make(name), scale * inputs)
        assert outputs < 1e-3, scale
        # A sum of 1e4 is rounded to 1e-3, and so may be a gate that happens to be half open.
        assert gradients < (1e-3 if scale < 1e4 else float("inf")), scale


@pytest.mark.parametrize(
    "name", tiers.core(name for name in cells.available() if cells.find(name).gates or name == "mlstm")
)
def test_gates_that_are_open_or_closed_as_far_as_can_be(name):
    inputs = torch.randn(5, B, F, generator=torch.Generator().manual_seed(1))
    cell = make(name)
    bias = cell.b_gates if name == "mlstm" else cell.b
    for gate in range(2 if name == "mlstm" else len(cell.gates)):
        for shift in (-1000.0, -95.0, 95.0, 1000.0):
            shifted = deepcopy(cell)
            target = shifted.b_gates if name == "mlstm" else shifted.b
            target.data.view(-1, len(bias) // (2 if name == "mlstm" else len(cell.gates)))[gate] += shift
            # A sum of 1000 is rounded to 6e-5, of which the quotient of mlstm makes a hundred times as much.
            assert max(errors(shifted, inputs)) < 3e-2, (gate, shift)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("name", ["slstm", "mlstm", "rglru"])
def test_closed_input_gates_on_every_backend(name, backend):
    inputs = torch.randn(5, B, F, generator=torch.Generator().manual_seed(1))
    cell = make(name)
    gates = cell.b_gates if name == "mlstm" else cell.b
    gates.data[: H if name != "mlstm" else 1] -= 200
    assert max(errors(cell, inputs, backend)) < 1e-3


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("shift", [-1e4, -88.0, 0.0, 88.0, 1e4])
def test_the_first_output_of_slstm_does_not_depend_on_its_input_gate(forget_gate, shift):
    """c / n is z after one step, whatever is written with."""
    cell = make("slstm", forget_gate=forget_gate)
    cell.b.data[:H] += shift
    inputs = torch.randn(1, B, F)
    _, _, z, o = (linear(inputs[0], cell.W) + cell.b).chunk(4, dim=-1)
    torch.testing.assert_close(Recurrent(cell, "reference")(inputs)[0][0], o.sigmoid() * z.tanh())


@pytest.mark.parametrize("shift", [0.0, 200.0, 1e4])
def test_the_first_output_of_mlstm_is_the_value_by_the_sign_of_its_match(shift):
    """C q / |n q| is v (k q) / |k q| after one step, where i |k q| is above 1; and nothing is read without a query."""
    cell = make("mlstm", forget_gate="exp")
    cell.b_gates.data[0] += 50
    cell.b_gates.data[1] += shift  # of the forget gate, which has nothing to forget
    inputs = torch.randn(1, B, F)
    q, k, v, o = (linear(inputs[0], cell.W) + cell.b).chunk(4, dim=-1)
    expected = o.sigmoid() * v * (k * q).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(Recurrent(cell, "reference")(inputs)[0][0], expected, rtol=1e-4, atol=1e-5)
    cell.W.data[:H], cell.b.data[:H] = 0, 0
    cell.b_gates.data[0] += 1000
    assert not Recurrent(cell, "reference")(inputs)[0].any()


def test_the_norm_of_hgrn_has_torch_s_eps():
    cell = make("hgrn").double()
    re, im = (1e-3 * torch.randn(B, H, dtype=torch.float64) for _ in range(2))
    constants, prepared = cell.prepare(torch.zeros(1, B, F, dtype=torch.float64))
    output, (re, im) = cell.step(constants, tuple(part[0] for part in prepared), (re, im))
    y = layer_norm(torch.cat([re, im], -1), (2 * H,), cell.norm_gain, cell.norm_bias)
    gate = nn.functional.silu(prepared[3][0])
    torch.testing.assert_close(output, linear(gate * y, cell.V, cell.b_y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", tiers.core(cells.available()))
def test_half_precision_has_finite_gradients(name):
    """Also past the end of a sequence, where inputs and gradients are zero."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=F, hidden_size=H)
    inputs, lengths = torch.randn(6, B, F), torch.tensor([6, 2, 4])
    truth = Recurrent(cell, "reference")(inputs, None, lengths)[0].detach()
    for dtype in (torch.bfloat16, torch.float16):
        layer = Recurrent(deepcopy(cell).to(dtype))
        outputs, _ = layer(inputs.to(dtype), None, lengths)
        outputs.float().square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters()), dtype
        assert float((outputs.detach().float() - truth).abs().max() / truth.abs().max()) < 0.15, dtype
