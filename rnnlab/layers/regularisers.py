"""Regularisers: each wraps a cell and is itself a cell, so the engine runs it like any other.

``prepare`` draws the masks once per sequence, in training mode only. In evaluation mode a regularised cell computes the
plain cell or, for zoneout, the expected update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError
from rnnlab.layers.reads import MaskedReads, reads_by_products
from rnnlab.layers.wrapped import Wrapped, name_of
from rnnlab.trees import State, map_state, tensors_of


class VariationalDropout(Wrapped):
    """Dropout with one mask for all steps of a sequence (Gal and Ghahramani, 2016, arXiv:1512.05287).

    Kept units are scaled by 1 / (1 - rate).

    ``recurrent`` drops units of the first state, h, where a matrix product of the step reads h, and nowhere else. A GRU
    computes U (m ⊙ h) in its gates, U_n (r ⊙ m ⊙ h) with ``reset="before"``, and carries z ⊙ h. All products use the
    same mask m. The following are not masked: other states (c of an LSTM), elementwise products (a peephole, u ⊙ h of
    IndRNN), and operations other than torch's matrix products, such as a ``torch.autograd.Function``.

    Args:
        cell: the cell.
        inputs: dropout rate of the input features.
        recurrent: dropout rate of the units of h.
        outputs: dropout rate of the output features.

    Raises:
        InputError: a rate is not in [0, 1); or ``recurrent`` is above 0, and no matrix product that reads h contributes
            to the next state, or the cell's matrix must preserve the norm of h.
    """

    def __init__(self, cell: Cell, inputs: float = 0.0, recurrent: float = 0.0, outputs: float = 0.0) -> None:
        super().__init__(cell)
        self.inputs = _check_rate("input_dropout", inputs)
        self.recurrent = _check_rate("recurrent_dropout", recurrent)
        self.outputs = _check_rate("output_dropout", outputs)
        if self.recurrent:
            _check_norm("recurrent_dropout", recurrent, cell)
            if not cell.required_context and not reads_by_products(cell):
                _refuse(
                    f"recurrent_dropout={recurrent} has nothing to drop: {name_of(cell)} has no recurrent matrix "
                    f"that reads its state {cell.states[0]}; use input_dropout, output_dropout or zoneout"
                )

    def prepare(self, inputs: Tensor, **context: Any) -> tuple[Any, Any]:
        """Drop features of the inputs, and draw the masks of state and output."""
        batch_size = inputs.shape[1]
        first = tensors_of(self.cell.initial_state(batch_size))[0]
        output = inputs.new_ones(batch_size, self.output_size)
        inputs = inputs * dropout(torch.ones_like(inputs[0]), self.inputs, self.training)
        constants, prepared = self.cell(inputs, **context)
        if not self.training:
            return (constants,), prepared
        masks = dropout(torch.ones_like(first), self.recurrent), dropout(output, self.outputs)
        return (constants, *masks), prepared

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        inner, *masks = constants
        if not masks:
            return self.cell.step(inner, inputs, state)
        recurrent, outputs = masks
        with MaskedReads(tensors_of(state)[0], recurrent) if self.recurrent else nullcontext():
            output, new = self.cell.step(inner, inputs, state)
        return output * outputs if self.outputs else output, new


class Zoneout(Wrapped):
    """Zoneout (Krueger et al., 2017, arXiv:1606.01305, equations 2 to 4): units randomly keep their previous state.

        s_t = d_t ⊙ s_{t-1} + (1 - d_t) ⊙ s̃_t        d_t drawn for every unit and step, 1 with probability z

    In evaluation mode d_t is z. If the output of the cell is one of its states, the output is the state after zoneout.

    Args:
        cell: the cell.
        rates: z, one rate for each state, or one rate for all states.

    Raises:
        InputError: a rate is not in [0, 1), the number of rates is wrong, or the cell drops outputs, so that its output
            is not a state.
    """

    def __init__(self, cell: Cell, rates: Sequence[float]) -> None:
        super().__init__(cell)
        count = len(tensors_of(cell.initial_state(1)))
        if isinstance(rates, int | float):
            raise InputError(f"zoneout={rates} must be a list, such as [{rates}] for all states")
        if isinstance(cell, VariationalDropout) and cell.outputs:
            raise InputError(
                f"Zoneout around VariationalDropout(outputs={cell.outputs}) would not reach the output; "
                "put Zoneout inside: VariationalDropout(Zoneout(cell, rates), outputs=...)"
            )
        rates = tuple(_check_rate("zoneout", rate) for rate in rates)
        if len(rates) not in (1, count):
            raise InputError(
                f"zoneout={list(rates)} must have one rate, or {count} for the states {', '.join(cell.states)}"
            )
        self.rates = rates * count if len(rates) == 1 else rates

    def prepare(self, inputs: Tensor, **context: Any) -> tuple[Any, Any]:
        """Draw a mask for each state and step."""
        constants, prepared = self.cell(inputs, **context)
        if not self.training:
            return constants, (prepared,)
        first = tensors_of(self.cell.initial_state(inputs.shape[1]))
        draws = zip(first, self.rates, strict=True)
        return constants, (prepared, *(_bernoulli(len(inputs), like, rate) for like, rate in draws))

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        prepared, *masks = inputs
        output, new = self.cell.step(constants, prepared, state)
        keeps = iter(masks or self.rates)
        mixed = map_state(lambda before, after: _mix(next(keeps), before, after), state, new)
        pairs = zip(tensors_of(new), tensors_of(mixed), strict=True)
        return next((after for before, after in pairs if before is output), output), mixed


class WeightDrop(Wrapped):
    """Dropout of recurrent weights, one mask for a whole sequence and batch (Merity et al., 2018, arXiv:1708.02182).

    It applies to all learned matrices that ``prepare`` passes to the steps. Kept weights are scaled by 1 / (1 - share).

    Args:
        cell: the cell.
        share: dropout rate of the weights.

    Raises:
        InputError: the rate is not in [0, 1), the cell has no recurrent matrix, or its matrix must preserve the norm of
            the state.
    """

    def __init__(self, cell: Cell, share: float) -> None:
        super().__init__(cell)
        self.share = _check_rate("weight_drop", share)
        _check_norm("weight_drop", share, cell)
        if cell.required_context:  # only the caller of the layer has these arguments
            return
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            constants, _ = cell(cell.like.new_zeros(1, 1, cell.input_size))
        if not any(_is_learned_matrix(tensor) for tensor in tensors_of(constants)):
            raise InputError(f"weight_drop={share} has nothing to drop: {name_of(cell)} has no recurrent matrix")

    def prepare(self, inputs: Tensor, **context: Any) -> tuple[Any, Any]:
        """Drop weights."""
        constants, prepared = self.cell(inputs, **context)
        return map_state(self._drop, constants), prepared

    def _drop(self, tensor: Tensor) -> Tensor:
        return dropout(tensor, self.share, self.training) if _is_learned_matrix(tensor) else tensor


def regularise(
    cell: Cell,
    *,
    weight_drop: float = 0.0,
    input_dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    output_dropout: float = 0.0,
    zoneout: Sequence[float] = (0.0,),
) -> Cell:
    """Return the cell, wrapped in the regularisers whose rate is above 0.

    The options are those of `WeightDrop`, `VariationalDropout` and `Zoneout`. The order from the inside is weight drop,
    zoneout, dropout: output dropout applies to the state after zoneout.
    """
    if weight_drop:
        cell = WeightDrop(cell, weight_drop)
    if any(zoneout):
        cell = Zoneout(cell, zoneout)
    if input_dropout or recurrent_dropout or output_dropout:
        cell = VariationalDropout(cell, input_dropout, recurrent_dropout, output_dropout)
    return cell


def _is_learned_matrix(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.requires_grad


_REFUSES: ContextVar[bool] = ContextVar("refuses", default=True)


@contextmanager
def as_trained() -> Iterator[None]:
    """Return a context that allows dropout that new runs do not allow, for checkpoints of earlier versions.

    Earlier versions allowed ``recurrent_dropout`` for cells without a recurrent matrix, where it has no effect, and for
    cells whose state it makes explode. Such runs can still be evaluated and resumed.
    """
    token = _REFUSES.set(False)
    try:
        yield
    finally:
        _REFUSES.reset(token)


def _refuse(sentence: str) -> None:
    if _REFUSES.get():
        raise InputError(sentence)


def _check_norm(name: str, share: float, cell: Cell) -> None:
    if share and cell.keeps_norm:
        _refuse(
            f"{name}={share} would make the state of {name_of(cell)} explode, because its recurrent matrix must "
            "preserve the norm of the state; use a bounded activation (cell.activation=tanh), input_dropout or "
            "output_dropout"
        )


def _check_rate(name: str, share: float) -> float:
    if not 0 <= share < 1:
        raise InputError(f"{name}={share} must be at least 0 and below 1")
    return share


def _bernoulli(steps: int, like: Tensor, rate: float) -> Tensor:
    """Return ones with probability ``rate``, and zeros otherwise, ``[steps, *like.shape]``.

    Each number uses sixteen random bits, so ``rate`` is rounded to a multiple of 1/65536 below 1. This takes a third of
    the time of ``torch.bernoulli``.
    """
    count = steps * like.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    chosen = bits.view(torch.int16)[:count] < min(round(rate * 2**16), 2**16 - 1) - 2**15
    return chosen.to(like.dtype).view(steps, *like.shape)


def _mix(keep: Tensor | float, before: Tensor, after: Tensor) -> Tensor:
    return keep * before + (1 - keep) * after
