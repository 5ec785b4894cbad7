"""Run a step as Triton kernels.

Kernels that run every time step are launched once. The launches of kernels of one time step are recorded once as CUDA
graphs of several time steps, and launched again as a whole, for every call and every part of a sequence: the kernels
read their arguments from a table in memory, see `functions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine.gpu import graphs
from rnnlab.engine.gpu.emit import SMALLEST, Source
from rnnlab.engine.gpu.fit import ROUNDED, dense, fits, rows_of, stages, warps
from rnnlab.engine.gpu.load import check, interpreted, load
from rnnlab.engine.loops.formulas import Array
from rnnlab.engine.loops.lower import Lowered

Memory = dict[Array, Any]
COLUMNS = 16
"""Number of columns of a program, if several programs share the rows."""


class Kernel:
    """A cell's step as Triton kernels, with the interface of `rnnlab.engine.cpu.kernel.Kernel`.

    ``precision`` of a call is one of these; sums and states are float32 in all of them:

    - ``ieee``: products of float32 numbers,
    - ``tf32``: products of float32 numbers rounded to 10 bits after the binary point,
    - ``bf16``, ``fp16``: products of numbers rounded to this format.

    Args:
        lowered: the step and its backward step, as loops without overlays.
        dtype: float32.
        names: the functions to run: ``forward`` and ``backward``, or ``inference``.
        device: where the tensors are.
        columns: the number of columns of a program; 0 for all columns, None to choose for each call.
    """

    dtypes = (torch.float32,)
    overlays = False  # the threads of a program read and write in any order
    slower = "as operations of PyTorch instead of Triton kernels, slower"
    check = staticmethod(check)

    def __init__(
        self,
        lowered: Lowered,
        dtype: torch.dtype,
        names: Sequence[str],
        device: torch.device,
        columns: int | None = None,
    ) -> None:
        self.lowered, self.dtype, self.device, self.columns = lowered, dtype, device, columns
        self.sources = {(name, None): Source(lowered, name) for name in names}  # by function and columns
        self.arrays = {name: source.arrays for (name, _), source in self.sources.items()}
        self.recorded: dict[Any, graphs.Chunks] = {}

    def source(self, name: str, precision: str) -> Source:
        """Return the kernels of a function. They run every time step if the weights fit on the chip."""
        columns = self.columns or None
        if self.columns is None and not fits(self.sources[name, None], precision, self.device):
            columns = COLUMNS
        if (name, columns) not in self.sources:
            self.sources[name, columns] = Source(self.lowered, name, columns)
        return self.sources[name, columns]

    def launches_per_step(self, precision: str) -> int:
        """Return the number of kernels of a time step, forward and backward; 0 if kernels run every time step."""
        sources = [self.source(name, precision) for name in self.arrays]
        return sum(len(source.kernels) for source in sources if source.per_step)

    def call(
        self, name: str, memory: Memory, constants: Sequence[Tensor], steps: int, lengths: Tensor | None, precision: str
    ) -> None:
        """Run one of the three functions; arguments as for `rnnlab.engine.cpu.kernel.Kernel.call`."""
        source, named = self.source(name, precision), dict(zip(self.lowered.constants, constants, strict=True))
        rows = memory[source.carried[0]].shape[1]
        stands_in = interpreted() and precision == "bf16"
        tensors = []
        for array in source.arrays:
            if array.kind == "temporary":
                tensors.append(self.take((rows, array.width)))
            else:
                tensor = named[array.name] if array.kind == "constant" else memory[array]
                tensors.append(dense(tensor[1] if array.kind == "sum" else tensor))
        for product in source.function.products:
            weight = constants[product.weight].to(ROUNDED.get(precision, torch.float32))
            tensors.append(dense(weight.float() if stands_in else weight))
        products = "bf16 in float32" if stands_in else precision
        options = (lengths is not None, rows_of(source, rows, self.device), products)
        ends, grid = tensors[0] if lengths is None else lengths, (-(-rows // options[1]), source.tiles)
        with torch.cuda.device_of(tensors[0]):
            if source.per_step:
                partials = self.take((1 + source.partials * rows * source.tiles,))
                self.step_by_step(source, (*tensors, partials, ends), steps, rows, grid, options)
            else:
                how = {"num_warps": warps(source), "num_stages": stages(source, precision, self.device)}
                self.launch(source, name, grid, *tensors, ends, steps, rows, *options, **how)
        for array, parts in source.late.items():
            for column, width, place in parts:
                gradient = memory[place.array][..., place.offset : place.offset + width]
                memory[array][1][0, 0, column : column + width] = gradient.sum((0, 1))

    def launch(self, source: Source, name: str, grid: tuple[int, ...], *arguments: Any, **options: int) -> None:
        """Launch a kernel."""
        getattr(load(source.text), name)[grid](*arguments, **options)

    def step_by_step(
        self, source: Source, tensors: tuple[Tensor, ...], steps: int, rows: int, grid: tuple[int, int], options: tuple
    ) -> None:
        """Launch the kernels of every time step."""
        # The first time step, and where it is in the table.
        first, place = steps - 1 if source.backward else 0, len(tensors)

        def launch(table: Tensor, count: int) -> None:
            for step in range(count):
                for name in source.kernels:
                    self.launch(source, name, grid, table, step, rows, *options, num_warps=4, num_stages=4)
            self.launch(source, "advance", (1,), table, place, -count if source.backward else count)

        with graphs.LOCK:
            key = (source, rows, options)
            if key not in self.recorded:
                graphs.make_room(self.recorded, self.device)
                self.recorded[key] = graphs.Chunks(launch, place + 1, self.device)
            self.recorded[key].run(lambda table: self.launch(source, "fill", (1,), table, tensors, first), steps)

    def sums(self, batch_size: int, steps: int) -> Memory:
        """Return zeros for the gradients of constants, which every program adds up on its own."""
        found: Memory = {}
        for array in self.lowered.constant_gradients:
            if array is not None:
                by_row = array in self.lowered.by_row
                shape = (1, batch_size, array.width) if by_row else (-(-batch_size // SMALLEST), 1, array.width)
                found[array] = 2 * (torch.zeros(shape, device=self.device),)
        return found

    def total(self, sums: tuple[Tensor, Tensor]) -> Tensor:
        """Return the gradient of a constant after a backward pass, ``[rows, width]``, from its tensors of `sums`."""
        return sums[1].sum(0)

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return uninitialised memory for an array."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def mm(self, left: Tensor, right: Tensor, precision: str) -> Tensor:
        """Compute a product over all time steps, the gradient of a weight."""
        kind = torch.float32 if interpreted() else ROUNDED.get(precision, torch.float32)
        return torch.mm(left.to(kind), right.to(kind)).float()
