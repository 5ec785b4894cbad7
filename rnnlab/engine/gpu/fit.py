"""What the kernels assume of sizes and memory: rules for what fits on the chip, before anything is compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.engine.gpu.emit import SMALLEST, Source, block
from rnnlab.engine.loops.formulas import Place

ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The formats to which the factors of products are rounded, by precision."""
MULTIPLIED = 2**15
"""Largest number of weights that one program multiplies in float32, which the matrix units do not do: 16 rows take
about 2 microseconds on one of 132 processors, as long as launching a kernel that uses all of them."""


def fits(source: Source, precision: str, device: torch.device) -> bool:
    """Whether the weights of a function can stay on the chip, and one program multiplies them fast enough."""
    numbers = _weights(source)
    if precision == "ieee" and numbers > MULTIPLIED:
        return False
    return numbers * _size(precision) + _tile(source.pieces.widest) * 2 <= shared_memory(device)


def stages(source: Source, precision: str, device: torch.device) -> int:
    """Return 2 to load what a step reads one step early, if there is memory for it; otherwise 1."""
    numbers = _weights(source)
    read = sum(_tile(array.width) for array in source.arrays if array.kind not in ("constant", "sum", "carry"))
    return 2 if numbers * _size(precision) + _tile(source.pieces.widest) * 2 + read <= shared_memory(device) else 1


def rows_of(source: Source, rows: int, device: torch.device) -> int:
    """Return the number of rows of a program: 16, or more if there would be more programs than processors.

    Args:
        source: the kernels.
        rows: the number of rows of the batch.
        device: where they run.
    """
    size = SMALLEST
    if source.per_step and device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        while size < 4 * SMALLEST and -(-rows // size) * source.tiles > processors:
            size *= 2
    return size


def shared_memory(device: torch.device) -> int:
    """Return the shared memory that a program can have, in bytes; on a CPU, which interprets, that of an H100."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def _weights(source: Source) -> int:
    """Return the number of weights on the chip, padding included."""

    def padded(place: Place, width: int) -> int:
        return sum(block(piece) for _, piece in source.pieces.array(place, width))

    return sum(padded(one.rows, one.inner) * padded(one.result, one.outer) for one in source.function.products)


def _size(precision: str) -> int:
    return ROUNDED.get(precision, torch.float32).itemsize


def _tile(width: int) -> int:
    """Return the bytes of a tile of float32 numbers."""
    return 4 * SMALLEST * block(width)


def warps(source: Source) -> int:
    """Return the number of warps of a program, so that a tile takes at most 8 registers of a thread."""
    return 4 if block(source.pieces.widest) < 64 else 8


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor that is contiguous and starts at a multiple of 16 bytes, as the kernels assume."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
