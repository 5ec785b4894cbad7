"""The types that all floors share: what a task feeds a model, a batch, a state, a metric, a sample.

Shape letters used throughout: T time steps, B sequences in a batch, F features, H hidden size.
Everything is time-major; state tensors have the batch first, ``[B, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # these words are wanted where no network is: comparing and looking at runs does not load PyTorch
    import torch
    from torch import Tensor

State = tuple[Any, ...]
"""A plain nested tuple of tensors, each ``[B, ...]``: everything carried from one step to the next."""


class InputError(ValueError):
    """An input that cannot be used; the message is one sentence that says what to do."""


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
    """Inputs are pictures: float ``[T, B, *shape]``, ``shape`` being (channels, height, width)."""

    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Metric:
    """The unit of a number, and which direction is better."""

    unit: str
    better: str = "lower"

    def improves(self, value: float, best: float) -> bool:
        """Whether ``value`` is strictly better than ``best``."""
        return value < best if self.better == "lower" else value > best


class Mean(NamedTuple):
    """A sum and a count, from which a mean over batches is computed.

    Both are numbers, or ``[B]``, one for each sequence; only then can the mean be shown against length.
    """

    total: Tensor
    count: int | Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of a task.

    inputs: what the model reads step by step: ``[T, B]`` tokens, ``[T, B, F]`` vectors or ``[T, B, C, H, W]`` images.
        Where the model writes the targets, its inputs are the targets shifted by one step (teacher forcing).
    targets: what the loss reads, time-major where it has time: ``[T', B, ...]`` or ``[B, ...]``.
    lengths: int64 ``[B]``, the number of steps of each input sequence; None where all are full.
    target_lengths: the same for the targets.
    fresh: bool ``[B]``, the streams that begin anew in this batch (truncated BPTT); None where every
        batch stands alone.
    source: what the model reads whole before the first step: ``[S, B]`` tokens, ``[S, B, F]`` vectors or
        ``[S, B, C, H, W]`` images, S being 1 for a single image; None where there is none.
    source_lengths: int64 ``[B]``, the number of steps of each source; None where all are full.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    target_lengths: Tensor | None = None
    fresh: Tensor | None = None
    source: Tensor | None = None
    source_lengths: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None})

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return self.inputs.shape[1]

    @property
    def num_tokens(self) -> int:
        """Number of steps that a model reads, source and inputs together, over all sequences, without padding."""
        return _num_steps(self.inputs, self.lengths) + _num_steps(self.source, self.source_lengths)


def _num_steps(sequences: Tensor | None, lengths: Tensor | None) -> int:
    if sequences is None:
        return 0
    return sequences.shape[0] * sequences.shape[1] if lengths is None else int(lengths.sum())


class Sample(NamedTuple):
    """The content of a file that a model made, with its suffix.

    content: text, or the bytes of a file.
    suffix: of the file's name, one of `SAMPLE_SUFFIXES`.
    """

    content: str | bytes
    suffix: str = ".txt"

    @property
    def is_text(self) -> bool:
        """Whether it is a text to read, which SVG and BVH files are not."""
        return isinstance(self.content, str) and self.suffix == ".txt"

    def data(self) -> bytes:
        """The content of the file: text as UTF-8 with a line break at its end."""
        return (self.content + "\n").encode() if isinstance(self.content, str) else self.content


def samples_of(found: Sample | list[Sample] | str | None) -> list[Sample]:
    """What `rnnlab.tasks.Task.sample` returned, as a list.

    Raises:
        InputError: a suffix is unknown, or two samples have the same one.
    """
    if found is None:
        return []
    samples = [Sample(found)] if isinstance(found, str) else [found] if isinstance(found, Sample) else list(found)
    suffixes = [sample.suffix for sample in samples]
    unknown = [suffix for suffix in suffixes if suffix not in SAMPLE_SUFFIXES]
    if unknown or len(set(suffixes)) < len(suffixes):
        raise InputError(
            f"the suffixes of a sample are {', '.join(suffixes)}; they must be different, and each one of "
            f"{', '.join(SAMPLE_SUFFIXES)}"
        )
    return samples


SAMPLE_SUFFIXES = (".txt", ".png", ".svg", ".gif", ".wav", ".mid", ".bvh")
"""The kinds of files that a sample can be."""


_NESTS = (tuple, list)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply ``function`` to the corresponding tensors of states of one structure; None stays."""
    first = states[0]
    if first is None:
        return None
    if not isinstance(first, _NESTS):
        return function(*states)
    return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))


def pick_rows(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` for the rows that are ``chosen`` (bool ``[B]``), ``no`` for the others; both ``[B, ...]``."""
    return yes.where(chosen.reshape(-1, *[1] * (yes.dim() - 1)), no)


def unstack(tree: Any) -> list[Any]:
    """A nested tuple of tensors ``[T, ...]`` as T nested tuples, one for each step.

    Not by indexing: the backward of ``tensor[t]`` fills a whole ``[T, ...]`` of zeros for every t.
    """
    columns = [tensor.unbind() for tensor in tensors_of(tree)]
    rows = (iter(row) for row in zip(*columns, strict=True))
    return [map_state(lambda _, row=row: next(row), tree) for row in rows]


def tensors_of(state: State) -> list[Tensor]:
    """The tensors of a nested tuple, depth first; None is none."""
    if not isinstance(state, _NESTS):
        return [] if state is None else [state]
    found: list[Tensor] = []
    for part in state:
        if isinstance(part, _NESTS):
            found += tensors_of(part)
        elif part is not None:
            found.append(part)
    return found
