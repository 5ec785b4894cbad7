"""A device without hardware: its tensors lie in the memory of the CPU, and operations that wait for it are counted.

PyTorch reserves one device type for backends from outside, PrivateUse1; here it is called ``sim``. Its tensors are
plain `torch.Tensor` objects on ``sim:0``, so autograd, modules, optimizers and checkpoints treat them as on a GPU. Each
operation runs on the CPU, in the same memory. As on a GPU, an operation that mixes the devices fails, and an operation
whose result the host needs stops it until the device has finished all its work: `WAITS` records these.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import backend_registration
from torch.utils.dlpack import DLDeviceType

from rnnlab.trees import map_state, tensors_of

NAME = "sim"
aten = torch.ops.aten


class Wait(NamedTuple):
    """A wait of the host for the device.

    phase: innermost `phase` in which it waited.
    operation: the operation, or the kind of copy.
    place: the lines of rnnlab that led to it, the innermost first.
    """

    phase: str
    operation: str
    place: str


WAITS: list[Wait] = []
"""All waits since the list was cleared."""
_phases = ["none"]


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Record waits within this context under ``name``."""
    _phases.append(name)
    try:
        yield
    finally:
        _phases.pop()


def waits(phase: str) -> Counter[str]:
    """The number of waits of a phase, by operation."""
    return Counter(wait.operation for wait in WAITS if wait.phase == phase)


def places(phase: str) -> str:
    """Where a phase waited, for the message of a failed test."""
    return "\n\n".join(
        {wait.operation: f"{wait.operation}\n{wait.place}" for wait in WAITS if wait.phase == phase}.values()
    )


class Recorder:
    """Stands in for `rnnlab.engine.gpu.graphs.CudaGraphs`: calls a recorded function again, in the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self, function: Any) -> tuple[Any, Any]:
        """Return the results of a function, and a function that computes them again."""
        function()
        results = function()

        def replay() -> None:
            for mine, new in zip(tensors_of(results), tensors_of(map_state(torch.clone, function())), strict=True):
                mine.copy_(new)

        return results, replay

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do nothing: there are no streams."""
        yield

    def wait(self) -> None:
        """Do nothing: all functions have run."""


_LIBRARIES: list[torch.library.Library] = []
"""Kept, since a library withdraws its kernels when it is collected."""


if not hasattr(backend_registration, "_DummyBackendModule"):
    pytest.skip("this version of PyTorch has no device to simulate", allow_module_level=True)


class _Module(backend_registration._DummyBackendModule):
    """``torch.sim``: the properties of the device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# An operation on the device


def _run(operation: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the CPU, in the same memory."""
    returns, name = operation._schema.returns, operation.overloadpacket.__name__
    is_view = returns and returns[0].alias_info is not None and not returns[0].alias_info.is_write
    if is_view or name == "set_":  # the kernels of the CPU change no more than shape and strides
        return operation.redispatch(_CPU_KERNELS, *args, **kwargs)
    _check(operation, name, args, kwargs)
    if name == "_copy_from":
        source, target, *_ = _here(args, {})
        target.copy_(source)
        return args[1]
    given: dict[int, tuple[Tensor, Tensor]] = {}
    results = operation(*_here(args, given), **_here(kwargs, given))
    for there, here in given.values():
        if there.shape != here.shape:  # the operation has resized an empty result
            aten.set_.source_Tensor.redispatch(_CPU_KERNELS, there, _labelled(here, DLDeviceType.kDLExtDev))
    return _there(results, given)


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *others: Any) -> Any:
    return _run(aten.convolution_backward.default, gradient, inputs, weight, [len(weight)], *others)


_CPU_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _labelled(tensor: Tensor, kind: DLDeviceType) -> Tensor:
    """The same memory as a tensor on another device."""
    capsule = torch._C._to_dlpack(tensor)
    # A DLManagedTensor begins with the pointer to the numbers and the type of the device.
    ctypes.c_int32.from_address(_pointer_of(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)).value = kind
    return torch._C._from_dlpack(capsule)


def _here(value: Any, given: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """Arguments on the CPU; adds to ``given`` each tensor of the device with the tensor that stands for it."""
    if isinstance(value, list | tuple):
        return type(value)(_here(part, given) for part in value)
    if isinstance(value, dict):
        return {name: _here(part, given) for name, part in value.items()}
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if not _is_there(value):
        return value
    # An operation may resize an empty result, but not memory that belongs to another tensor.
    made = _labelled(value, DLDeviceType.kDLCPU) if value.numel() else torch.empty(value.shape, dtype=value.dtype)
    given[id(made)] = value, made
    return made


def _there(value: Any, given: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """Results on the device; an operation in place returns its argument."""
    if isinstance(value, list | tuple):
        return type(value)(_there(part, given) for part in value)
    if not isinstance(value, Tensor):
        return value
    return given[id(value)][0] if id(value) in given else _labelled(value, DLDeviceType.kDLExtDev)


# Rules of a GPU

SIZES = frozenset({"nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim", "bincount"})
"""Operations whose result has a size that only the device knows."""
NUMBERS = frozenset({"_local_scalar_dense", "equal"})
"""Operations whose result is a number on the host."""
WITHIN = frozenset({"_ctc_loss", "multinomial", "linalg_matrix_exp", "linalg_eig", "linalg_lstsq"})
"""Operations whose CUDA kernels wait: they copy lengths to the device, or check or count numbers on the host."""
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
"""Operations with a list of indices, which may be on the CPU."""
WITH_NUMBER = frozenset({"fill_", "where", "masked_fill", "masked_fill_", "_foreach_mul_"}) | INDEXED
"""Operations, besides those on each element, that accept a number on the CPU as a tensor without axes."""


def _check(operation: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Fail if an operation mixes the devices, and record it if the host waits for it."""
    if name == "_copy_from":
        source, target, non_blocking = [*args, kwargs.get("non_blocking", False)][:3]
        if not (_is_there(source) and _is_there(target)) and not (non_blocking and _is_there(target)):
            _record("copy to the host" if _is_there(source) else "copy to the device")
        return
    indices = [index for index in args[1] if index is not None] if name in INDEXED else []
    for index in indices:
        if index.dtype in (torch.bool, torch.uint8) and not _is_fill(name, args):
            _record("index by a mask")
        if not _is_there(index):
            _record("index on the host")
    allows_number = torch.Tag.pointwise in operation.tags or name in WITH_NUMBER
    others = [t for t in _tensors((args, kwargs)) if not any(t is index for index in indices)]
    wrong = [t for t in others if not _is_there(t) and (t.dim() or not allows_number)]
    if wrong:
        shapes = ", ".join(str(list(t.shape)) for t in wrong)
        raise RuntimeError(f"{operation} expects all tensors on {NAME}; those of shape {shapes} are on the CPU")
    if name in SIZES | NUMBERS | WITHIN or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        _record(name)


def _is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _is_fill(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation assigns one number by a mask, which PyTorch runs as ``masked_fill_``."""
    return "put" in name and args[2].numel() == 1 and not (len(args) > 3 and args[3])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _record(operation: str) -> None:
    """Add a wait to `WAITS`."""
    frame, lines = sys._getframe(1), []
    while frame is not None and len(lines) < 4:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] == "rnnlab":
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    WAITS.append(Wait(_phases[-1], operation, "\n".join(lines)))


@lru_cache(maxsize=1)
def _register() -> torch.device:
    # Autograd starts a thread for each device at the first backward pass of a process, after which it cannot fork.
    torch.ones((), requires_grad=True).backward()
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_run, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # PyTorch leaves convolutions to each backend under these names.
    own.impl("convolution_overrideable", partial(_run, aten.convolution.default), "PrivateUse1")
    own.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    _LIBRARIES.extend([every, own])
    return torch.device(NAME, 0)


@contextmanager
def device() -> Iterator[torch.device]:
    """The device, which exists from the first use on; within the context, backward passes can run on it."""
    found, run = _register(), torch.autograd._engine_run_backward

    def run_in_this_thread(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.set_multithreading_enabled(False):  # there is no thread of the device
            return run(*args, **kwargs)

    WAITS.clear()
    with mock.patch.object(torch.autograd, "_engine_run_backward", run_in_this_thread):
        yield found
