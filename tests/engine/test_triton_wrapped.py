"""Resets, states of all steps and elapsed times as Triton kernels, which Triton's interpreter runs without a GPU."""

import copy

import pytest
import torch
from tiers import quick_if

from rnnlab import cells
from rnnlab.layers import Recurrent
from rnnlab.trees import tensors_of

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning")
T, B, F, H = 5, 4, 3, 6


def results_of(layer, inputs, context):
    outputs, final, states = layer.trajectory(inputs, None, torch.tensor([5, 2, 4, 3]), **context)
    tensors = [outputs, *tensors_of((final, states))]
    draw = torch.Generator().manual_seed(3)
    loss = sum((tensor * torch.randn(tensor.shape, generator=draw).to(tensor)).sum() for tensor in tensors)
    return [*tensors, *torch.autograd.grad(loss, list(layer.parameters()))]


@pytest.mark.parametrize("columns", quick_if([0, 16], (0).__eq__))
@pytest.mark.parametrize("name", quick_if(["gru", "lstm", "cfc"], "cfc".__eq__))
def test_kernels_compute_what_the_plain_loop_computes(kernels, name, columns):
    kernels.columns = columns
    torch.manual_seed(0)
    layer = Recurrent(cells.create(name, input_size=F, hidden_size=H), "fused", "learned")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    inputs, fresh = torch.randn(T, B, F), torch.rand(T, B) < 0.4
    context = {"fresh": fresh} | ({"elapsed": 2 * torch.rand(T, B)} if name == "cfc" else {})
    kernels.calls.clear()
    found = results_of(layer, inputs, context)
    assert kernels.calls == ["forward", "backward"]
    layer = copy.deepcopy(layer).double()
    layer.backend = "reference"
    expected = results_of(layer, inputs.double(), context)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
