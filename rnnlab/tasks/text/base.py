"""Base class of tasks that read a text and write another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab import generation
from rnnlab.data import read_lines
from rnnlab.heads import Categorical
from rnnlab.interface import Batch, InputError, Metric, Sample, Tokens
from rnnlab.report.attention import attention_map
from rnnlab.tasks._predicting import Answers
from rnnlab.tasks._writing import Writer, started, teacher_forced
from rnnlab.tasks.base import Finite, check_least
from rnnlab.vocabulary import END, UNKNOWN, Vocabulary, learn, restored, tidy

Item = TypeVar("Item")
Splits = dict[str, list[Item]]

LONGEST = 1000
"""Largest number of tokens of a text that a trained model is given."""
TOGETHER = 100
"""Number of batches whose sequences are sorted by length in training, so that batches have little padding."""


class Pair(NamedTuple):
    """A source text and its target text."""

    source: str
    target: str


class TextToText(Answers, Finite):
    """Read a source text, then write a target text.

        source   il fait froid . END
        inputs   START it is cold .
        targets  it is cold . END

    Subclasses define `read`. Target tokens that the vocabulary does not have are not scored, so a model never writes
    them. Training shuffles the pairs in each epoch and puts pairs of similar length into a batch.

    Args:
        seed: seed of the training batches.
        data_root: directory of the public data sets.
        vocabulary: tokens of the texts: ``word`` (words and punctuation marks), ``character``, or ``bpe`` (byte pairs,
            learned on the training texts; needs ``pip install 'rnnlab[text]'``).
        vocabulary_size: largest number of tokens of each vocabulary.
        min_count: how often a token must occur in the training texts.
        batch_size: number of pairs per batch.
        beam_size: beam size in evaluation; 1 is greedy.
        longest_output: largest number of tokens that the model writes.

    shares_vocabulary: whether source and target have one vocabulary.
    """

    metrics = {"loss": Metric("nats per token"), "exact": Metric("of the texts written exactly", "higher")}
    monitor = "exact"
    end = END
    shares_vocabulary = False
    usage = 'translate run={run} "TEXT"'

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocabulary: str = "word",
        vocabulary_size: int = 8000,
        min_count: int = 1,
        batch_size: int = 64,
        beam_size: int = 1,
        longest_output: int = 100,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(
            1,
            vocabulary_size=vocabulary_size,
            min_count=min_count,
            batch_size=batch_size,
            beam_size=beam_size,
            longest_output=longest_output,
        )
        self.vocabulary = vocabulary
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self.batch_size, self.beam_size, self.longest_output = batch_size, beam_size, longest_output
        self._orders: dict[int, Tensor] = {}

    def read(self) -> dict[str, list[Pair]]:
        """The pairs of each split.

        Raises:
            InputError: the data cannot be read.
        """
        raise NotImplementedError

    @cached_property
    def pairs(self) -> dict[str, list[Pair]]:
        """The pairs of each split."""
        return self.read()

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The vocabularies of source and target, learned from the training texts."""
        sources, targets = zip(*self.pairs["train"], strict=True)
        options = (self.vocabulary_size, self.min_count)
        if self.shares_vocabulary:
            both = learn(self.vocabulary, [*sources, *targets], *options)
            return both, both
        return learn(self.vocabulary, sources, *options), learn(self.vocabulary, targets, *options)

    @property
    def source(self) -> Tokens:  # noqa: D102
        return Tokens(len(self.vocabularies[0]))

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(len(self.vocabularies[1]))

    @property
    def head(self) -> Categorical:  # noqa: D102
        return Categorical(len(self.vocabularies[1]))

    @cached_property
    def encoded(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """The tokens of source and target of each pair, each with END."""
        source, target = self.vocabularies
        return {
            split: [(_ended(source.encode(pair.source)), _ended(target.encode(pair.target))) for pair in pairs]
            for split, pairs in self.pairs.items()
        }

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.pairs[split])

    def chosen(self, split: str, step: int) -> Tensor:
        """Indices of the pairs of a batch, int64 ``[B]``; pairs of similar length in training."""
        if split != "train":
            return super().chosen(split, step)
        epoch, place = divmod(step, self.num_batches(split))
        order = self._orders.get(epoch)
        if order is None:
            order = self._shuffled(epoch)
            self._orders = {epoch: order}  # one epoch is kept: training asks for the steps in order
        return order[place]

    def _shuffled(self, epoch: int) -> Tensor:
        """The batches of an epoch: indices of pairs, int64 ``[batches, B]``."""
        generator, batches = self.generator("train", epoch), self.num_batches("train")
        size = min(self.batch_size, self.count("train"))
        order = torch.randperm(self.count("train"), generator=generator)[: batches * size]
        # By the length of the target first: a step of the decoder costs more than one of the encoder.
        lengths = torch.tensor([[len(target), len(source)] for source, target in self.encoded["train"]])
        lengths = lengths[:, 0] * (int(lengths[:, 1].max()) + 1) + lengths[:, 1]
        pools = [pool[lengths[pool].argsort(stable=True)] for pool in order.split(TOGETHER * size)]
        return torch.cat(pools).view(batches, size)[torch.randperm(batches, generator=generator)]

    def batch(self, split: str, step: int) -> Batch:  # noqa: D102
        return self.together(split, self.chosen(split, step))

    def together(self, split: str, indices: Tensor) -> Batch:
        """The batch of some pairs of a split."""
        pairs = self.encoded[split]
        sources, targets = zip(*(pairs[index] for index in indices.tolist()), strict=True)
        return teacher_forced(targets, **_source(sources))

    def steps_to_write(self, split: str) -> int:  # noqa: D102
        return self.longest_output if split != "train" else 0

    def texts(self, written: list[Tensor]) -> list[str]:
        """The texts of generated sequences of tokens."""
        return [self.vocabularies[1].decode(tokens.tolist()) for tokens in written]

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """The fraction of texts that equal the target, up to white space."""
        pairs = zip(self.texts(written), self.pairs[split], strict=True)
        return {"exact": sum(text == tidy(pair.target) for text, pair in pairs) / len(written)}

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """The sources, the targets (references) and the model's texts (hypotheses) of a split, one per line."""
        pairs = self.pairs[split]
        columns = {
            "sources": [pair.source for pair in pairs],
            "references": [pair.target for pair in pairs],
            "hypotheses": self.texts(written),
        }
        return {f"{name}.txt": "".join(one_line(text) + "\n" for text in texts) for name, texts in columns.items()}

    def unigram_loss(self, split: str) -> float:
        """The loss of the frequencies of tokens in training, with add-one smoothing."""
        targets = {name: torch.cat([target for _, target in self.encoded[name]]) for name in ("train", split)}
        counts = 1 + torch.bincount(targets["train"], minlength=len(self.vocabularies[1])).double()
        scored = targets[split][targets[split] != UNKNOWN]
        return float(-(counts / counts.sum()).log()[scored].mean())

    @torch.inference_mode()
    def answer(self, model: nn.Module, texts: Sequence[str], beam_size: int | None = None) -> list[str]:
        """What a trained model writes for each of ``texts``, greedily or by beam search; nothing for an empty text.

        Args:
            model: model in evaluation mode.
            texts: source texts.
            beam_size: beam size; None for the task's.

        Raises:
            InputError: a text is too long, or all of its tokens are unknown.
        """
        answers, encoded = [""] * len(texts), []
        for number, text in enumerate(texts):
            tokens = self.encode_source(text)
            if len(tokens) > 1:
                encoded.append((number, tokens))
        encoded.sort(key=lambda pair: len(pair[1]))
        for start in range(0, len(encoded), self.batch_size):
            numbers, sources = zip(*encoded[start : start + self.batch_size], strict=True)
            written = self.write(model, sources, self.beam_size if beam_size is None else beam_size)
            for number, text in zip(numbers, self.texts(written), strict=True):
                answers[number] = text
        return answers

    def read_own(self, path: Path) -> list[str]:
        """The lines of a UTF-8 file."""
        return read_lines(path)

    def encode_source(self, text: str) -> Tensor:
        """The tokens of a source text, int64 ``[S]``, with END.

        Raises:
            InputError: the text is too long, or all of its tokens are unknown.
        """
        tokens = self.vocabularies[0].encode(text)
        shown = tidy(text)[:40]
        if len(tokens) > LONGEST:
            raise InputError(
                f"the text {shown!r}... has {len(tokens)} tokens; at most {LONGEST} are possible, so split it"
            )
        if tokens and all(token == UNKNOWN for token in tokens):
            raise InputError(
                f"the model's vocabulary has no token of the text {shown!r}; give a text in the language of the "
                "training data"
            )
        return _ended(tokens)

    def write(
        self, model: nn.Module, sources: Sequence[Tensor], beam_size: int, steps: int | None = None
    ) -> list[Tensor]:
        """The tokens that a model writes for each of ``sources``, at most ``steps``; None for ``longest_output``."""
        given = started(model, len(sources), _source(sources))
        steps = steps or self.longest_output
        return generation.write(model, self.head, **given, steps=steps, end=END, beam_size=beam_size)

    def source_of(self, prompt: str) -> dict[str, Tensor]:
        """The source of a batch of one text, and its length."""
        return _source([self.encode_source(prompt)])

    def examples(self) -> list[Pair]:
        """The pairs that `sample` shows, spread over the validation set."""
        pairs = self.pairs["valid"]
        return pairs[:: -(-len(pairs) // 5)]

    def sample(self, model: nn.Module) -> list[Sample]:
        """Some pairs of the validation set with what the model writes, and where attention looked for the first."""
        pairs = self.examples()
        texts = self.answer(model, [pair.source for pair in pairs])
        lines = [
            f"source:    {tidy(pair.source)}\nreference: {tidy(pair.target)}\nwritten:   {text}"
            for pair, text in zip(pairs, texts, strict=True)
        ]
        return [Sample("\n\n".join(lines)), *self.attention_sample(model, pairs[0].source)]

    @torch.inference_mode()
    def attention_sample(self, model: nn.Module, text: str) -> list[Sample]:
        """A picture of the attention weights while the model writes; empty without attention or matplotlib."""
        source = self.encode_source(text)
        written = torch.cat([self.write(model, [source], self.beam_size)[0], torch.tensor([END])])
        batch = teacher_forced([written], **_source([source])).to(next(model.parameters()).device)
        weights = model.attention_weights(batch)
        if weights is None:
            return []
        labels = [
            vocabulary.spell(tokens)
            for vocabulary, tokens in zip(self.vocabularies, (source.tolist(), written.tolist()), strict=True)
        ]
        picture = attention_map(weights[:, 0].float().cpu().numpy(), *labels)
        return [] if picture is None else [Sample(picture, ".png")]

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """What the model writes for the source ``prompt``, and where attention looked; see `rnnlab.tasks.Task`."""
        text = prompt or self.default_prompt
        writer = self.speaker(model, temperature, top_k, seed)
        return [Sample("".join(writer.generate(text, length))), *self.attention_sample(model, text)]

    @property
    def default_prompt(self) -> str:
        """The first source of the validation set."""
        return self.pairs["valid"][0].source

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Writer:  # noqa: D102
        return Writer(self, model, temperature, top_k, seed)

    def describe(self) -> list[str]:
        """The size of the splits and of the vocabularies."""
        counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in self.pairs.items())
        source, target = map(len, self.vocabularies)
        sizes = f"{target:,}" if self.shares_vocabulary else f"{source:,} (source) and {target:,} (target)"
        return [f"data: pairs of {counts}; {self.vocabulary} vocabulary of {sizes} tokens"]

    def memory(self) -> dict[str, Any]:
        """The vocabularies."""
        return {"vocabularies": [vocabulary.memory() for vocabulary in self.vocabularies[: 2 - self.shares_vocabulary]]}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        found = [restored(one) for one in memory["vocabularies"]]
        self.vocabularies = (found[0], found[-1])

    def data_digest(self) -> str:
        """SHA-256 of all pairs."""
        digest = hashlib.sha256()
        for split, pairs in self.pairs.items():
            for pair in pairs:
                digest.update(f"{split}\t{pair.source}\t{pair.target}\n".encode())
        return digest.hexdigest()

    def spell(self, inputs: Tensor) -> list[str]:
        """The pieces of the target."""
        return self.vocabularies[1].spell(inputs.tolist())


def _ended(tokens: list[int]) -> Tensor:
    return torch.tensor([*tokens, END])


def _source(sources: Sequence[Tensor]) -> dict[str, Tensor]:
    """The source of a batch, padded with END, and its lengths."""
    lengths = torch.tensor([len(source) for source in sources])
    return {"source": pad_sequence(list(sources), padding_value=END), "source_lengths": lengths}


def hashed(text: str) -> int:
    """A number that depends on the text only, for an order that looks random."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def one_line(text: str) -> str:
    """A text as one line of a file."""
    return " ".join(text.split())


def assigned(items: list[Item], key: Callable[[Item], str], free: Iterable[str], size: int, corpus: str) -> Splits:
    """Assign items to splits by their keys; validation and test have one item, the first, for each key.

    Args:
        items: the items.
        key: text of an item by which it is assigned.
        free: keys that may be in validation or test; items with other keys are in training.
        size: number of keys of the validation set, and of the test set.
        corpus: name of the corpus, for the error.

    Raises:
        InputError: there are too few keys.
    """
    order = sorted(set(free), key=hashed)
    if len(order) <= 2 * size:
        raise InputError(
            f"the corpus {corpus!r} has {len(order)} sources, too few for a validation and a test set of {size} each "
            "and a training set; lower task.eval_size"
        )
    split_of = dict.fromkeys(order[:size], "test") | dict.fromkeys(order[size : 2 * size], "valid")
    found: Splits = {"train": [], "valid": [], "test": []}
    seen: set[str] = set()
    for one in items:
        name = key(one)
        split = split_of.get(name, "train")
        if split == "train" or name not in seen:
            found[split].append(one)
            seen.add(name)
    return found
