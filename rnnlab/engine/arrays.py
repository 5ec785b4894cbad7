"""The arrays of one call of a compiled step: allocate them, and read results and gradients from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnlab.engine.cpu.kernel import Kernel, Memory
from rnnlab.engine.loops.formulas import Place


def ready(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a constant to the layout that the C functions read: one dtype, contiguous within a row."""
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    tensor = tensor.resolve_neg()  # the memory of a negated view holds the numbers before negation
    return tensor if tensor.dim() == 0 or tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _rows(tensor: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Convert a tensor of all time steps to the layout of C functions and matrix products, ``[T, rows, width]``."""
    if tensor.dim() == 3 and tensor.shape[1] == rows and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor.resolve_neg()  # the usual case
    tensor = ready(tensor if tensor.dim() == 3 else tensor.unsqueeze(-1), dtype).expand(-1, rows, -1)
    return tensor.contiguous() if rows > 1 and tensor.stride(1) < tensor.shape[2] else tensor


def forward_memory(
    kernel: Kernel, name: str, inputs: Sequence[Tensor], state: Sequence[Tensor], free: Sequence[bool]
) -> Memory:
    """Allocate the arrays of a forward pass.

    Args:
        kernel: the compiled step.
        name: ``forward`` or ``inference``.
        inputs: the prepared inputs, ``[T, B, ...]``.
        state: the initial state, ``[B, ...]``.
        free: for every input, whether its memory may be overwritten.
    """
    lowered, dtype = kernel.lowered, kernel.dtype
    steps, rows = len(inputs[0]), (state[0] if state else inputs[0][0]).shape[0]
    memory: Memory = {}
    for array, tensor in zip(lowered.inputs, inputs, strict=True):
        memory[array] = _rows(tensor, rows, dtype)
    if name == "forward":
        for array, i in lowered.overwrites.items():
            if free[i]:
                memory[array] = memory[lowered.inputs[i]].detach()
    for array, tensor in zip(lowered.states, state, strict=True):
        whole = name == "forward" or lowered.output.array is array
        memory[array] = states = kernel.take((steps + 1 if whole else 2, rows, array.width))
        # `select` takes half the time of an index.
        states.select(0, 0).copy_(tensor if tensor.dim() == 2 else tensor.reshape(rows, array.width))
    for array in kernel.arrays[name]:
        if array not in memory and array.kind not in ("constant", "sum"):
            shape = (1 if array.kind == "temporary" else steps, rows, array.width)
            memory[array] = kernel.take(shape)
    return memory


def results(
    kernel: Kernel, memory: Memory, steps: int, live: Tensor | None, shapes: Sequence[torch.Size]
) -> tuple[Tensor, ...]:
    """Read the outputs and the final states after a forward pass.

    Args:
        kernel: the compiled step.
        memory: from `forward_memory`.
        steps: T.
        live: bool ``[T, B]``, true for valid steps, the other outputs are zero; None if all sequences have T steps.
        shapes: shapes of the states.
    """
    lowered = kernel.lowered
    place = lowered.output
    outputs = memory[place.array].narrow(0, place.shift, steps)
    if live is not None and place.shift:
        outputs = outputs.where(live.unsqueeze(-1), 0)
    # Copies: otherwise a result that the backward step also reads would keep itself alive through its own graph.
    final = []
    for array, shape in zip(lowered.states, shapes, strict=True):
        states = memory[array]
        last = states.select(0, steps % states.shape[0]).clone()
        final.append(last if len(shape) == 2 else last.reshape(shape))
    return outputs, *final


def add_backward_memory(
    kernel: Kernel,
    memory: Memory,
    inputs: Sequence[Tensor],
    output_gradients: Tensor,
    state_gradients: Sequence[Tensor | None],
    keep: bool,
) -> None:
    """Add the arrays of a backward pass to the saved arrays of the forward pass.

    Args:
        kernel: the compiled step.
        memory: the saved arrays of the forward pass.
        inputs: the prepared inputs that the backward step reads.
        output_gradients: ``[T, B, output_size]``.
        state_gradients: gradients of the final state; None for zeros.
        keep: whether another backward pass will read the saved arrays; otherwise they are overwritten.
    """
    lowered, dtype = kernel.lowered, kernel.dtype
    steps, rows = output_gradients.shape[:2]
    for i, tensor in zip(lowered.kept_inputs, inputs, strict=True):
        memory[lowered.inputs[i]] = _rows(tensor, rows, dtype)
    for array in kernel.arrays["backward"]:
        if array.kind == "upstream":
            memory[array] = _rows(output_gradients, rows, dtype)
        elif array.kind == "temporary":
            memory[array] = kernel.take((1, rows, array.width))
        elif array.kind == "gradient":
            if array not in memory:
                memory[array] = kernel.take((steps, rows, array.width))
            elif keep:
                memory[array] = memory[array].clone()
    for array, gradient in zip(lowered.carries, state_gradients, strict=True):
        memory[array] = carried = kernel.take((2, rows, array.width))
        if gradient is None:
            carried.zero_()
        else:
            carried.select(0, steps % 2).copy_(gradient if gradient.dim() == 2 else gradient.reshape(rows, array.width))
    memory |= kernel.sums(rows, steps)


def gradients(
    kernel: Kernel,
    memory: Memory,
    constants: Sequence[Tensor],
    shapes: Sequence[torch.Size],
    precision: str,
    mapped: Tensor | None = None,
) -> tuple[list[Tensor | None], Tensor | None]:
    """Read the gradients of constants and prepared inputs after a backward pass.

    Args:
        kernel: the compiled step.
        memory: from `add_backward_memory`.
        constants: the cell's constants.
        shapes: shapes of the prepared inputs.
        precision: the precision of the call.
        mapped: the inputs ``[T, B, input_size]`` of which the prepared input is a linear map, if the gradient of the
            map's weight is wanted.

    Returns:
        the gradient of each constant and each prepared input, or None; and the gradient of the map's weight, if it was
        computed together with that of a constant. The gradient of a weight is one matrix product over all time steps.
    """
    lowered, steps = kernel.lowered, shapes[0][0]
    found = [
        None if array is None else kernel.total(memory[array]).to(one.dtype).view(one.shape)
        for array, one in zip(lowered.constant_gradients, constants, strict=True)
    ]
    of_map: Tensor | None = None
    for weight, transposed, rows, gradient in lowered.products:
        outer, inner = constants[weight].shape if transposed else constants[weight].shape[::-1]
        left = _columns(memory, gradient, steps, outer).flatten(0, 1)
        right = _columns(memory, rows, steps, inner).flatten(0, 1)
        is_of_map = gradient == lowered.input_gradients[0] and outer == lowered.inputs[0].width
        if mapped is not None and of_map is None and transposed and is_of_map:
            product, of_map = kernel.mm_two(left.t(), right, mapped.flatten(0, 1), precision)
        else:
            product = kernel.mm(left.t(), right, precision) if transposed else kernel.mm(right.t(), left, precision)
        found[weight] = product if found[weight] is None else found[weight] + product
    for i, (place, shape) in enumerate(zip(lowered.input_gradients, shapes, strict=True)):
        if place is None:
            found.append(None)
            continue
        gradient = _columns(memory, place, steps, lowered.inputs[i].width)
        gradient = gradient if len(shape) == 3 else gradient.reshape(shape)
        # A copy, as autograd may add to a gradient in place.
        found.append(gradient.clone() if i in lowered.repeated else gradient)
    return found, of_map


def state_gradients(kernel: Kernel, memory: Memory, state: Sequence[Tensor]) -> list[Tensor | None]:
    """Read the gradients of the initial state after a backward pass; None for a state that requires no gradient."""
    pairs = zip(kernel.lowered.carries, state, strict=True)
    return [memory[array].select(0, 0).reshape(one.shape) if one.requires_grad else None for array, one in pairs]


def _columns(memory: Memory, place: Place, steps: int, width: int) -> Tensor:
    """Return columns of an array for all time steps."""
    whole = memory[place.array]
    if whole.shape[::2] == (steps, width):
        return whole
    return whole[place.shift : place.shift + steps, :, place.offset : place.offset + width]
