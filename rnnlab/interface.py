"""Types shared by all packages: model inputs, batches, states, metrics and samples.

Letters for dimensions: T time steps, B sequences in a batch, F features, H hidden size.
Sequences are time-major, ``[T, B, ...]``; states are batch-first, ``[B, ...]``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

from rnnlab.trees import State, map_state, pick_rows, tensors_of, unstack  # noqa: F401  cells of users import them here

if TYPE_CHECKING:  # commands that only read runs use this module without loading PyTorch
    import torch
    from torch import Tensor


class InputError(ValueError):
    """An invalid input; the message is one sentence that says how to fix it."""


@dataclass(frozen=True)
class Tokens:
    """Inputs are class indices: int64 ``[T, B]`` with values in ``[0, size)``."""

    size: int


@dataclass(frozen=True)
class Vectors:
    """Inputs are real vectors: float ``[T, B, size]``."""

    size: int


@dataclass(frozen=True)
class Images:
    """Inputs are images: float ``[T, B, *shape]``.

    shape: channels, height and width of an image.
    single: whether each sequence is one image (T = 1), and not the frames of a video.
    """

    shape: tuple[int, int, int]
    single: bool = False


@dataclass(frozen=True)
class Metric:
    """The unit of a metric, and whether ``lower`` or ``higher`` is better."""

    unit: str
    better: str = "lower"

    def improves(self, value: float, best: float) -> bool:
        """Whether ``value`` is strictly better than ``best``."""
        return value < best if self.better == "lower" else value > best


class Mean(NamedTuple):
    """A sum and a count, to compute a mean over batches.

    Both are scalars, or both are ``[B]`` with one value per sequence. A metric by length needs values per sequence.
    """

    total: Tensor
    count: int | Tensor


ON_HOST = "on_host"
"""Attribute of lengths on a device: the same lengths on the CPU."""


@dataclass(frozen=True)
class Batch:
    """A batch of a task.

    inputs: input sequences of the model: ``[T, B]`` tokens, ``[T, B, F]`` vectors or ``[T, B, C, H, W]`` images.
        If the model generates the targets, its inputs are the targets shifted by one step (teacher forcing).
    targets: targets of the loss: ``[T', B, ...]`` for sequences, otherwise ``[B, ...]``.
    lengths: int64 ``[B]``, the number of steps of each input sequence; None if all have T steps.
    target_lengths: int64 ``[B]``, the number of steps of each target sequence; None if all have T' steps.
    fresh: bool ``[B]``, True for streams that start in this batch (truncated BPTT), or bool ``[T, B]``, True at steps
        before which the model resets its state, such as the first steps of packed documents; None if batches are
        independent.
    elapsed: float ``[T, B]``, the time between each input and the previous one, for cells that take it; 1 is the cell's
        own time step. None if all times are 1.
    source: source sequences, which the model reads completely before the first step: ``[S, B]`` tokens, ``[S, B, F]``
        vectors or ``[S, B, C, H, W]`` images, with S = 1 for a single image; None if the task has no source.
    source_lengths: int64 ``[B]``, the number of steps of each source; None if all have S steps.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    target_lengths: Tensor | None = None
    fresh: Tensor | None = None
    source: Tensor | None = None
    source_lengths: Tensor | None = None
    elapsed: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; the host does not wait for copies to a GPU."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: _moved(tensor, device) for name, tensor in given.items() if tensor is not None}
        for name in moved.keys() & {"lengths", "target_lengths", "source_lengths"}:
            if given[name].device.type == "cpu" and device.type != "cpu":
                setattr(moved[name], ON_HOST, given[name])
        return replace(self, **moved)

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return self.inputs.shape[1]

    @property
    def num_tokens(self) -> int:
        """Number of steps of all sources and inputs in the batch, without padding."""
        return _num_steps(self.inputs, self.lengths) + _num_steps(self.source, self.source_lengths)


def on_host(lengths: Tensor) -> Tensor:
    """The lengths of a batch on the CPU.

    If `Batch.to` has copied them to another device, these are the original lengths, since copying them back would stop
    the host until the device has finished all its work. So never change the lengths of a batch in place.
    """
    known = getattr(lengths, ON_HOST, None)
    return lengths.cpu() if known is None else known


def places_of(lengths: Tensor, num_steps: int, first: int = 0) -> Tensor:
    """Indices of the valid steps of padded sequences ``[num_steps, B, ...]``, whose first two axes are flattened.

    A boolean mask as an index would make the host wait for the device, because it needs the number of steps.

    Args:
        lengths: number of steps of each sequence, int64 ``[B]``.
        num_steps: number of steps including padding.
        first: number of steps to leave out at the beginning.

    Returns:
        int64 ``[number of valid steps]`` on the device of ``lengths``, in ascending order.
    """
    known = on_host(lengths)
    numbers = known.new_ones(num_steps).cumsum(0).unsqueeze(1)  # 1 to T
    valid = ((numbers > first) & (numbers <= known)).flatten().nonzero().squeeze(1)
    return _moved(valid, lengths.device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; the host does not wait for a copy to a GPU, which needs pinned memory for that."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")


def _num_steps(sequences: Tensor | None, lengths: Tensor | None) -> int:
    if sequences is None:
        return 0
    return sequences.shape[0] * sequences.shape[1] if lengths is None else int(on_host(lengths).sum())


class Sample(NamedTuple):
    """The content and suffix of a file that a model generated.

    content: text, or the bytes of a file.
    suffix: suffix of the file name, one of `SAMPLE_SUFFIXES`.
    """

    content: str | bytes
    suffix: str = ".txt"

    @property
    def is_text(self) -> bool:
        """Whether the sample is a plain text; SVG and BVH files are not."""
        return isinstance(self.content, str) and self.suffix == ".txt"

    def data(self) -> bytes:
        """The bytes of the file; text is encoded as UTF-8, with a final line break."""
        return (self.content + "\n").encode() if isinstance(self.content, str) else self.content


def samples_of(found: Sample | list[Sample] | str | None) -> list[Sample]:
    """Convert the return value of `rnnlab.tasks.Task.sample` to a list.

    Raises:
        InputError: a suffix is unknown, or two samples have the same suffix.
    """
    if found is None:
        return []
    samples = [Sample(found)] if isinstance(found, str) else [found] if isinstance(found, Sample) else list(found)
    suffixes = [sample.suffix for sample in samples]
    unknown = [suffix for suffix in suffixes if suffix not in SAMPLE_SUFFIXES]
    if unknown or len(set(suffixes)) < len(suffixes):
        raise InputError(
            f"the suffixes of a sample are {', '.join(suffixes)}; they must be distinct, and each must be one of "
            f"{', '.join(SAMPLE_SUFFIXES)}"
        )
    return samples


SAMPLE_SUFFIXES = (".txt", ".png", ".svg", ".gif", ".wav", ".mid", ".bvh")
"""The file types of samples."""
