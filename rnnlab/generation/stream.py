"""Step-by-step generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rnnlab.heads import Head
from rnnlab.interface import InputError
from rnnlab.trees import State

Advance = Callable[[Tensor, Tensor], Tensor]
"""``(inputs, drawn) -> inputs``: the inputs of the next step, see `rnnlab.tasks.Task.advance`."""

NO_PROMPT = "the prompt is empty; give a prompt of at least one step"


class Stream:
    """Step-by-step generation for a batch of sequences: reads inputs and generates continuations.

    Args:
        model: model in evaluation mode.
        head: distribution of the model's outputs.
        state: initial state, from ``model.begin``.
        temperature, top_k: see `rnnlab.heads.Head.draw`.
        seeds: one seed for each sequence of the batch. Each sequence has its own random number generator, so that its
            samples do not depend on the other sequences of the batch.
        advance: computes the inputs of the next step from the current inputs and the drawn values; None if the drawn
            values are the inputs.

    inputs: inputs of the last step as given, ``[B]`` or ``[B, F]``; None before the first step.
    state: current state of the model.
    outputs: outputs of the last step, ``[B, features]``; None before the first step.
    device: device of the model.
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
        advance: Advance | None = None,
    ) -> None:
        self.model, self.head, self.state = model, head, state
        self.temperature, self.top_k = temperature, top_k
        self.advance = advance
        self.inputs: Tensor | None = None
        self.outputs: Tensor | None = None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def read(self, inputs: Tensor) -> None:
        """Read ``inputs`` step by step: tokens ``[T, B]`` or vectors ``[T, B, F]``."""
        for given, one in zip(inputs, inputs.to(self.device, non_blocking=True), strict=True):
            self.outputs, self.state = self.model.step(one, self.state)
            self.inputs = given

    def write(self) -> Tensor:
        """Draw the inputs of the next step, read them, and return them on the CPU; see `draw`."""
        drawn = self.draw()
        inputs = drawn if self.advance is None else self.advance(self.inputs.cpu(), drawn)
        self.read(inputs.unsqueeze(0))
        return inputs

    @torch.inference_mode()
    def draw(self) -> Tensor:
        """Draw from the outputs of the last step, on the CPU: tokens ``[B]`` or vectors ``[B, F]``.

        The model does not read them. A task whose inputs contain more than what the head draws calls `read` itself.

        Raises:
            InputError: the stream has not read any input, or the outputs are not finite.
        """
        if self.outputs is None:
            raise InputError(NO_PROMPT)
        if len(self.outputs) == 1 or self.temperature == 0:  # temperature 0 is deterministic
            return self.head.draw(self.outputs, self.temperature, self.top_k, self._generators[0])
        rows = zip(self.outputs.split(1), self._generators, strict=True)
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
    advance: Advance | None = None,
) -> Iterator[Tensor]:
    """Generate the continuations of a batch of prompts, step by step.

    Args:
        model: model in evaluation mode.
        head: distribution of the model's outputs.
        prompt: tokens ``[P, B]`` or vectors ``[P, B, F]``, P at least 1.
        steps: maximum number of steps to generate.
        source: source of the model, ``[S, B, ...]``; None for a model without a source.
        source_lengths: length of each source, int64 ``[B]``; None if all are S.
        temperature: 0 takes the mode at each step (greedy), 1 samples from the distribution.
        top_k: number of most probable classes to sample from; 0: all classes.
        seeds: one seed for each sequence; None for 0, 1, 2, ...
        end: token that ends a sequence; generation stops when all sequences have ended. None if sequences have no end
            token.
        advance: see `Stream`.

    Yields:
        tokens ``[B]`` or vectors ``[B, F]`` on the CPU; ``end`` for sequences that have ended.

    Raises:
        InputError: the prompt is empty, or the outputs are not finite.
    """
    batch_size = prompt.shape[1]
    with torch.inference_mode():
        state = model.begin(source, source_lengths, batch_size)
    seeds = range(batch_size) if seeds is None else seeds
    stream = Stream(model, head, state, temperature=temperature, top_k=top_k, seeds=seeds, advance=advance)
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
    """Convert generated steps ``[B, ...]`` to one tensor ``[length, ...]`` for each sequence, cut before its ``end``.

    Args:
        written: the steps that `generate` yields.
        batch_size: number of sequences.
        end: token that ends a sequence; None if all sequences have the same length.
    """
    steps = list(written)
    if not steps:
        return [torch.empty(0, dtype=torch.int64) for _ in range(batch_size)]
    together = torch.stack(steps)
    if end is None:
        return list(together.unbind(1))
    lengths = ((together == end).cumsum(0) == 0).sum(0).tolist()
    return [sequence[:length] for sequence, length in zip(together.unbind(1), lengths, strict=True)]
