"""Compare an exported graph with the model that it was exported from."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from rnnlab.interface import Batch, Tokens
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.trees import map_state, tensors_of

TRIALS = ((1, 1), (2, 3), (7, 2), (19, 5))
"""Numbers of steps and sequences of the comparisons."""


def largest_difference(graph: onnx.ModelProto, model: Model, step: bool = False, seed: int = 0) -> float:
    """Return the largest difference between onnxruntime and ``model`` in float64, over outputs and final states.

    The difference to a tensor with numbers above 1 is divided by the largest of them: a state of norm 200 has a
    rounding error of 1e-5 in float32. Both start from the same random states and read the same random inputs, for
    several numbers of steps and sequences.

    Args:
        graph: the result of `rnnlab.export.graph.build`.
        model: the model, in evaluation mode, in float32 and on the CPU.
        step: whether the graph computes one time step.
        seed: seed of the random numbers.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    has_lengths = "lengths" in names
    exact = _exact(model)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for num_steps, batch_size in TRIALS:
        inputs = random_inputs(model, *([batch_size] if step else [num_steps, batch_size]), generator=generator)
        state = random_state(model, batch_size, generator) if len(names) > 1 + has_lengths else None
        lengths = torch.randint(1, num_steps + 1, (batch_size,), generator=generator) if has_lengths else None
        given = [inputs, *([lengths] if has_lengths else []), *tensors_of(state)]
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
        outputs, after = _run(exact, inputs, state, lengths, step)
        if has_lengths:  # the outputs after the end of a sequence are undefined
            over = torch.arange(num_steps).unsqueeze(1) >= lengths
            outputs[over], found[0][over.numpy()] = 0.0, 0.0
        for ours, theirs in zip([outputs, *([] if state is None else tensors_of(after))], found, strict=True):
            assert ours.shape == theirs.shape, f"shape {list(ours.shape)} became {list(theirs.shape)}"
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) / max(1.0, float(ours.abs().max())))
    return worst


def _exact(model: Model) -> Model:
    """A copy of the model in float64 that runs the plain loop."""
    exact = deepcopy(model).double()
    for layer in exact.modules():
        if isinstance(layer, Recurrent):
            layer.backend = "reference"
    return exact


@torch.no_grad()
def _run(model: Model, inputs: Tensor, state: Any, lengths: Tensor | None, step: bool) -> tuple[Tensor, Any]:
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    state = None if state is None else map_state(Tensor.double, state)
    return model.step(inputs, state) if step else model(Batch(inputs, inputs, lengths), state)


def random_inputs(model: Model, *shape: int, generator: torch.Generator) -> Tensor:
    """Random tokens, int64 ``shape``, or standard normal vectors ``[*shape, F]``."""
    if isinstance(model.input, Tokens):
        return torch.randint(model.input.size, shape, generator=generator)
    return torch.randn(*shape, model.input.size, generator=generator)


def random_state(model: Model, batch_size: int, generator: torch.Generator) -> Any:
    """A state of the model after five random steps, so that it is a possible state, and different for each sequence."""
    inputs = random_inputs(model, 5, batch_size, generator=generator)
    with torch.no_grad():
        _, state = model(Batch(inputs, inputs), model.begin(batch_size=batch_size))
    return map_state(torch.clone, state)
