"""Choose how a cell is run: the backend that was asked for, or the one that was measured to be fastest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.cells.base import Native
from rnnlab.engine import fused, native, reference, scan
from rnnlab.engine.cpu import tune
from rnnlab.engine.cpu.kernel import row_shares
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.ir.watch import fingerprint
from rnnlab.engine.once import warn_once
from rnnlab.interface import InputError, State

BACKENDS = ("auto", "reference", "fused", "scan", "native")
FEW_STEPS = 4
"""With fewer steps than this, preparing a fused call takes longer than the steps."""
WIDE = 256
"""Where matrix products are our own, an LSTM of this width or more is faster without gradients than ``torch.nn``'s,
1.05 to 1.1 times; with a width of 128 it is 0.85 to 0.98."""


class Choice(NamedTuple):
    """The way chosen for a cell: its name, its function, and why it was chosen.

    ``follows`` says whether the function itself follows changes of the cell, so that the choice stands.
    """

    name: str
    run: Callable
    reason: str
    follows: bool = False


def choose(cell: Cell, backend: str = "auto") -> Choice:
    """How to run ``cell`` where its parameters are now.

    ``auto`` goes by what was measured (docs/engine.md). On a CPU it is ``fused`` where that is compiled, but the plain
    loop for fewer than `FEW_STEPS` steps, and ``torch.nn``'s LSTM for an LSTM that needs no gradient; where matrix
    products are our own (`rnnlab.engine.cpu.gemm`) only below a width of `WIDE` or for fewer sequences than threads can
    share. Elsewhere, where nothing was measured, it is ``native`` where the cell has it, then ``scan`` where it is
    linear in its state, then on CUDA ``fused`` where that can run it, then ``reference``.

    Args:
        cell: the cell.
        backend: one of `BACKENDS`.

    Raises:
        InputError: there is no such backend, or it cannot run this cell.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; the choices are {', '.join(BACKENDS)}")
    tune.requested()  # a mistake in it is reported even if no product is large enough to need it
    if backend == "auto":
        return _measured(cell)
    if backend == "native" and _native(cell) is None:
        raise InputError(
            f"backend 'native' cannot run {type(cell).__name__} as configured, torch.nn has no such layer; "
            "'reference' can, and 'auto' picks what is fastest"
        )
    if backend in ("fused", "scan") and cell.like.is_meta:
        return Choice(backend, _RUN[backend], "asked for; whether it can is seen once there are numbers")
    if backend == "fused" and (obstacle := _obstacle(cell)):
        raise InputError(f"backend 'fused' cannot run {type(cell).__name__}, {obstacle}; 'reference' can")
    if backend == "scan" and (obstacle := _obstacle(cell, linear=True)):
        raise InputError(f"backend 'scan' cannot run {type(cell).__name__}, {obstacle}; 'reference' can")
    return Choice(backend, _RUN[backend], "asked for")


def observed(cell: Cell, backend: str, inputs: Tensor) -> Callable | None:
    """How to run ``cell`` while something looks at every operation (`reference.observer`); None while nothing does.

    As its equations are written, or by ``torch.nn``'s kernel where that was asked for or where it serves better: under
    autocast on a GPU, and in a trace, which then holds for any number of steps.
    """
    by = reference.observer(inputs)
    if by is None:
        return None
    serves = backend == "native" or (backend == "auto" and (by == "trace" or (by == "autocast" and inputs.is_cuda)))
    return native.run if serves and _native(cell) is not None else reference.run


def identity(cell: Cell) -> tuple[Any, ...] | None:
    """What a choice for ``cell`` rests on, to be compared; None for a cell that holds too much to look at."""
    try:
        return fingerprint(cell)
    except Unsupported:
        return None


def _measured(cell: Cell) -> Choice:
    """The choice of ``auto``."""
    like = cell.like
    kernel = _native(cell)
    if like.device.type != "cpu":
        unmeasured = f"; on {like.device.type} nothing was measured"
        if kernel and like.device.type == "cuda":
            return Choice("native", native.run, f"torch.nn has this cell{unmeasured}")
        if like.device.type != "meta" and _obstacle(cell, linear=True) is None:
            return Choice("scan", scan.run, f"it is linear in its state{unmeasured}")
        if like.device.type == "cuda" and _obstacle(cell) is None:
            return Choice("fused", _fused, f"its step can be compiled{unmeasured}")
        return Choice("reference", reference.run, f"no faster way is known on {like.device.type}")
    is_usual = like.dtype in (torch.float32, torch.float64)
    obstacle = _obstacle(cell)
    if obstacle is None and (not is_usual or fused.traced(cell).lowered is None):
        obstacle = "its step is not compiled"
    if obstacle is None:
        if kernel and kernel.mode == "LSTM":
            few = "for few sequences " if _is_wide(cell) else ""
            reason = f"its step is compiled; torch.nn's LSTM {few}where no gradient is needed"
            return Choice("fused", _with_native, reason)
        return Choice("fused", _fused, "its step is compiled", follows=True)
    if kernel and is_usual:  # oneDNN fails in half precision on processors without the instructions for it
        return Choice("native", native.run, "torch.nn has this cell")
    if _obstacle(cell, linear=True) is None:
        return Choice("scan", scan.run, "it is linear in its state")
    warn_once(f"{type(cell).__name__} runs as a plain loop, slower than a fused one: {obstacle}")
    return Choice("reference", reference.run, obstacle)


def _native(cell: Cell) -> Native | None:
    """What the cell says that ``torch.nn`` has, unless its equations were replaced without it, by a subclass say."""
    order = type(cell).__mro__

    def place(name: str) -> int:
        return -1 if name in vars(cell) else next(i for i, kind in enumerate(order) if name in vars(kind))

    return cell.native() if place("native") <= min(place("step"), place("prepare")) else None


def _obstacle(cell: Cell, linear: bool = False) -> str | None:
    """Why ``cell`` cannot be fused, or, ``linear``, scanned; None where it can."""
    parameters = list(inspect.signature(cell.prepare).parameters.values())
    named = [p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(parameter.default is parameter.empty for parameter in named):
        return "its prepare takes more than the inputs"
    try:
        step = fused.traced(cell)
        if linear:
            scan.check(step.program)
    except Unsupported as error:
        return f"its step does {error}"
    return None


def _fused(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    way = reference if len(inputs) < FEW_STEPS else fused
    return way.run(cell, inputs, state, lengths, **context)


def _with_native(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    shared = row_shares(inputs.shape[1]) == torch.get_num_threads()
    is_short = len(inputs) < FEW_STEPS
    if (shared and _is_wide(cell)) or torch.is_grad_enabled() or lengths is not None or is_short:
        return _fused(cell, inputs, state, lengths, **context)
    return native.run(cell, inputs, state, lengths)


def _is_wide(cell: Cell) -> bool:
    """Whether most of an LSTM's time without gradients is products of our own."""
    return cell.hidden_size >= WIDE and tune.prefers_own(cell.like.dtype, "step")


def backends_of(cell: Cell) -> list[str]:
    """The backends, other than ``auto``, that can run ``cell``; the reference first."""
    found = []
    for backend in BACKENDS[1:]:
        try:
            found.append(choose(cell, backend).name)
        except InputError:
            continue
    return found


__all__ = ["BACKENDS", "Choice", "backends_of", "choose", "identity", "observed"]

_RUN = {"reference": reference.run, "fused": fused.run, "scan": scan.run, "native": native.run}
