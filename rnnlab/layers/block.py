"""A residual block around a recurrent layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout, gelu

from rnnlab.cells.base import Cell, check_choice
from rnnlab.interface import InputError
from rnnlab.layers.convolution import ShortConvolution
from rnnlab.layers.gate import gated
from rnnlab.layers.linear import Linear
from rnnlab.layers.norms import NORMS
from rnnlab.layers.recurrent import Recurrent
from rnnlab.layers.stack import Composite, Stack
from rnnlab.trees import State


class MLP(nn.Module):
    """A multilayer perceptron with one hidden layer, without biases.

        swiglu:  W_down (SiLU(W_gate x) ⊙ W_up x)     (Shazeer, 2020, arXiv:2002.05202)
        gelu:    W_down GELU(W_up x)

    Args:
        kind: ``swiglu`` or ``gelu``.
        width: features of inputs and outputs.
        expansion: width of the hidden layer divided by ``width``; the product is rounded.
    """

    def __init__(self, kind: str, width: int, expansion: float) -> None:
        super().__init__()
        hidden = max(1, round(expansion * width))
        self.gate = Linear(width, hidden, bias=False) if check_choice("mlp", kind, MLPS) == "swiglu" else None
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[..., width]`` to ``[..., width]``."""
        up = self.up(inputs)
        return self.down(gelu(up) if self.gate is None else gated(self.gate(inputs), up))


class _Alone(Recurrent):
    """A layer in a stack whose context is for another layer."""

    def _context(self, context: dict[str, Any], *arguments: Any) -> dict[str, Any]:
        return super()._context({}, *arguments)


class Block(Composite):
    """A pre-norm residual block with the interface of a layer; its state is that of the convolution and the cell.

        u = norm(x)
        y = x + W_o (SiLU(W_g u) ⊙ cell(conv(u)))
        z = y + MLP(norm(y))

    Args:
        cell: the cell; its input size is the width of the block.
        backend: one of `rnnlab.engine.BACKENDS`, for the cell. The convolution is not a cell of ``torch.nn``: it runs
            on ``reference`` if that is requested, and otherwise on the backend of ``auto``.
        initial_state: ``zero`` or ``learned``, for the cell.
        norm: ``layer`` (Ba, Kiros and Hinton, 2016, arXiv:1607.06450) or ``rms`` (Zhang and Sennrich, 2019,
            arXiv:1910.07467).
        convolution: kernel size of a `ShortConvolution` of the cell's inputs; 0 for none.
        gate: whether the cell's outputs are multiplied by SiLU(W_g u).
        mlp: ``swiglu`` or ``gelu``; see `MLP`.
        expansion: width of the hidden layer of the MLP divided by the width of the block; 0 for no MLP.
        dropout: dropout rate of both branches before they are added.
        zero_init: whether both branches start at zero, so that the block starts as the identity.

    Raises:
        InputError: an option is not valid.
    """

    def __init__(
        self,
        cell: Cell,
        backend: str = "auto",
        *,
        initial_state: str = "zero",
        norm: str = "rms",
        convolution: int = 0,
        gate: bool = True,
        mlp: str = "swiglu",
        expansion: float = 2.0,
        dropout: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        make_norm = NORMS[check_choice("norm", norm, tuple(NORMS))]
        check_choice("mlp", mlp, MLPS)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} must be at least 0 and below 1")
        if expansion < 0:
            raise InputError(f"expansion={expansion} must be positive, or 0 for no MLP")
        width, self.dropout = cell.input_size, dropout
        layers = [Recurrent(cell, backend, initial_state)]
        if convolution:
            own = "reference" if backend == "reference" else "auto"
            layers.insert(0, _Alone(ShortConvolution(width, convolution), own))
        self.norm = make_norm(width)
        self.recurrence = Stack(layers)
        self.gate = Linear(width, cell.output_size, bias=False) if gate else None
        self.project = Linear(cell.output_size, width, bias=False)
        self.mlp_norm = make_norm(width) if expansion else None
        self.mlp = MLP(mlp, width, expansion) if expansion else None
        if zero_init:
            for last in (self.project, *([] if self.mlp is None else [self.mlp.down])):
                nn.init.zeros_(last.weight)

    @property
    def output_size(self) -> int:
        """Number of output features."""
        return self.project.out_features

    def initial_state(self, batch_size: int) -> State:
        """Return the states of convolution and cell before the first step."""
        return self.recurrence.initial_state(batch_size)

    def run(
        self, call: Callable, inputs: Tensor, state: State | None, lengths: Tensor | None, context: dict[str, Any]
    ) -> tuple[Tensor, State, State]:
        """Run convolution and cell on inputs ``[T, B, width]``; outputs in the padding are undefined."""
        normed = self.norm(inputs)
        hidden, after, *of_steps = call(self.recurrence, normed, state, lengths, **context)
        if self.gate is not None:
            hidden = gated(self.gate(normed), hidden)
        outputs = inputs + dropout(self.project(hidden), self.dropout, self.training)
        if self.mlp is not None and self.mlp_norm is not None:
            outputs = outputs + dropout(self.mlp(self.mlp_norm(outputs)), self.dropout, self.training)
        return outputs, after, of_steps[0] if of_steps else ()


MLPS = ("swiglu", "gelu")
"""Kinds of `MLP`."""
