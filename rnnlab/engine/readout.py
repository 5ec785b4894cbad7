"""Run the readout of a step with heads: compute the outputs of all time steps after the recurrence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from rnnlab.engine import arrays
from rnnlab.engine.cpu.emit import Source
from rnnlab.engine.cpu.kernel import Kernel
from rnnlab.engine.ir.derive import derive
from rnnlab.engine.ir.program import Program, Value
from rnnlab.engine.loops.lower import lower


class Readout:
    """A readout as loops over rows and columns; see `rnnlab.engine.ir.split`.

    Args:
        program: the readout.
        step: the step that it is a part of.
        unwanted: constants and inputs of the step that need no gradient.
        batch_size: the number of sequences that the step was traced with.

    Attributes:
        has_products: whether it multiplies with a weight.

    Raises:
        Unsupported: the readout cannot be written as loops.
    """

    def __init__(self, program: Program, step: Program, unwanted: Collection[Value], batch_size: int) -> None:
        # No overlays: a second backward pass reads the same arrays.
        self.lowered = lower(program, derive(program, unwanted), batch_size, overlays=False)
        self.constants = [step.constants.index(value) for value in program.constants]
        self.inputs = [step.inputs.index(value) for value in program.inputs[1:]]
        self.has_products = any(node.operation == "mm" for node in program.nodes)
        self.kernel: Kernel | None = None

    def c(self, single: bool) -> str:
        """Print the readout and its derivative as C."""
        return Source(self.lowered, single, ("forward", "backward", "inference")).text

    def compile(self, dtype: torch.dtype, names: Sequence[str]) -> None:
        """Compile the functions ``names``, see `Kernel`."""
        self.kernel = Kernel(self.lowered, dtype, names, torch.device("cpu"))

    def forward(
        self, name: str, constants: Sequence[Tensor], inputs: Sequence[Tensor], read: Tensor,
        lengths: Tensor | None, precision: str,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Compute the outputs.

        Args:
            name: ``forward`` to keep what `backward` reads, or ``inference``.
            constants: the constants of the step.
            inputs: the prepared inputs of the step, ``[T, B, ...]``.
            read: the output of the recurrence, ``[T, B, features]``.
            lengths: int64 ``[B]`` or None.
            precision: of matrix products, see `Kernel.call`.

        Returns:
            the outputs, ``[T, B, features]``, and the kept arrays.
        """
        constants, given = self._leaves(constants, inputs, read)
        memory = arrays.forward_memory(self.kernel, name, given, (), ())
        self.kernel.call(name, memory, constants, len(read), lengths, precision)
        outputs = arrays.results(self.kernel, memory, len(read), None, ())[0]
        return outputs, [memory[array] for array in memory if array.kind == "kept"]

    def backward(
        self, constants: Sequence[Tensor], inputs: Sequence[Tensor], read: Tensor, kept: Sequence[Tensor],
        output_gradients: Tensor, lengths: Tensor | None, precision: str,
    ) -> tuple[Tensor, list[Tensor | None]]:  # fmt: skip
        """Return the gradient of ``read``, and those of constants and inputs of the step, None where there is none.

        Args:
            constants: as for `forward`.
            inputs: as for `forward`.
            read: as for `forward`.
            kept: from `forward`.
            output_gradients: the gradients of the outputs, zero after the end of a sequence.
            lengths: as for `forward`.
            precision: as for `forward`.
        """
        found: list[Tensor | None] = [None] * (len(constants) + len(inputs))
        places = [*self.constants, *(len(constants) + i for i in self.inputs)]
        constants, given = self._leaves(constants, inputs, read)
        arrays_kept = [array for array in self.kernel.arrays["forward"] if array.kind == "kept"]
        memory = dict(zip(arrays_kept, kept, strict=True))
        tensors = [given[i] for i in self.lowered.kept_inputs]
        arrays.add_backward_memory(self.kernel, memory, tensors, output_gradients, (), keep=False)
        self.kernel.call("backward", memory, constants, len(read), lengths, precision)
        shapes = [tensor.shape for tensor in given]
        gradients, _ = arrays.gradients(self.kernel, memory, constants, shapes, precision)
        of_read = gradients.pop(len(constants))
        for place, gradient in zip(places, gradients, strict=True):
            found[place] = gradient
        return torch.zeros_like(read) if of_read is None else of_read, found

    def _leaves(
        self, constants: Sequence[Tensor], inputs: Sequence[Tensor], read: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the constants and inputs of the readout."""
        ready = [arrays.ready(constants[i], self.kernel.dtype) for i in self.constants]
        return ready, [read, *(inputs[i] for i in self.inputs)]
