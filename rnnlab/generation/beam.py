"""Beam search over a model with a categorical head, and the most probable continuation by either way."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.generation.stream import NO_PROMPT, Stream, generate, sequences
from rnnlab.heads import Categorical, Head
from rnnlab.heads.base import NOT_FINITE
from rnnlab.interface import InputError
from rnnlab.trees import State, map_state


class Hypothesis(NamedTuple):
    """A sequence that beam search has found.

    tokens: int64 ``[length]``, without the end.
    log_probability: of the tokens and, where it has ended, of its end, in nats.
    score: ``log_probability / length ** length_penalty``, the length with its end.
    """

    tokens: Tensor
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    head: Head,
    prompt: Tensor,
    *,
    steps: int,
    beam_size: int,
    source: Tensor | None = None,
    source_lengths: Tensor | None = None,
    end: int | None = None,
    length_penalty: float = 1.0,
) -> list[list[Hypothesis]]:
    """The most probable continuations that a beam of ``beam_size`` finds, for each sequence of a batch.

    At each step the ``beam_size`` most probable unfinished continuations are kept. A sequence is done when it has
    ``beam_size`` finished ones, those that were not less probable than all that were kept, or after ``steps`` steps.
    A beam of size 1 is greedy generation. What is found does not depend on the other sequences of the batch.

    Args:
        model: in evaluation mode.
        head: a `rnnlab.heads.Categorical`.
        prompt: tokens ``[P, B]``, P at least 1.
        steps: the largest number of tokens to write.
        beam_size: number of continuations that are kept.
        source: what the model is conditioned on, ``[S, B, ...]``; None where it is not.
        source_lengths: int64 ``[B]``; None where all are S.
        end: the token that ends a sequence; None where sequences have no end.
        length_penalty: the power of the length by which a log-probability is divided before finished sequences are
            compared (Wu et al., 2016, arXiv:1609.08144, section 7, with its constant left out); 0 for none.

    Returns:
        for each sequence its hypotheses, the best first: the finished ones, or the unfinished ones if there are none.

    Raises:
        InputError: an option is not possible, or the outputs are not finite.
    """
    if not isinstance(head, Categorical):
        raise InputError(f"beam search needs a categorical head; {type(head).__name__} has no classes to search")
    if beam_size < 1:
        raise InputError(f"beam_size={beam_size} must be at least 1")
    batch_size = prompt.shape[1]
    stream = Stream(model, head, model.begin(source, source_lengths, batch_size))
    stream.read(prompt)
    if stream.outputs is None:
        raise InputError(NO_PROMPT)
    search, device = _Search(batch_size, beam_size, end, length_penalty), stream.device
    rows = torch.arange(batch_size).repeat_interleave(beam_size)
    outputs, state = _picked(stream.outputs, stream.state, rows, device)
    for _ in range(steps):
        origins, tokens = search.advance(outputs)
        if search.is_done():
            break
        outputs, state = _picked(outputs, state, origins, device)
        outputs, state = model.step(tokens.to(device), state)
    return search.results()


def _picked(outputs: Tensor, state: State, rows: Tensor, device: torch.device) -> tuple[Tensor, State]:
    rows = rows.to(device)
    return outputs[rows], map_state(lambda tensor: tensor[rows], state)


class _Search:
    """The hypotheses of a batch: ``beam_size`` unfinished ones for each sequence, and those that have ended."""

    def __init__(self, batch_size: int, beam_size: int, end: int | None, length_penalty: float) -> None:
        self.batch_size, self.beam_size, self.end, self.length_penalty = batch_size, beam_size, end, length_penalty
        # All rows of a sequence are alike at first: only one of them may be continued.
        self.totals = torch.full((batch_size, beam_size), -torch.inf, dtype=torch.float64)
        self.totals[:, 0] = 0.0
        self.tokens = torch.empty(batch_size, beam_size, 0, dtype=torch.int64)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(batch_size)]

    def advance(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Continue each hypothesis by one token, and keep the most probable.

        Args:
            outputs: logits ``[batch_size * beam_size, C]``.

        Returns:
            int64 ``[batch_size * beam_size]`` each: the row that each kept hypothesis continues, and its new token.
        """
        logits = outputs.float().cpu()
        if not logits.amax(-1).isfinite().all():
            raise InputError(NOT_FINITE)
        # Twice as many as are kept, since as many as are kept may end. Sorted by logit and stably: greedy generation
        # takes the first of equal logits too.
        count = min(2 * self.beam_size, logits.shape[-1])
        classes = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :count]
        nats = logits.double().log_softmax(-1).gather(-1, classes)
        totals = (self.totals.flatten().unsqueeze(1) + nats).reshape(self.batch_size, -1)
        classes = classes.reshape(self.batch_size, -1)
        order = torch.sort(totals, dim=-1, descending=True, stable=True).indices[:, : 2 * self.beam_size].tolist()
        kept = torch.tensor(
            [self._keep(member, order[member], classes[member], totals[member]) for member in range(self.batch_size)]
        )
        beams, new = kept // count, classes.gather(1, kept)
        before = self.tokens.gather(1, beams.unsqueeze(-1).expand(-1, -1, self.tokens.shape[-1]))
        self.tokens = torch.cat([before, new.unsqueeze(-1)], -1)
        self.totals = totals.gather(1, kept)
        rows = beams + self.beam_size * torch.arange(self.batch_size).unsqueeze(1)
        return rows.flatten(), new.flatten()

    def _keep(self, member: int, order: list[int], classes: Tensor, totals: Tensor) -> list[int]:
        """Put aside the hypotheses that end, if they are probable enough, and return the places of those to keep."""
        done = len(self.finished[member]) >= self.beam_size
        count = len(classes) // self.beam_size
        kept: list[int] = []
        for rank, place in enumerate(order):
            if self.end is None or int(classes[place]) != self.end:
                kept.append(place)
            elif rank < self.beam_size and not done and totals[place] > -torch.inf:
                tokens = self.tokens[member, place // count]
                self.finished[member].append(self._hypothesis(tokens, float(totals[place]), len(tokens) + 1))
            if len(kept) == self.beam_size:
                break
        # With few classes too few continuations may be left that do not end; others fill the beam, as impossible ones.
        fill = [place for place in order if place not in kept][: self.beam_size - len(kept)]
        totals[fill] = -torch.inf
        return kept + fill

    def _hypothesis(self, tokens: Tensor, total: float, length: int) -> Hypothesis:
        return Hypothesis(tokens, total, total / max(length, 1) ** self.length_penalty)

    def is_done(self) -> bool:
        """Whether every sequence has as many finished hypotheses as its beam is wide."""
        return self.end is not None and all(len(found) >= self.beam_size for found in self.finished)

    def results(self) -> list[list[Hypothesis]]:
        """For each sequence its hypotheses, the best first."""
        found = []
        for member, finished in enumerate(self.finished):
            unfinished = [
                self._hypothesis(tokens, total, len(tokens))
                for tokens, total in zip(self.tokens[member], self.totals[member].tolist(), strict=True)
                if total > -torch.inf
            ]
            found.append(sorted(finished or unfinished, key=lambda one: -one.score))
        return found


def write(
    model: nn.Module,
    head: Head,
    prompt: Tensor,
    *,
    steps: int,
    source: Tensor | None = None,
    source_lengths: Tensor | None = None,
    end: int | None = None,
    beam_size: int = 1,
) -> list[Tensor]:
    """The most probable continuation of each prompt: greedy, or with ``beam_size`` above 1 by beam search.

    See `generate` for the arguments and `beam_search` for the beam.

    Returns:
        ``[length, ...]`` for each sequence, without its ``end``.
    """
    given = {"steps": steps, "source": source, "source_lengths": source_lengths, "end": end}
    if beam_size == 1:
        return sequences(generate(model, head, prompt, **given), prompt.shape[1], end)
    return [found[0].tokens for found in beam_search(model, head, prompt, beam_size=beam_size, **given)]
