"""Digit strings: write down the digits that a speaker says one after the other, without their times."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rnnlab.heads import CTC
from rnnlab.interface import Batch, InputError, Mean, Metric, on_host
from rnnlab.tasks.base import check_least
from rnnlab.tasks.speech._corpora import Recording
from rnnlab.tasks.speech._edit import edit_distance
from rnnlab.tasks.speech._features import HOP, log_mel
from rnnlab.tasks.speech.base import SHOWN, WORDS, Speech


class String(NamedTuple):
    """A string of digits by one speaker.

    rows: recordings of the split, in order.
    pauses: hops of silence after each recording.
    """

    rows: list[int]
    pauses: list[int]


class DigitStrings(Speech):
    """Transcribe one to seven digits of one speaker with connectionist temporal classification (CTC).

    A string joins recordings of the corpus; about half of them are followed by a pause. The recordings are split before
    they are joined, so no recording is in strings of two splits; see `Speech`. Two digits, five frames and one band:

        inputs    -0.9  0.7 -1.3  1.2  0.1
        targets    3  8                    the times of the digits are not given

    Training draws new strings for each batch, all with the same number of digits. The validation and test sets are
    fixed, with equally frequent numbers of digits.

    Metrics: word error rate (``wer``), the edit distance between the written and the true words, summed over all
    strings, divided by the number of true words; character error rate (``cer``), the same for the characters of the
    words, with spaces; ``exact``, the fraction of strings without an error. They decode greedily; ``wer_beam`` uses
    prefix beam search. The model cannot know the times of the digits, so bidirectional models do better.

    Args:
        seed, data_root, corpus, held_out, batch_size, frequency_masks, frequency_width, time_masks, time_width: see
            `Speech`.
        digits: smallest and largest number of digits of a string.
        pause: largest number of hops (16 ms) of silence after a recording; 0 for no pauses.
        eval_size: number of strings of the validation set and of the test set.
        beam_size: number of prefixes of beam search in evaluation.

    Raises:
        InputError: an option is not valid.
    """

    head = CTC(10)
    metrics = {
        "loss": Metric("nats per digit"),
        "wer": Metric("word errors per word"),
        "cer": Metric("character errors per character"),
        "exact": Metric("of the strings right", "higher"),
        "wer_beam": Metric("word errors per word with beam search"),
    }
    monitor = "wer"
    length_metric = "wer"
    longest = 600.0

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        digits: list[int] = (1, 7),
        pause: int = 8,
        eval_size: int = 490,
        beam_size: int = 8,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        if len(digits) != 2 or not 1 <= digits[0] <= digits[1]:
            raise InputError(f"task.digits={list(digits)} must be the smallest and the largest number, such as [1, 7]")
        check_least(0, pause=pause)
        check_least(1, eval_size=eval_size, beam_size=beam_size)
        self.range, self.pause, self.eval_size, self.beam_size = tuple(digits), pause, eval_size, beam_size

    @cached_property
    def rows(self) -> dict[str, list[list[int]]]:
        """The recordings of each speaker, by split."""
        found: dict[str, list[list[int]]] = {}
        for split, part in self.recordings.items():
            speakers: dict[str, list[int]] = {}
            for row, one in enumerate(part):
                speakers.setdefault(one.speaker, []).append(row)
            found[split] = list(speakers.values())
        return found

    def drawn(self, split: str, counts: list[int], generator: torch.Generator) -> list[String]:
        """A random string for each number of digits in ``counts``."""
        dice = iter(torch.randint(2**31, (len(counts) + 2 * sum(counts),), generator=generator).tolist())
        found = []
        for count in counts:
            speaker = self.rows[split][next(dice) % len(self.rows[split])]
            rows = [speaker[next(dice) % len(speaker)] for _ in range(count)]
            pauses = [max(0, next(dice) % (2 * self.pause + 1) - self.pause) for _ in range(count)]
            found.append(String(rows, pauses))
        return found

    @cached_property
    def strings(self) -> dict[str, list[String]]:
        """The strings of the validation set and of the test set."""
        first, last = self.range
        counts = [first + n % (last - first + 1) for n in range(self.eval_size)]
        return {split: self.drawn(split, counts, self.generator(split, 0)) for split in ("valid", "test")}

    def num_batches(self, split: str) -> int:
        """Number of batches of an evaluation; training goes on with new strings."""
        return -(-self.eval_size // self.batch_size)

    def chosen(self, split: str, step: int) -> list[String]:
        """The strings of a batch."""
        if split != "train":
            return self.strings[split][step * self.batch_size : (step + 1) * self.batch_size]
        generator, (first, last) = self.generator(split, step), self.range
        count = int(torch.randint(first, last + 1, (), generator=generator))
        return self.drawn(split, [count] * self.batch_size, generator)

    def batch(self, split: str, step: int) -> Batch:
        """Features ``[T, B, F]`` and digits ``[L, B]``, each padded to the longest of the batch."""
        chosen = self.chosen(split, step)
        inputs, lengths = self.padded(self.joined(split, chosen), split, step)
        targets = pad_sequence([torch.tensor(self.spoken(split, one)) for one in chosen])
        return Batch(inputs, targets, lengths, target_lengths=torch.tensor([len(one.rows) for one in chosen]))

    def joined(self, split: str, strings: list[String]) -> list[Tensor]:
        """The normalised features of the `sound` of each string, ``[T, MELS]``.

        Recordings and pauses have whole numbers of hops, and a frame has two hops. So the frames of a string are those
        of its recordings, which are known, and one frame at each border, which is computed here.
        """
        zeros, empty = torch.zeros(HOP), torch.empty(0, self.input.size)
        blocks = []  # of each string: features, first and last hop of recordings and of the hops of pauses
        for rows, pauses in strings:
            parts = []
            for row, pause in zip(rows, pauses, strict=True):
                parts += [(self.features[split][row], *self.ends[split][row]), *[(empty, zeros, zeros)] * pause]
            blocks.append(parts)
        borders = [torch.cat([one[2], other[1]]) for parts in blocks for one, other in pairwise(parts)]
        between = iter(self.normalised(log_mel(torch.stack(borders))) if borders else ())
        return [
            torch.cat([parts[0][0], *(part for block in parts[1:] for part in (next(between), block[0]))])
            for parts in blocks
        ]

    @cached_property
    def ends(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """The first and the last whole hop of each recording, ``[HOP]`` each."""
        return {
            split: [(samples[:HOP], samples[len(samples) - HOP :]) for samples in map(_whole, part)]
            for split, part in self.recordings.items()
        }

    def spoken(self, split: str, string: String) -> list[int]:
        """The digits of a string."""
        return [self.recordings[split][row].digit for row in string.rows]

    def sound(self, split: str, string: String) -> Tensor:
        """The samples of a string, float ``[N]``: recordings, cut to a whole number of hops, and pauses of zeros."""
        parts = []
        for row, pause in zip(*string, strict=True):
            parts += [_whole(self.recordings[split][row]), torch.zeros(pause * HOP)]
        return torch.cat(parts)

    def texts(self, outputs: Tensor, lengths: Tensor, beam_size: int) -> list[str]:  # noqa: D102
        if beam_size > 1:
            return list(map(_words, self.head.beam_search(outputs, lengths, beam_size)))
        return list(map(_words, self.head.decode(outputs, lengths)))

    def lengths(self, split: str, step: int) -> Tensor:
        """The number of digits of each string of a batch."""
        return torch.tensor([len(one.rows) for one in self.chosen(split, step)])

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:  # noqa: D102
        outputs = outputs.cpu()
        columns = zip(batch.targets.T.tolist(), on_host(batch.target_lengths).tolist(), strict=True)
        references = [_text(labels[:count]) for labels, count in columns]
        found = error_rates(self.texts(outputs, batch.lengths, 1), references)
        beam = error_rates(self.texts(outputs, batch.lengths, self.beam_size), references)
        return found | {"wer_beam": beam["wer"]}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baselines ``nothing`` (no text), and ``most frequent``: the most frequent training digit, written once."""
        strings = self.strings.get(split) or self.chosen(split, 0)
        references = [_text(self.spoken(split, one)) for one in strings]
        common = Counter(one.digit for one in self.recordings["train"]).most_common(1)[0][0]
        found = {}
        for name, text in (("nothing", ""), ("most frequent", WORDS[common])):
            rates = error_rates([text] * len(references), references)
            found[name] = {metric: float(total.sum() / count.sum()) for metric, (total, count) in rates.items()}
        return found

    def examples(self) -> list[tuple[str, Tensor]]:  # noqa: D102
        shown = self.strings["valid"][:: -(-self.eval_size // SHOWN)]
        return [(_text(self.spoken("valid", one)), self.sound("valid", one)) for one in shown]


def _whole(recording: Recording) -> Tensor:
    """The samples of a recording, cut to a whole number of hops."""
    return torch.from_numpy(recording.samples[: len(recording.samples) // HOP * HOP])


def _text(digits: list[int]) -> str:
    return " ".join(WORDS[digit] for digit in digits)


def _words(labels: Tensor) -> str:
    return _text(labels.tolist())


def error_rates(texts: list[str], references: list[str]) -> dict[str, Mean]:
    """Errors and sizes of each text, ``[B]``: words (``wer``), characters (``cer``), and whole texts (``exact``)."""
    pairs = list(zip(texts, references, strict=True))
    words = [(edit_distance(text.split(), reference.split()), len(reference.split())) for text, reference in pairs]
    characters = [(edit_distance(*pair), len(pair[1])) for pair in pairs]
    exact = [(float(text == reference), 1) for text, reference in pairs]
    found = {"wer": words, "cer": characters, "exact": exact}
    return {name: Mean(*torch.tensor(values, dtype=torch.float64).T) for name, values in found.items()}
