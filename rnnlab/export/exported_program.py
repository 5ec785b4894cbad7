"""Export a model with ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.export.parts import Part
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent
from rnnlab.trees import State, map_state, nested, tensors_of


def build(part: Part, steps: int = 0) -> torch.export.ExportedProgram:
    """Return a part of a model as an exported program with dynamic numbers of steps and sequences.

    Args:
        part: the part, of a model in evaluation mode, on the CPU, with ``backend=reference``.
        steps: number of time steps of a program with an unrolled loop; 0 for a loop over any number of steps.

    Raises:
        InputError: torch cannot export the model; the message gives its reason.
    """
    given = tuple(part.examples(steps or 5, 3, torch.Generator().manual_seed(0)))
    axes = {size: torch.export.Dim(size, min=1) for size in ("batch", *([] if steps else ["time"]))}
    shapes = tuple({i: axes[size] for i, size in enumerate(port.shape) if size in axes} for port in part.given)
    dynamic: Any = {"inputs": shapes[0], "others": shapes[1:]}
    is_one_step = all("time" not in port.shape for port in part.given)
    run_layers = nullcontext() if steps or is_one_step else _scanned(part)
    try:
        # torch warns about its own interfaces; if it fails, it logs and prints the graph.
        with warnings.catch_warnings(action="ignore"), redirect_stderr(StringIO()), _without_logs(), run_layers:
            return torch.export.export(part.eval(), given, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # torch.export raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"torch.export cannot export the model: {type(error).__name__}: {reason}") from error


@contextmanager
def _scanned(part: Part) -> Iterator[None]:
    """A context in which `_scan` runs all recurrent layers."""
    with ExitStack() as stack:
        for layer in part.modules():
            if isinstance(layer, Recurrent):
                stack.enter_context(layer.run_by(_scan))
        yield


def _scan(cell: Cell, inputs: Tensor, state: State, lengths: None, **context: Any) -> tuple[Tensor, State]:
    """Run a cell as one operation over time, so that the number of steps stays variable; a backend of a layer.

    PyTorch requires that no tensor of the loop shares the memory of another one.
    """
    from torch._higher_order_ops.scan import scan  # imports torch's compiler, which takes seconds

    constants, prepared, state = map_state(torch.clone, (*cell(inputs, **context), state))

    def step(before: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        output, after = cell.step(constants, nested(prepared, inputs), nested(state, before))
        return [tensor.clone() for tensor in tensors_of(after)], output.clone()

    final, outputs = scan(step, tensors_of(state), tensors_of(prepared))
    return outputs, nested(state, final)


@contextmanager
def _without_logs() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
