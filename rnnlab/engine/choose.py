"""Select the backend of a cell: the requested backend, or the backend that was measured to be fastest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.cells.base import Native
from rnnlab.engine import fused, native, reference, scan
from rnnlab.engine.cpu import tune
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.ir.watch import fingerprint
from rnnlab.engine.once import warn_once
from rnnlab.engine.reference import precision
from rnnlab.interface import InputError
from rnnlab.trees import State, tensors_of

BACKENDS = ("auto", "reference", "fused", "scan", "native")
FEW_STEPS = 4
"""Below this number of time steps the set-up of a fused call takes longer than the steps themselves."""
MANY = 40
"""Operations of a step with matrix states from which a fused call of one step takes less time than the plain loop."""
LARGE = 2**16
"""Numbers in the states of a batch, matrices among them, from which the same holds for steps of any size. The plain
loop reads and writes the matrices several times: it takes 0.8 to 1.6 times as long with 65,536 numbers, and 1.1 to 4.8
times with 131,072 or more."""
WIDE = 256
"""Hidden size from which the compiled LSTM is faster than ``torch.nn``'s in inference, if it uses rnnlab's GEMM kernel:
0.92 to 1.25 times as fast, in most cases above 1. With a hidden size of 128 it is 0.85 to 0.98 times as fast."""

SCANNED = 8192
"""Numbers in the states of a batch up to which a scan that is not compiled is faster than the plain loop on a CPU. It
reads the states of all steps several times: it is 12 times as fast with 64 numbers, and 0.06 times with 131,072."""
PERSISTENT = 128
"""Hidden size up to which cuDNN trains an LSTM or GRU in one kernel. Such a kernel is estimated to be faster than a
kernel for every time step."""


class Choice(NamedTuple):
    """The backend of a cell.

    name: one of `BACKENDS` other than ``auto``.
    run: its function.
    reason: why it was chosen.
    follows: whether ``run`` itself detects changes of the cell, so that the choice stays valid.
    """

    name: str
    run: Callable
    reason: str
    follows: bool = False


def choose(cell: Cell, backend: str = "auto") -> Choice:
    """Select the backend of ``cell`` on the device of its parameters.

    ``auto`` follows measurements (docs/engine.md). On a CPU it selects ``fused`` if the step can be compiled, with two
    exceptions. Fewer than `FEW_STEPS` steps run in the plain loop; with matrix states only a single step does, unless
    the states are `LARGE` or the step has `MANY` operations and no gradients. An LSTM in inference without autocast
    runs as ``torch.nn.LSTM``, unless rnnlab's GEMM kernel is used, the hidden size is at least `WIDE`, and there are
    enough sequences for all threads. A cell that is linear in its state, but not compiled, runs in a scan up to
    `SCANNED` numbers. On CUDA ``auto`` follows estimates (docs/gpu.md): it selects ``fused`` if Triton compiles the
    step, except for cells of ``torch.nn`` up to `PERSISTENT` hidden units whose weights do not fit on the chip. On
    other devices it selects ``scan`` for a cell that is linear in its state, and otherwise ``reference``.

    Args:
        cell: the cell.
        backend: one of `BACKENDS`.

    Raises:
        InputError: the backend is unknown or cannot run this cell, or ``RNNLAB_GEMM`` has an unknown value.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; the choices are {', '.join(BACKENDS)}")
    tune.requested()  # reports an invalid RNNLAB_GEMM even if no matrix product is large enough to use it
    if backend == "auto":
        return _measured(cell)
    if backend == "native" and _native(cell) is None:
        raise InputError(
            f"backend 'native' cannot run {type(cell).__name__} as configured: torch.nn has no equivalent layer; "
            "'reference' can run it, and 'auto' selects the fastest backend"
        )
    if backend in ("fused", "scan") and cell.like.is_meta:
        return Choice(backend, _RUN[backend], "requested; checked at the first call with real tensors")
    if backend == "fused" and (obstacle := _obstacle(cell)):
        raise InputError(f"backend 'fused' cannot run {type(cell).__name__}: {obstacle}; 'reference' can run it")
    if backend == "scan" and (obstacle := _obstacle(cell, linear=True)):
        raise InputError(f"backend 'scan' cannot run {type(cell).__name__}: {obstacle}; 'reference' can run it")
    # `fused` traces the step again if the cell changes, and runs it in a plain loop if that is impossible.
    return Choice(backend, _RUN[backend], "requested", follows=backend in ("reference", "fused"))


def observed(cell: Cell, backend: str, inputs: Tensor) -> Callable | None:
    """Return the function that runs ``cell`` under a tracer or transform; None if none of them is active.

    The function is the plain loop, with two exceptions for cells that ``torch.nn`` has. ``native`` runs ``torch.nn``'s
    kernel. ``auto`` runs it in ``torch.jit.trace``, whose result then holds for any number of steps.

    Args:
        cell: the cell.
        backend: the requested backend.
        inputs: ``[T, B, input_size]``; see `reference.observer`.
    """
    by = reference.observer(inputs)
    if by is None:
        return None
    serves = backend == "native" or (backend == "auto" and by == "trace")
    return native.run if serves and _native(cell) is not None else reference.run


def identity(cell: Cell) -> tuple[Any, ...] | None:
    """Return a value that changes when the choice for ``cell`` may change; None if the cell has too many attributes."""
    try:
        return fingerprint(cell)
    except Unsupported:
        return None


def _measured(cell: Cell) -> Choice:
    """Select the backend for ``auto``."""
    like = cell.like
    kernel = _native(cell)
    if like.device.type == "cuda":
        return _estimated(cell, kernel)
    if like.device.type != "cpu":
        if like.device.type != "meta" and _obstacle(cell, linear=True) is None:
            return Choice("scan", scan.run, "it is linear in its state")
        return Choice("reference", reference.run, f"no faster backend is known on {like.device.type}")
    is_usual = like.dtype in (torch.float32, torch.float64)
    obstacle = _obstacle(cell)
    if obstacle is None:
        step = fused.traced(cell)
        if not is_usual or (step.heads is None and step.lowered is None):
            obstacle = "its step is not compiled"
    if obstacle is None:
        if kernel and kernel.mode == "LSTM" and not _is_wide(cell):
            reason = "its step is compiled; torch.nn's LSTM runs inference"
            return Choice("fused", _with_native, reason, follows=True)
        run = _fused if step.heads is None else partial(_fused_heads, len(step.program.nodes) >= MANY)
        return Choice("fused", run, "its step is compiled", follows=True)
    if kernel and is_usual:  # oneDNN fails in half precision on processors without the instructions for it
        return Choice("native", native.run, "torch.nn has this cell")
    if _obstacle(cell, linear=True) is None:
        return Choice("scan", _scan, "it is linear in its state")
    warn_once(f"{type(cell).__name__} runs in a plain loop, slower than the fused backend: {obstacle}")
    return Choice("reference", reference.run, obstacle)


def _estimated(cell: Cell, kernel: Native | None) -> Choice:
    """Select the backend for ``auto`` on CUDA."""
    obstacle = _obstacle(cell)
    compiled = None if obstacle else fused.traced(cell).kernel
    if compiled is not None:
        per_step = compiled.launches_per_step(precision(cell.like.device, cell.like.dtype))
        if not per_step:
            return Choice("fused", fused.run, "its step is compiled; one kernel runs all time steps", follows=True)
        if kernel is None or cell.hidden_size > PERSISTENT:
            kernels = "a kernel" if per_step == 1 else f"{per_step} kernels"
            return Choice("fused", fused.run, f"its step is compiled; {kernels} for every time step", follows=True)
        return Choice(
            "native", native.run, "its weights do not fit on the chip; cuDNN has one kernel for all time steps"
        )
    if kernel:
        return Choice("native", native.run, f"torch.nn has this cell, and {cell.like.dtype} is not compiled")
    if _obstacle(cell, linear=True) is None:
        return Choice("scan", scan.run, "it is linear in its state, and its step is not compiled")
    if obstacle is None:
        return Choice("fused", fused.run, "its step is not compiled, but its operations are recorded", follows=True)
    return Choice("reference", reference.run, obstacle)


def _native(cell: Cell) -> Native | None:
    """Return the cell's ``native()``; None if a subclass replaced the equations but not ``native``."""
    order = type(cell).__mro__

    def place(name: str) -> int:
        return -1 if name in vars(cell) else next(i for i, kind in enumerate(order) if name in vars(kind))

    return cell.native() if place("native") <= min(place("step"), place("prepare")) else None


def _obstacle(cell: Cell, linear: bool = False) -> str | None:
    """Return why ``cell`` cannot run fused, or with ``linear`` as a scan; None if it can."""
    if cell.required_context:
        return "its prepare has required arguments besides the inputs"
    try:
        step = fused.traced(cell)
        if linear:
            scan.check(step.program)
    except Unsupported as error:
        return f"its step uses {error}"
    return None


def _fused(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    way = reference if len(inputs) < FEW_STEPS else fused
    return way.run(cell, inputs, state, lengths, **context)


def _fused_heads(
    has_many: bool, cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    is_fused = len(inputs) > 1 or (has_many and not torch.is_grad_enabled()) or _numbers(state) >= LARGE
    return (fused if is_fused else reference).run(cell, inputs, state, lengths, **context)


def _numbers(state: State) -> int:
    return sum(tensor.numel() for tensor in tensors_of(state))


def _scan(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    return (scan if _numbers(state) <= SCANNED else reference).run(cell, inputs, state, lengths, **context)


def _with_native(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    if torch.is_grad_enabled() or lengths is not None or len(inputs) < FEW_STEPS:
        return _fused(cell, inputs, state, lengths, **context)
    kernel = _native(cell)  # None if the step was replaced
    has_autocast = reference.autocast_dtype(inputs.device) is not None  # `native` has no kernel for it on a CPU
    if kernel is None or kernel.mode != "LSTM" or has_autocast:
        return _fused(cell, inputs, state, lengths, **context)
    return native.run(cell, inputs, state, lengths)


def _is_wide(cell: Cell) -> bool:
    """Whether an LSTM is wide enough to be faster than ``torch.nn``'s in inference."""
    return cell.hidden_size >= WIDE and tune.prefers_own(cell.like.dtype, "step")


def backends_of(cell: Cell) -> list[str]:
    """List the backends other than ``auto`` that can run ``cell``, the reference first."""
    found = []
    for backend in BACKENDS[1:]:
        try:
            found.append(choose(cell, backend).name)
        except InputError:
            continue
    return found


__all__ = ["BACKENDS", "Choice", "backends_of", "choose", "identity", "observed"]

_RUN = {"reference": reference.run, "fused": fused.run, "scan": scan.run, "native": native.run}
