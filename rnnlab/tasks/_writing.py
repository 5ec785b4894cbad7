"""What tasks share whose model writes tokens: batches for teacher forcing, and generation with a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab import generation
from rnnlab.heads import IGNORE
from rnnlab.interface import Batch
from rnnlab.vocabulary import END, START, UNKNOWN


class Writer:
    """Generation of a text with a trained model, for ``rnnlab generate``.

    Args:
        task: the task of the model, with ``source_of(prompt)``, the source of a prompt, and ``texts``, which decodes
            tokens.
        model: model in evaluation mode.
        temperature, top_k: see `rnnlab.heads.Head.draw`.
        seed: seed for sampling.
    """

    def __init__(self, task: Any, model: nn.Module, temperature: float, top_k: int, seed: int) -> None:
        self.task, self.model = task, model
        self.options = {"temperature": temperature, "top_k": top_k, "seeds": [seed]}

    def generate(self, prompt: str, length: int) -> Iterator[str]:
        """Read the source that ``prompt`` describes, and yield a text of at most ``length`` tokens."""
        given = started(self.model, 1, self.task.source_of(prompt))
        drawn = generation.generate(self.model, self.task.head, **given, steps=length, end=END, **self.options)
        yield self.task.texts(generation.sequences(drawn, 1, END))[0]

    def reply(self, line: str, length: int) -> Iterator[str]:
        """The same for a line of a conversation."""
        return self.generate(line.strip(), length)


def started(model: nn.Module, count: int, source: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments with which a model begins to write ``count`` sequences, on its device: START and the source."""
    given = {"prompt": torch.full((1, count), START), **source}
    device = next(model.parameters()).device
    return {name: tensor.to(device, non_blocking=True) for name, tensor in given.items()}


def teacher_forced(targets: Sequence[Tensor], **source: Tensor) -> Batch:
    """The batch of target sequences with END, whose inputs are the targets shifted by one step.

    Args:
        targets: tokens of each target, int64 ``[length]``; UNKNOWN is not scored.
        source: ``source`` and ``source_lengths`` of the batch.
    """
    lengths = torch.tensor([len(target) for target in targets])
    padded = pad_sequence(list(targets), padding_value=END)
    inputs = torch.cat([torch.full_like(padded[:1], START), padded[:-1]])
    past = torch.arange(len(padded)).unsqueeze(1) >= lengths
    scored = padded.masked_fill(past | (padded == UNKNOWN), IGNORE)
    return Batch(inputs, scored, lengths, lengths, **source)
