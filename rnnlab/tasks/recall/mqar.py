"""Multi-query associative recall: key-value pairs, followed by a query for each key."""

from __future__ import annotations

import hashlib
from functools import partialmethod
from math import log
from typing import Any

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least

SINGLE = {"pairs": 4, "lengths": [64, 64], "test_lengths": [64, 64], "curriculum": None}
"""Defaults of the options that a mixture replaces."""


class MQAR(Generated, Labelling):
    """Recall the value of each queried key (Arora et al., 2023, arXiv:2312.04927).

    A sequence starts with key-value pairs, in which no key and no value occurs twice. The queries follow: each key
    occurs once more, at a random position among every second step. Positions are drawn without replacement; the n-th
    has the weight n ** (power - 1), so most queries are early. All other steps are blank. With a vocabulary of 8 and
    two pairs:

        inputs   a 3 c 0 . . c . a . . .        values 0 to 3, keys a, b, c = 4, 5, 6, blank . = 7
        targets  - - - - - - 0 - 3 - - -        - is not scored

    The paper uses a vocabulary of 8192, with 4 pairs in 64 steps, 8 in 128, 16 in 256 and 64 in 512. Its outputs are
    over all tokens; here the outputs are over values only. Chance is 2 / vocab.

    Later work trains one model on several settings, and tests it on more pairs (Arora et al., 2024, arXiv:2402.18668);
    ``mixture`` and ``test_mixture`` list them. The accuracy is then reported for each number of pairs.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        vocab: number of tokens: half are values, one is the blank, the others are keys.
        pairs: number of pairs, and of queries, per sequence.
        power: distribution of the query positions; smaller values place queries earlier, 1 is uniform.
        random_filler: whether to replace each blank by a random token.
        mixture: parts of training and validation, each ``[length, pairs]`` or ``[length, pairs, weight]``; null: a
            single part. Training draws one part for each batch, with a probability proportional to its weight (1);
            validation covers every part. A mixture replaces ``lengths``, ``test_lengths``, ``curriculum`` and
            ``pairs``, which must keep their defaults.
        test_mixture: parts of the test set; null: those of ``mixture``.

    Raises:
        InputError: an option is not valid.
    """

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocab: int = 512,
        pairs: int = 4,
        power: float = 0.01,
        random_filler: bool = False,
        mixture: list[list[int]] | None = None,
        test_mixture: list[list[int]] | None = None,
        **shared: Any,
    ) -> None:
        check_least(1, pairs=pairs)
        _check_mixtures(mixture, test_mixture, {"pairs": pairs, **shared})
        most = pairs if mixture is None else max(part[1] for part in [*mixture, *(test_mixture or [])])
        if vocab % 2 or vocab // 2 - 1 < most:
            raise InputError(f"task.vocab={vocab} must be even, and at least {2 * most + 2} for task.pairs={most}")
        if not 0 < power <= 1:
            raise InputError(f"task.power={power} must be above 0 and at most 1, for example 0.01")
        self.vocab, self.pairs, self.power, self.random_filler = vocab, pairs, power, random_filler
        self.input = Tokens(vocab)
        self.output_size = vocab // 2
        super().__init__(seed, data_root, **shared)
        if mixture is not None:
            self.length_name = "pairs"
        self._parts = {"train": mixture, "valid": mixture, "test": test_mixture or mixture}

    __init__ = partialmethod(__init__, lengths=(64, 64), test_lengths=(64, 64), eval_batches=10)

    @property
    def shortest(self) -> int:
        """Two steps for each pair and two for each query."""
        return 4 * self.pairs

    def num_batches(self, split: str) -> int:  # noqa: D102
        parts = self._parts[split]
        return super().num_batches(split) if parts is None else len(parts) * self.eval_batches

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step``; see `draw`."""
        if self._parts[split] is None:
            return super().batch(split, step)
        generator = self.generator(split, step)
        return self.draw(generator, *self._part(split, step, generator))

    def lengths(self, split: str, step: int) -> Tensor | None:
        """The number of pairs of each sequence of a mixture, otherwise its length; None if the split has only one."""
        parts = self._parts[split]
        if parts is None:
            return super().lengths(split, step)
        if len({pairs for _, pairs, *_ in parts}) == 1:
            return None
        return torch.full((self.batch_size,), self._part(split, step, self.generator(split, step))[1])

    def _part(self, split: str, step: int, generator: torch.Generator) -> tuple[int, int]:
        """The length and the number of pairs of a batch of a mixture."""
        parts = self._parts[split]
        place = step // self.eval_batches
        if split == "train":
            place = int(torch.tensor(_weights(parts)).multinomial(1, generator=generator))
        length, pairs, *_ = parts[place]
        return length, pairs

    def draw(self, generator: torch.Generator, length: int, pairs: int | None = None) -> Batch:
        """Key-value pairs, then queries among blanks; ``pairs`` is the option by default."""
        pairs = pairs or self.pairs
        half, size, start = self.vocab // 2, self.batch_size, 2 * pairs
        # topk of random numbers is a sample without replacement, in random order
        keys = half + torch.rand(size, half - 1, generator=generator).topk(pairs).indices.t()
        values = torch.rand(size, half, generator=generator).topk(pairs).indices.t()
        weights = torch.arange(1, (length - start) // 2 + 1, dtype=torch.float64) ** (self.power - 1)
        places = start + 2 * torch.multinomial(weights.expand(size, -1), pairs, generator=generator).t()

        inputs = torch.full((length, size), self.vocab - 1)
        if self.random_filler:
            inputs.random_(self.vocab, generator=generator)
        inputs[:start:2], inputs[1:start:2] = keys, values
        inputs.scatter_(0, places, keys)
        targets = torch.full_like(inputs, IGNORE).scatter_(0, places, values)
        return Batch(inputs, targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``: a random value; ``value seen``: a random value of the same sequence."""
        parts = self._parts[split] or [[0, self.pairs]]
        # Evaluation has the same number of batches of each part; a longer sequence has more queries.
        weights = _weights(parts) if split == "train" else [1.0] * len(parts)
        counts = [pairs for _, pairs, *_ in parts]
        symbols = [weight * pairs for weight, pairs in zip(weights, counts, strict=True)]
        seen = {
            "loss": sum(n * log(pairs) for n, pairs in zip(symbols, counts, strict=True)) / sum(symbols),
            "accuracy": sum(weight / pairs for weight, pairs in zip(weights, counts, strict=True)) / sum(weights),
        }
        return {**super().baselines(split), "value seen": seen}

    def data_digest(self) -> str:
        """SHA-256 of the data, which includes all parts of a mixture."""
        digest = super().data_digest()
        if self._parts["valid"] is None:
            return digest
        return hashlib.sha256(f"{digest}/{self._parts['valid']}/{self._parts['test']}".encode()).hexdigest()


def _weights(parts: list[list[int]]) -> list[float]:
    return [float(part[2]) if len(part) == 3 else 1.0 for part in parts]


def _check_mixtures(
    mixture: list[list[int]] | None, test_mixture: list[list[int]] | None, others: dict[str, Any]
) -> None:
    """Check the parts, and that the options that they replace have their defaults.

    Raises:
        InputError: a part is not valid, or one of the ``others`` is set.
    """
    if mixture is None:
        if test_mixture is not None:
            raise InputError("task.test_mixture needs task.mixture, the parts of training and validation")
        return
    for name, default in SINGLE.items():
        given = others.get(name, default)
        if (list(given) if isinstance(given, tuple) else given) != default:
            raise InputError(f"task.mixture replaces task.{name}={given}; leave it at its default, {default}")
    for name, sizes, parts in (("mixture", (2, 3), mixture), ("test_mixture", (2,), test_mixture)):
        if parts == []:
            raise InputError(f"task.{name} is empty; give [[length, pairs], ...] or null")
        for part in parts or []:
            if len(part) not in sizes or min(part) < 1 or part[0] < 4 * part[1]:
                raise InputError(
                    f"task.{name} has the part {list(part)}; give [length, pairs]"
                    + " or [length, pairs, weight]" * (3 in sizes)
                    + ", with at least 4 steps for each pair"
                )
