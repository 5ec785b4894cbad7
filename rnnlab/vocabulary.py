"""Vocabularies: convert text to tokens and back, by character, word or byte pair."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rnnlab.interface import InputError

START, END, UNKNOWN = 0, 1, 2
"""The first tokens of each `Vocabulary`: start of a sequence, end of a sequence, and unknown text."""
FIRST = 3
"""The first token that stands for text."""

KINDS = ("character", "word", "bpe")
BYTES = 256
"""Smallest size of a ``bpe`` vocabulary: one piece for each byte."""

_WORD = re.compile(r" ?\w+| ?[^\w\s]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_JOINERS = "\u200c\u200d"
"""Zero-width characters within words (Persian) and between the parts of an emoji."""
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


def words(text: str) -> list[str]:
    """Split a text into words and punctuation marks; each piece starts with the space before it, if there is one.

    The pieces of "I'm here." are " I", "'", "m", " here" and ".": their concatenation is the text after a space, with
    every run of white space replaced by one space. Combining characters belong to their word, and the parts of an emoji
    are one piece.
    """
    pieces: list[str] = []
    for piece in _WORD.findall(" " + tidy(text)):
        if pieces and piece[0] != " " and _continues(piece[0], pieces[-1]):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _continues(first: str, before: str) -> bool:
    """Whether a piece that starts with the character ``first`` belongs to the piece before it."""
    if first in _JOINERS or first in _SKIN_TONES or before[-1] in _JOINERS or _is_mark(first):
        return True
    return first.isalnum() and _is_mark(before[-1]) and before.strip()[0].isalnum()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def tidy(text: str) -> str:
    """The text in composed Unicode form (NFC), with single spaces and without spaces at both ends.

    Bytes that are not UTF-8, which Python reads as surrogates, become U+FFFD.
    """
    return " ".join(unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", text)).split())


class Vocabulary:
    """The tokens of a text: START, END, UNKNOWN, then its pieces.

    Subclasses split a text into pieces. `decode` is the inverse of `encode` for texts without unknown pieces, up to
    white space (`tidy`).

    kind: ``character``, ``word`` or ``bpe``.
    """

    kind: str

    def __len__(self) -> int:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, without START and END."""
        raise NotImplementedError

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ``tokens``; START, END and UNKNOWN stand for nothing."""
        raise NotImplementedError

    def spell(self, tokens: Iterable[int]) -> list[str]:
        """A label for each token, for figures."""
        return [_LABELS[token] if token < FIRST else self.decode([token]).strip() or "␣" for token in tokens]

    def memory(self) -> dict[str, Any]:
        """The vocabulary as plain containers; see `restored`."""
        raise NotImplementedError


_LABELS = ("<s>", "</s>", "<unk>")


class _Listed(Vocabulary):
    """A vocabulary with a list of pieces, the most frequent first.

    Args:
        pieces: the pieces, without repetition.
    """

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces
        self._tokens = {piece: token for token, piece in enumerate(pieces, FIRST)}

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int) -> _Listed:
        """The most frequent pieces of ``texts``: at most ``size``, each at least ``min_count`` times."""
        counts = Counter(piece for text in texts for piece in cls.split(text))
        ordered = sorted((-count, piece) for piece, count in counts.items() if count >= min_count)
        return cls([piece for _, piece in ordered[:size]])

    @staticmethod
    def split(text: str) -> list[str]:
        """Split a text into pieces."""
        raise NotImplementedError

    def __len__(self) -> int:
        return FIRST + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        return [self._tokens.get(piece, UNKNOWN) for piece in self.split(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.pieces[token - FIRST] for token in tokens if token >= FIRST).strip()

    def memory(self) -> dict[str, Any]:
        return {"kind": self.kind, "pieces": self.pieces}


class Characters(_Listed):
    """A vocabulary of characters."""

    kind = "character"

    @staticmethod
    def split(text: str) -> list[str]:  # noqa: D102
        return list(tidy(text))


class Words(_Listed):
    """A vocabulary of words and punctuation marks, see `words`."""

    kind = "word"
    split = staticmethod(words)


class BytePairs(Vocabulary):
    """Byte-level byte-pair encoding (Sennrich, Haddow and Birch, 2016, arXiv:1508.07909), which has no unknown text.

    Args:
        description: JSON of a tokenizer of the package ``tokenizers``.
    """

    kind = "bpe"

    def __init__(self, description: str) -> None:
        self._tokenizer = _tokenizers().Tokenizer.from_str(description)
        self._description = description

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int) -> BytePairs:
        """Merge the most frequent pairs of ``texts`` until there are ``size`` pieces or a pair is too rare."""
        library = _tokenizers()
        if size < BYTES:
            raise InputError(
                f"task.vocabulary_size={size} must be at least {BYTES} for task.vocabulary=bpe, "
                "which has a token for each byte"
            )
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_count,
            show_progress=False,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        )
        made.train_from_iterator(map(tidy, texts), trainer)
        return cls(made.to_str())

    def __len__(self) -> int:
        return FIRST + self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return [FIRST + piece for piece in self._tokenizer.encode(tidy(text)).ids]

    def decode(self, tokens: Iterable[int]) -> str:  # noqa: D102
        return self._tokenizer.decode([token - FIRST for token in tokens if token >= FIRST]).strip()

    def memory(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "tokenizer": self._description}


def learn(kind: str, texts: Iterable[str], size: int = 8000, min_count: int = 1) -> Vocabulary:
    """Learn a vocabulary from texts; the result does not depend on their order.

    Args:
        kind: ``character``, ``word`` or ``bpe``.
        texts: the training texts.
        size: largest number of pieces, for ``bpe`` at least 256; START, END and UNKNOWN are not counted.
        min_count: how often a piece, or for ``bpe`` a pair, must occur.

    Raises:
        InputError: the kind is unknown, no piece is left, or for ``bpe`` the size is too small or ``tokenizers`` is not
            installed.
    """
    if kind not in KINDS:
        raise InputError(f"task.vocabulary={kind!r} is not one of {', '.join(KINDS)}")
    made = {"character": Characters, "word": Words, "bpe": BytePairs}[kind].learn(texts, size, min_count)
    if len(made) == FIRST:
        raise InputError("the vocabulary is empty; give more text, or lower task.min_count")
    return made


def restored(memory: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `Vocabulary.memory` described."""
    if memory["kind"] == "bpe":
        return BytePairs(memory["tokenizer"])
    return {"character": Characters, "word": Words}[memory["kind"]](list(memory["pieces"]))


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError:
        raise InputError(
            "task.vocabulary=bpe needs the package tokenizers, which is not installed; pip install 'rnnlab[text]'"
        ) from None
    return tokenizers
