"""Check the kernels of a step against the step in Python on the device where they will run, on random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine import arrays
from rnnlab.engine.ir import loop
from rnnlab.engine.ir.emit_python import Steps
from rnnlab.engine.ir.verify import compare, random_like

STEPS = 3
TOLERANCES = {"ieee": 1e-3, "tf32": 1e-2, "bf16": 0.1, "fp16": 0.03}
"""Largest allowed error relative to a tensor's largest magnitude, by precision."""


def prove(
    kernel: Any,
    steps: Steps,
    constants: Sequence[Tensor],
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
    precision: str,
) -> None:
    """Compare the results of a kernel over three time steps with those of the step in Python.

    Args:
        kernel: the kernels of a step, for training or for inference.
        steps: the step and its backward step in Python.
        constants: the constants of the step.
        inputs: the inputs of one step; only shapes and dtypes matter, the values are drawn at random.
        state: the state before the step, likewise.
        precision: the precision of matrix products, see `rnnlab.engine.gpu.kernel.Kernel`.

    Raises:
        Unsupported: the results differ.
    """
    draw, tolerance = torch.Generator().manual_seed(0), TOLERANCES[precision]
    training, lowered = "forward" in kernel.arrays, kernel.lowered
    name = "forward" if training else "inference"
    with torch.no_grad():
        constants = [arrays.ready(tensor.detach(), kernel.dtype) for tensor in constants]
        prepared = [torch.stack([random_like(tensor, draw).detach() for _ in range(STEPS)]) for tensor in inputs]
        state = [random_like(tensor, draw).detach() for tensor in state]
        memory = arrays.forward_memory(kernel, name, prepared, state, [False] * len(prepared))
        kernel.call(name, memory, constants, STEPS, None, precision)
        ours = arrays.results(kernel, memory, STEPS, None, [tensor.shape for tensor in state])
        outputs, final, kept = loop.forward(steps, constants, prepared, state, None)
        compare(ours, [outputs, *final], "the results differ", tolerance)
        if not training:
            return
        upstream = [random_like(tensor, draw) for tensor in ours]
        read = [prepared[i] for i in lowered.kept_inputs]
        arrays.add_backward_memory(kernel, memory, read, upstream[0], upstream[1:], keep=False)
        kernel.call("backward", memory, constants, STEPS, None, precision)
        shapes = [tensor.shape for tensor in prepared]
        found, _ = arrays.gradients(kernel, memory, constants, shapes, precision)
        found += [memory[array][0].reshape(one.shape) for array, one in zip(lowered.carries, state, strict=True)]
        truth = loop.backward(steps, constants, prepared, kept, None, upstream[0], tuple(upstream[1:]))
        pairs = [pair for pair in zip(found, truth, strict=True) if None not in (pair[0], pair[1])]
        compare(*zip(*pairs, strict=True), "the gradients differ", tolerance)
