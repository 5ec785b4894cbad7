"""The character language model: predict the next character of a text."""

from __future__ import annotations

import hashlib
import pydoc_data.topics
from functools import cached_property
from math import log, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.data import BYTE_ORDER_MARK, PublicFile, locate, read_text
from rnnlab.heads import IGNORE, Categorical
from rnnlab.interface import Batch, InputError, Mean, Metric, Sample, Tokens
from rnnlab.tasks._documents import document_starts, packed
from rnnlab.tasks._ngrams import MarkedBatch, repeated
from rnnlab.tasks._predicting import Characters, Predicts
from rnnlab.tasks.base import Task, check_least, check_shares
from rnnlab.text import Alphabet, Speaker

TINY_SHAKESPEARE = PublicFile(
    path="tiny_shakespeare/input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
CORPORA = ("pydoc", "tiny_shakespeare")
SAMPLE_LENGTH = 200
"""Characters of a sample during training."""


class CharLM(Predicts, Task):
    r"""Next-character prediction over contiguous parallel streams, as in char-rnn.

    The text is split into contiguous train, valid and test parts, in this order. Each part is split into
    ``batch_size`` contiguous streams. Batch number n contains the n-th window of ``seq_len`` characters of each stream,
    and the state is carried from window to window (truncated BPTT). At the end of the streams, training starts again
    from the first window, with ``fresh`` set. With batch_size=2 and seq_len=3, the text "abcdefghijklm" gives

        batch 0   inputs  abc  ghi     targets  bcd  hij     fresh
        batch 1   inputs  def  jkl     targets  efg  klm

    (one column per stream; tensors are ``[seq_len, batch_size]``). Evaluation scores each character of a split except
    the first exactly once.

    Args:
        seed: not used; the data is not random.
        data_root: directory of the public data sets.
        corpus: ``pydoc`` (the standard library's help texts), ``tiny_shakespeare``, or the path of a UTF-8 file.
        split: fractions of train, valid and test, or of train and valid; they sum to 1.
        batch_size: number of streams.
        seq_len: number of steps per window, the truncation length of BPTT.
        recall_length: length of the n-grams whose repetitions are scored separately in an evaluation, in characters; 0:
            none. A character can be recalled from the context if it ends an n-gram that occurred earlier in its stream.
            N-grams that are frequent in the training text do not count, because a model can store them in its weights.
            Arora et al., 2023 (arXiv:2312.04927) measure recall in this way with bigrams of word pieces.
        recall_count: largest number of occurrences of such an n-gram in the training text.
        documents: text that ends each document of the corpus, with \n for a line break; empty: the corpus is one text.
            With documents, splits and streams contain whole documents, ``fresh`` is ``[seq_len, batch_size]`` and True
            where a document starts, and the first character of a document is not scored: the loss is the mean over all
            documents, each read alone.

    Raises:
        InputError: the corpus cannot be read or is too short, an option is not valid, or no n-gram is repeated.
    """

    decodes_every_step = True
    metrics = {"loss": Metric("nats per character"), "bpc": Metric("bits per character")}

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "pydoc",
        split: list[float] = (0.9, 0.05, 0.05),
        batch_size: int = 32,
        seq_len: int = 64,
        recall_length: int = 0,
        recall_count: int = 2,
        documents: str = "",
    ) -> None:
        super().__init__(seed, data_root)
        check_shares(split)
        check_least(1, batch_size=batch_size, seq_len=seq_len)
        check_least(0, recall_length=recall_length, recall_count=recall_count)
        self.corpus = corpus
        self.split = list(split)
        self.splits = ("train", "valid", "test")[: len(split)]
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.recall_length, self.recall_count = recall_length, recall_count
        self.documents = documents.replace("\\n", "\n")
        if documents and recall_length:
            raise InputError(
                f"task.recall_length={recall_length} counts repetitions across documents; use it without task.documents"
            )
        if recall_length:
            self.metrics = self.metrics | {
                "loss_repeated": Metric("nats per character that ends a repeated n-gram"),
                "loss_other": Metric("nats per other character"),
            }
        self._repeated: dict[str, Tensor] = {}
        self._has_marks = False

    @cached_property
    def text(self) -> str:
        """The whole corpus, without byte order marks unless the model was trained on them."""
        text = read_corpus(self.corpus, self.data_root)
        return text if self._has_marks else text.replace(BYTE_ORDER_MARK, "")

    @cached_property
    def vocabulary(self) -> Alphabet:
        """The characters of the corpus, or of the training corpus for a trained model."""
        return Alphabet.of(self.text)

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(len(self.vocabulary))

    @property
    def head(self) -> Categorical:  # noqa: D102
        return Categorical(len(self.vocabulary))

    @property
    def default_prompt(self) -> str:
        """A line break, or the first character of the vocabulary if it contains no line break."""
        return "\n" if "\n" in self.vocabulary.characters else self.vocabulary.characters[0]

    @cached_property
    def streams(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Inputs and targets of each split, ``[steps, batch_size]``."""
        return {name: found[:2] for name, found in self._parts.items()}

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs and targets of each split, and with ``documents`` also where documents start."""
        tokens = self.vocabulary.encode(self.text)
        ends = [round(len(tokens) * sum(self.split[: i + 1])) for i in range(len(self.split))]
        found, start = {}, 0
        first = document_starts(self.text, self.documents) if self.documents else None
        for name, end in zip(self.splits, ends, strict=True):
            if first is None:
                found[name] = self._streams_of(tokens[start:end], name)
            else:  # only whole documents
                end = int(torch.cat([first, torch.tensor([len(tokens)])])[torch.searchsorted(first, end)])
                inside = first[(first >= start) & (first < end)] - start
                found[name] = self._documents_of(tokens[start:end], inside, name)
            start = end
        return found

    def _documents_of(self, tokens: Tensor, first: Tensor, split: str) -> tuple[Tensor, ...]:
        streams, multiple = (self.batch_size, self.seq_len) if split == "train" else (len(first), 1)
        found = packed(tokens, first, min(self.batch_size, streams), multiple) if len(first) else None
        if found is None:
            raise InputError(
                f"the {split} part of corpus {self.corpus!r} has {len(first)} documents ending with "
                f"{self.documents!r}, too few for {self.batch_size} streams; lower task.batch_size"
            )
        return found

    def _streams_of(self, tokens: Tensor, split: str) -> tuple[Tensor, Tensor]:
        inputs, targets = tokens[:-1], tokens[1:]
        if split == "train":  # only full windows; this drops less than one batch of characters
            steps = len(inputs) // (self.batch_size * self.seq_len) * self.seq_len
            inputs, targets = inputs[: steps * self.batch_size], targets[: steps * self.batch_size]
        else:  # all characters; the last streams are padded with positions that are not scored
            steps = -(-len(inputs) // self.batch_size)
            missing = steps * self.batch_size - len(inputs)
            inputs = torch.cat([inputs, inputs.new_zeros(missing)])
            targets = torch.cat([targets, targets.new_full((missing,), IGNORE)])
        if not steps:
            raise InputError(
                f"the {split} part of corpus {self.corpus!r} has {len(tokens)} characters, too few for one batch of "
                f"{self.batch_size} x {self.seq_len}; lower task.batch_size or task.seq_len, or give a longer text"
            )
        return (
            inputs.view(self.batch_size, steps).t().contiguous(),
            targets.view(self.batch_size, steps).t().contiguous(),
        )

    def num_batches(self, split: str) -> int:  # noqa: D102
        return -(-self.streams[split][0].shape[0] // self.seq_len)

    def batch(self, split: str, step: int) -> Batch:
        """Window ``step`` of each stream, ``[seq_len, batch_size]``; the last evaluation window may be shorter."""
        inputs, targets = self.streams[split]
        window = step % self.num_batches(split)
        steps = slice(window * self.seq_len, (window + 1) * self.seq_len)
        fresh = self._parts[split][2][steps] if self.documents else torch.full((self.batch_size,), window == 0)
        if not self.recall_length:
            return Batch(inputs[steps], targets[steps], fresh=fresh)
        return MarkedBatch(inputs[steps], targets[steps], fresh=fresh, repeated=self.repeated(split)[steps])

    def repeated(self, split: str) -> Tensor:
        """Whether each target of a split ends a repeated n-gram of ``recall_length`` characters, bool ``[T, B]``.

        Raises:
            InputError: no n-gram of the split is repeated.
        """
        if split not in self._repeated:
            scored = self.streams[split][1] != IGNORE
            found = repeated(
                self._texts(split), self._texts("train"), length=self.recall_length, most=self.recall_count
            )[1:]
            found &= scored
            if not found.any():
                raise InputError(
                    f"the {split} part of corpus {self.corpus!r} repeats no n-gram of task.recall_length="
                    f"{self.recall_length} characters that occurs at most task.recall_count={self.recall_count} times "
                    "in the training part; give a smaller length, a larger count or a longer text"
                )
            self._repeated[split] = found
        return self._repeated[split]

    def _texts(self, split: str) -> Tensor:
        """The characters of each stream, ``[T + 1, B]``; padding is a token of its own."""
        inputs, targets = self.streams[split]
        return torch.cat([inputs[:1], targets.masked_fill(targets == IGNORE, len(self.vocabulary))])

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """With ``recall_length``, the losses of characters that end a repeated n-gram and of all others."""
        if not self.recall_length:
            return {}
        marks = {"loss_repeated": batch.repeated, "loss_other": ~batch.repeated}
        return {name: self.head.loss(outputs, batch.targets.where(mask, IGNORE)) for name, mask in marks.items()}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """Add bits per character, ``loss / ln 2``."""
        return {**means, "bpc": means["loss"] / log(2)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``: uniform over characters; ``unigram``: training frequencies with add-one smoothing."""
        size = len(self.vocabulary)
        seen = self.streams["train"][1]
        counts = 1 + torch.bincount(seen[seen != IGNORE], minlength=size).double()
        nats = -(counts / counts.sum()).log()
        targets = self.streams[split][1]
        scored = {"loss": targets != IGNORE}
        if self.recall_length:
            marks = self.repeated(split)
            scored |= {"loss_repeated": marks, "loss_other": scored["loss"] & ~marks}
        return {
            "chance": self.derive(dict.fromkeys(scored, log(size))),
            "unigram": self.derive({name: float(nats[targets[mask]].mean()) for name, mask in scored.items()}),
        }

    def sample(self, model: nn.Module) -> Sample:
        """A text of `SAMPLE_LENGTH` characters, drawn at temperature 0.8."""
        speaker = self.speaker(model, temperature=0.8, top_k=0, seed=0)
        return Sample("".join(speaker.generate(self.default_prompt, length=SAMPLE_LENGTH)).strip())

    def spell(self, inputs: Tensor) -> list[str]:
        """The characters of the tokens."""
        return [self.vocabulary.characters[token] for token in inputs.tolist()]

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Speaker:  # noqa: D102
        return Speaker(model, self.vocabulary, temperature, top_k, seed)

    def encode(self, values: str | list[str]) -> list[Tensor]:
        """The tokens of a text or of several texts."""
        texts = _texts_of(values)
        if "" in texts:
            raise InputError("a text is empty; give texts with at least one character")
        return [self.vocabulary.encode(text) for text in texts]

    def decode(self, outputs: list[Tensor], values: str | list[str]) -> Characters:
        """The log-probability of each character but the first of each text."""
        found = []
        for text, logits in zip(_texts_of(values), outputs, strict=True):
            later = logits[:-1].float().log_softmax(1).gather(1, self.vocabulary.encode(text[1:]).unsqueeze(1))
            found.append(torch.cat([torch.full((1,), nan), later.squeeze(1)]))
        return Characters(_texts_of(values), found)

    def read_own(self, path: Path) -> str:
        """The text of a UTF-8 file."""
        return read_text(path).replace(BYTE_ORDER_MARK, "")

    def describe(self) -> list[str]:
        """The size of the corpus and of its vocabulary, and its line breaks."""
        if self.corpus in CORPORA:
            return []
        parts = ", ".join(f"{name} {share:g}" for name, share in zip(self.splits, self.split, strict=True))
        breaks = "".join(character for character in "\r\n" if character in self.vocabulary.characters) or None
        return [
            f"data: {len(self.text)} characters of {self.corpus} ({parts}), {len(self.vocabulary)} different ones, "
            f"line breaks: {breaks!r}"
        ]

    def memory(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"vocabulary": self.vocabulary.characters}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self.vocabulary = Alphabet(memory["vocabulary"])
        # Earlier versions kept the mark in the text and in the vocabulary; their models need the same text.
        self._has_marks = BYTE_ORDER_MARK in self.vocabulary.characters

    def data_digest(self) -> str:
        """SHA-256 of the whole text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _texts_of(values: str | list[str]) -> list[str]:
    texts = [values] if isinstance(values, str) else list(values)
    if not all(isinstance(text, str) for text in texts):
        raise InputError("a text model predicts on a text or a list of texts")
    return texts


def read_corpus(corpus: str, data_root: str) -> str:
    """The text of a corpus, given by a built-in name or the path of a UTF-8 file.

    Raises:
        InputError: the file does not exist, is empty, or is not text.
    """
    if corpus == "pydoc":
        return "\n".join(pydoc_data.topics.topics.values())
    path = locate(TINY_SHAKESPEARE, data_root) if corpus == "tiny_shakespeare" else Path(corpus).expanduser()
    if not path.is_file():
        raise InputError(
            f"task.corpus={corpus!r} is neither a file nor one of {', '.join(CORPORA)}; give the path of a UTF-8 file"
        )
    return read_text(path)
