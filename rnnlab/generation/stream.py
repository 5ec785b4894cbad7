"""Step-by-step generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rnnlab.heads import Head
from rnnlab.interface import InputError
from rnnlab.trees import State

NO_PROMPT = "the prompt is empty; give at least one step to begin with"


class Stream:
    """A model that reads inputs and writes what follows them, for a batch of sequences.

    Args:
        model: in evaluation mode.
        head: the distribution of its outputs.
        state: the state before the first step, from ``model.begin``.
        temperature, top_k: see `rnnlab.heads.Head.draw`.
        seeds: one seed for each sequence of the batch. A sequence is drawn from its own source of randomness, so that
            it does not depend on the others of its batch.

    state: the state after all that was read and written.
    outputs: the outputs ``[B, features]`` at the last step; None before the first.
    device: that of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        state: State,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seeds: Sequence[int] = (0,),
    ) -> None:
        self.model, self.head, self.state = model, head, state
        self.temperature, self.top_k = temperature, top_k
        self.outputs: Tensor | None = None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def read(self, inputs: Tensor) -> None:
        """Read ``inputs``, tokens ``[T, B]`` or vectors ``[T, B, F]``, one step after the other."""
        for one in inputs.to(self.device):
            self.outputs, self.state = self.model.step(one, self.state)

    @torch.inference_mode()
    def write(self) -> Tensor:
        """Draw the next step, tokens ``[B]`` or vectors ``[B, F]`` on the CPU, and read it.

        Raises:
            InputError: nothing has been read yet, or the outputs are not finite.
        """
        if self.outputs is None:
            raise InputError(NO_PROMPT)
        drawn = self._draw(self.outputs)
        self.outputs, self.state = self.model.step(drawn.to(self.device), self.state)
        return drawn

    def _draw(self, outputs: Tensor) -> Tensor:
        if len(outputs) == 1 or self.temperature == 0:  # at 0 nothing is random
            return self.head.draw(outputs, self.temperature, self.top_k, self._generators[0])
        rows = zip(outputs.split(1), self._generators, strict=True)
        return torch.cat([self.head.draw(row, self.temperature, self.top_k, generator) for row, generator in rows])


def generate(
    model: nn.Module,
    head: Head,
    prompt: Tensor,
    *,
    steps: int,
    source: Tensor | None = None,
    source_lengths: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    seeds: Sequence[int] | None = None,
    end: int | None = None,
) -> Iterator[Tensor]:
    """Yield what a model writes after a prompt, step by step.

    Args:
        model: in evaluation mode.
        head: the distribution of its outputs.
        prompt: what it reads first, tokens ``[P, B]`` or vectors ``[P, B, F]`` with P at least 1.
        steps: the largest number of steps to write.
        source: what the model is conditioned on, ``[S, B, ...]``; None where it is not.
        source_lengths: int64 ``[B]``, see `rnnlab.interface.Batch`.
        temperature: 0 takes the mode at each step (greedy), 1 draws from the distribution itself.
        top_k: only the k most probable classes can be drawn; 0 means all.
        seeds: one for each sequence; None for 0, 1, 2, ...
        end: the token that ends a sequence; generation stops when all have ended. None where sequences have no end.

    Yields:
        tokens ``[B]`` or vectors ``[B, F]``, on the CPU; ``end`` where a sequence has ended.

    Raises:
        InputError: the prompt is empty, or the outputs are not finite.
    """
    batch_size = prompt.shape[1]
    with torch.inference_mode():
        state = model.begin(source, source_lengths, batch_size)
    seeds = range(batch_size) if seeds is None else seeds
    stream = Stream(model, head, state, temperature=temperature, top_k=top_k, seeds=seeds)
    stream.read(prompt)
    ended = torch.zeros(batch_size, dtype=torch.bool)
    for _ in range(steps):
        drawn = stream.write()
        if end is None:
            yield drawn
            continue
        yield drawn.masked_fill(ended, end)
        ended |= drawn == end
        if ended.all():
            return


def sequences(written: Iterable[Tensor], batch_size: int, end: int | None = None) -> list[Tensor]:
    """Steps ``[B, ...]`` as one tensor ``[length, ...]`` for each sequence, up to and without its ``end``.

    Args:
        written: what `generate` yields.
        batch_size: number of sequences.
        end: the token that ends a sequence; None where all are of one length.
    """
    steps = list(written)
    if not steps:
        return [torch.empty(0, dtype=torch.int64) for _ in range(batch_size)]
    together = torch.stack(steps)
    if end is None:
        return list(together.unbind(1))
    lengths = ((together == end).cumsum(0) == 0).sum(0).tolist()
    return [sequence[:length] for sequence, length in zip(together.unbind(1), lengths, strict=True)]
