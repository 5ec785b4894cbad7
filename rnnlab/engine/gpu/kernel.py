"""Run a step as Triton kernels: load them, and launch them for a whole sequence.

Kernels that run every time step are launched once. Kernels of one time step read the addresses of their arrays and the
number of the step from a table in the device's memory. So the launches of several steps are recorded once as a CUDA
graph, and launched again as a whole for every call and at every part of a sequence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine.cache import cache_folder
from rnnlab.engine.gpu import graphs
from rnnlab.engine.gpu.emit import FUNCTIONS, SMALLEST, Printed, Source
from rnnlab.engine.loops.formulas import Array
from rnnlab.engine.loops.lower import Lowered

Memory = dict[Array, Any]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def obstacle() -> str:
    """Return why Triton cannot be used; an empty string if it can."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return ""


@cache
def load(text: str) -> ModuleType:
    """Return a module of Triton kernels. Triton reads their text from a file in the cache."""
    text = f"{FUNCTIONS.read_text()}\n\n{text}"
    name = f"rnnlab_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    path = Path(cache_folder(), f"{name}.py")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(text)
        part.replace(path)
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Kernel:
    """A cell's step as Triton kernels, with the interface of `rnnlab.engine.cpu.kernel.Kernel`.

    ``precision`` of a call is one of these; sums and states are float32 in all of them:

    - ``ieee``: products of float32 numbers.
    - ``tf32``: products of float32 numbers that are rounded to 10 bits after the binary point.
    - ``bf16``, ``fp16``: products of numbers that are rounded to that format.

    Args:
        lowered: the step and its backward step, as loops without overlays.
        names: the functions to load: ``forward`` and ``backward``, or ``inference``.
        device: where the tensors are.
        columns: the number of columns of a program, see `rnnlab.engine.gpu.emit`; None for all columns.
    """

    dtype = torch.float32

    def __init__(self, lowered: Lowered, names: Sequence[str], device: torch.device, columns: int | None = None) -> None:
        self.lowered, self.device = lowered, device
        self.interpreted = device.type == "cpu"  # by Triton's interpreter, with TRITON_INTERPRET=1
        self.source = Source(lowered, tuple(names), columns)
        self.module = load(self.source.text)
        self.recorded: dict[Any, graphs.Recorded] = {}

    def call(
        self,
        name: str,
        memory: Memory,
        constants: Sequence[Tensor],
        steps: int,
        lengths: Tensor | None,
        precision: str = "ieee",
    ) -> None:
        """Run one of the three functions; arguments as for `rnnlab.engine.cpu.kernel.Kernel.call`."""
        printed, names = self.source.functions[name], self.lowered.constants
        rows = memory[printed.carried[0]].shape[1]
        tensors = []
        for array in printed.arrays:
            if array.kind == "constant":
                tensors.append(_dense(constants[names.index(array.name)]))
            else:
                tensors.append(_dense(memory[array][1] if array.kind == "sum" else memory[array]))
        tensors += [self.weight(constants[product.weight], precision) for product in printed.function.products]
        rounded = self.interpreted and precision in TYPES
        options = (lengths is not None, self.rows(printed, rows), "rounded" if rounded else precision)
        ends = tensors[0] if lengths is None else lengths
        with torch.cuda.device(self.device) if self.device.type == "cuda" else torch.no_grad():
            if printed.per_step:
                partials = self.take([max(1, printed.partials * rows * printed.tiles)])
                self.step_by_step(printed, [*tensors, partials, ends], steps, rows, options)
            else:
                grid = (-(-rows // options[1]), printed.tiles)
                getattr(self.module, name)[grid](*tensors, ends, steps, rows, *options, num_warps=_warps(printed))
        if name == "backward":
            for array, parts in self.source.late.items():
                for column, width, place in parts:
                    gradient = memory[place.array][..., place.offset : place.offset + width]
                    torch.sum(gradient, (0, 1), out=memory[array][1][0, 0, column : column + width])

    def step_by_step(
        self, printed: Printed, tensors: list[Tensor], steps: int, rows: int, options: tuple[bool, int, str]
    ) -> None:
        """Launch the kernels of every time step."""
        grid, first = (-(-rows // options[1]), printed.tiles), steps - 1 if printed.backward else 0
        kernels = [getattr(self.module, one)[grid] for one in printed.texts]
        table = torch.empty(len(tensors) + 1, dtype=torch.int64, device=self.device)

        def launch(table: Tensor, count: int) -> None:
            for step in range(count):
                for kernel in kernels:
                    kernel(table, step, rows, *options, num_warps=4, num_stages=4)
            self.module.advance[(1,)](table, len(tensors), -count if printed.backward else count)

        fill = getattr(self.module, f"{printed.name}_table")[(1,)]
        key = (printed.name, rows, options)
        recorder = graphs.recorder(self.device)
        with graphs.LOCK:
            if recorder is None or key not in self.recorded:
                self.recorded.setdefault(key, graphs.Recorded(table, launch))
                fill(table, first, *tensors)
                launch(table, steps)
            else:
                with recorder.alone():
                    fill(self.recorded[key].table, first, *tensors)
                    self.recorded[key].run(recorder, steps)

    def rows(self, printed: Printed, rows: int) -> int:
        """Return the number of rows of a program: 16, or more where there would be more programs than processors."""
        size = SMALLEST
        if printed.per_step and self.device.type == "cuda":
            processors = torch.cuda.get_device_properties(self.device).multi_processor_count
            while size < 4 * SMALLEST and -(-rows // size) * printed.tiles > processors:
                size *= 2
        return size

    def weight(self, constant: Tensor, precision: str) -> Tensor:
        """Return a weight in the format in which it is multiplied."""
        weight = _dense(constant)
        if precision in TYPES:
            weight = weight.to(TYPES[precision])
            weight = weight.float() if self.interpreted else weight  # its products of 16-bit numbers are wrong
        return weight

    def sums(self, batch_size: int, steps: int) -> Memory:
        """Return zeros for the gradients of constants, which every program adds up on its own."""
        printed, found = self.source.functions["backward"], {}
        programs = -(-batch_size // self.rows(printed, batch_size))
        for array in self.lowered.constant_gradients:
            if array is not None:
                by_row, late = array in self.lowered.by_row, array in self.source.late
                shape = (1, batch_size, array.width) if by_row else (1 if late else programs, 1, array.width)
                found[array] = (zeros := torch.zeros(shape, device=self.device), zeros)
        return found

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return uninitialised memory for an array."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def mm(self, left: Tensor, right: Tensor, precision: str = "ieee") -> Tensor:
        """Compute a product over all time steps, the gradient of a weight."""
        if precision in TYPES and not self.interpreted:
            return torch.mm(left.to(TYPES[precision]), right.to(TYPES[precision])).float()
        return torch.mm(left, right)


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor that is contiguous and starts at a multiple of 16 bytes, as the kernels assume."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _warps(printed: Printed) -> int:
    return 4 if printed.per_step or printed.pieces.widest() <= 64 else 8
