"""Beam search for models with a categorical head, and a function for greedy generation or beam search."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.generation.stream import NO_PROMPT, Advance, Stream, generate, sequences
from rnnlab.heads import Categorical, Head
from rnnlab.heads.base import NOT_FINITE
from rnnlab.interface import InputError
from rnnlab.trees import State, map_state


class Hypothesis(NamedTuple):
    """A sequence found by beam search.

    tokens: int64 ``[length]``, without the end token.
    log_probability: log-probability in nats of the tokens and, if the sequence has ended, of the end token.
    score: ``log_probability / length ** length_penalty``, in which the length includes the end token.
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
    """Find the most probable continuations of each sequence of a batch by beam search.

    Each step keeps the ``beam_size`` most probable unfinished continuations. A continuation that ends counts as
    finished if it is among the ``beam_size`` most probable continuations of its step, otherwise it is discarded. The
    search of a sequence stops when it has ``beam_size`` finished continuations, or after ``steps`` steps. A beam size
    of 1 is greedy generation. The result of a sequence does not depend on the other sequences of the batch.

    Args:
        model: model in evaluation mode.
        head: a `rnnlab.heads.Categorical`.
        prompt: tokens ``[P, B]``, P at least 1.
        steps: maximum number of tokens to generate.
        beam_size: number of continuations to keep at each step.
        source: source of the model, ``[S, B, ...]``; None for a model without a source.
        source_lengths: length of each source, int64 ``[B]``; None if all are S.
        end: token that ends a sequence; None if sequences have no end token.
        length_penalty: exponent of the length; the score of a sequence is its log-probability divided by this power of
            its length (Wu et al., 2016, arXiv:1609.08144, section 7, without the constant); 0 for no penalty.

    Returns:
        the hypotheses of each sequence, best first: the finished ones, or the unfinished ones if none has finished.

    Raises:
        InputError: an option is not valid, or the outputs are not finite.
    """
    if not isinstance(head, Categorical):
        raise InputError(f"beam search requires a categorical head, got {type(head).__name__}; use greedy generation")
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
        if not len(origins):
            break
        outputs, state = _picked(outputs, state, origins, device)
        outputs, state = model.step(tokens.to(device, non_blocking=True), state)
    return search.results()


def _picked(outputs: Tensor, state: State, rows: Tensor, device: torch.device) -> tuple[Tensor, State]:
    rows = rows.to(device, non_blocking=True)
    return outputs[rows], map_state(lambda tensor: tensor[rows], state)


class _Search:
    """The hypotheses of a batch: ``beam_size`` unfinished hypotheses for each sequence, and the finished ones.

    members: the sequences whose search goes on; ``totals`` and ``tokens`` have their unfinished hypotheses.
    """

    def __init__(self, batch_size: int, beam_size: int, end: int | None, length_penalty: float) -> None:
        self.beam_size, self.end, self.length_penalty = beam_size, end, length_penalty
        self.members = list(range(batch_size))
        # Initially all rows of a sequence are identical, so only the first one has a non-zero probability.
        self.totals = torch.full((batch_size, beam_size), -torch.inf, dtype=torch.float64)
        self.totals[:, 0] = 0.0
        self.tokens = torch.empty(batch_size, beam_size, 0, dtype=torch.int64)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(batch_size)]

    def advance(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Extend each hypothesis by one token and keep the most probable hypotheses.

        Args:
            outputs: logits ``[members * beam_size, C]``.

        Returns:
            for each kept hypothesis of the sequences that are not done the row that it extends and its new token, int64
            ``[members * beam_size]`` each; empty if all sequences are done.
        """
        logits = outputs.float().cpu()
        if not logits.amax(-1).isfinite().all():
            raise InputError(NOT_FINITE)
        # Take 2 * beam_size candidates, since beam_size of them may end.
        count = min(2 * self.beam_size, logits.shape[-1])
        classes = _largest(logits, count)
        nats = logits.gather(-1, classes).double() - logits.double().logsumexp(-1, keepdim=True)
        members = len(self.members)
        totals = (self.totals.flatten().unsqueeze(1) + nats).reshape(members, -1)
        classes = classes.reshape(members, -1)
        order = torch.sort(totals, dim=-1, descending=True, stable=True).indices[:, : 2 * self.beam_size].tolist()
        kept = torch.tensor(
            [self._keep(place, order[place], classes[place], totals[place]) for place in range(members)]
        )
        beams, new = kept // count, classes.gather(1, kept)
        before = self.tokens.gather(1, beams.unsqueeze(-1).expand(-1, -1, self.tokens.shape[-1]))
        rows = beams + self.beam_size * torch.arange(members).unsqueeze(1)
        going = [place for place, member in enumerate(self.members) if len(self.finished[member]) < self.beam_size]
        self.tokens = torch.cat([before, new.unsqueeze(-1)], -1)[going]
        self.totals = totals.gather(1, kept)[going]
        self.members = [self.members[place] for place in going]
        return rows[going].flatten(), new[going].flatten()

    def _keep(self, place: int, order: list[int], classes: Tensor, totals: Tensor) -> list[int]:
        """Store finished hypotheses that are probable enough, and return the indices of the candidates to keep."""
        count = len(classes) // self.beam_size
        kept: list[int] = []
        for rank, candidate in enumerate(order):
            if self.end is None or int(classes[candidate]) != self.end:
                kept.append(candidate)
            elif rank < self.beam_size and totals[candidate] > -torch.inf:
                tokens = self.tokens[place, candidate // count]
                found = self._hypothesis(tokens, float(totals[candidate]), len(tokens) + 1)
                self.finished[self.members[place]].append(found)
            if len(kept) == self.beam_size:
                break
        # With few classes, fewer than beam_size candidates may be unfinished; fill the beam with impossible ones.
        fill = [candidate for candidate in order if candidate not in kept][: self.beam_size - len(kept)]
        totals[fill] = -torch.inf
        return kept + fill

    def _hypothesis(self, tokens: Tensor, total: float, length: int) -> Hypothesis:
        return Hypothesis(tokens, total, total / max(length, 1) ** self.length_penalty)

    def results(self) -> list[list[Hypothesis]]:
        """The hypotheses of each sequence, best first."""
        found = self.finished
        for place, member in enumerate(self.members):
            found[member] = found[member] or [
                self._hypothesis(tokens, total, len(tokens))
                for tokens, total in zip(self.tokens[place], self.totals[place].tolist(), strict=True)
                if total > -torch.inf
            ]
        return [sorted(one, key=lambda hypothesis: -hypothesis.score) for one in found]


def _largest(logits: Tensor, count: int) -> Tensor:
    """The classes of the largest logits of each row, in descending order; among equal ones, the first class wins."""
    values, classes = logits.topk(count)
    tied = (logits >= values[:, -1:]).sum(-1) > count  # topk takes any of the equal ones
    if tied.any():
        classes[tied] = torch.sort(logits[tied], dim=-1, descending=True, stable=True).indices[:, :count]
    classes = classes.sort(-1).values
    order = torch.sort(logits.gather(-1, classes), dim=-1, descending=True, stable=True).indices
    return classes.gather(-1, order)


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
    advance: Advance | None = None,
) -> list[Tensor]:
    """Generate a continuation of each prompt: greedily, or by beam search if ``beam_size`` is above 1.

    The arguments are those of `generate` and `beam_search`; ``advance`` applies to greedy generation.

    Returns:
        one tensor ``[length, ...]`` for each sequence, without its ``end``.
    """
    given = {"steps": steps, "source": source, "source_lengths": source_lengths, "end": end}
    if beam_size == 1:
        return sequences(generate(model, head, prompt, advance=advance, **given), prompt.shape[1], end)
    return [found[0].tokens for found in beam_search(model, head, prompt, beam_size=beam_size, **given)]
