"""The alphabet of a character model, and text generation character by character."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rnnlab.generation import Stream
from rnnlab.heads import Categorical
from rnnlab.interface import InputError
from rnnlab.trees import State


class Alphabet:
    """The characters of a model; a token is the index of a character.

    Args:
        characters: the characters in order, without repetition.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        codes = _codes(characters)
        self._tokens = np.full(int(codes.max(initial=-1)) + 2, -1)  # by code point; the last one stands for all others
        self._tokens[codes] = np.arange(len(codes))

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """The alphabet of all characters of ``text``, sorted."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """The tokens of ``text``, int64 ``[len(text)]``.

        Raises:
            InputError: a character is not in the vocabulary.
        """
        tokens = self._tokens[np.minimum(_codes(text), len(self._tokens) - 1)]
        unknown = tokens < 0
        if unknown.any():
            raise InputError(
                f"the character {text[unknown.argmax()]!r} is not in the model's vocabulary of {len(self)} characters: "
                f"{self.characters!r}"
            )
        return torch.from_numpy(tokens)


def _codes(text: str) -> np.ndarray:
    """Return the code point of each character of ``text``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


class Speaker:
    """Text generation with a character model: a `rnnlab.generation.Stream` whose tokens are characters.

    Args:
        model: model over the tokens of ``vocabulary``, in evaluation mode.
        vocabulary: vocabulary of the model.
        temperature: 0 takes the most probable character, 1 samples from the distribution of the model.
        top_k: number of most probable characters to sample from; 0: all characters.
        seed: seed for sampling.
    """

    def __init__(self, model: nn.Module, vocabulary: Alphabet, temperature: float, top_k: int, seed: int) -> None:
        self.vocabulary = vocabulary
        state = model.begin()
        head = Categorical(len(vocabulary))
        self.stream = Stream(model, head, state, temperature=temperature, top_k=top_k, seeds=[seed])

    @property
    def state(self) -> State:
        """The current state of the model."""
        return self.stream.state

    def read(self, text: str) -> None:
        """Read ``text``.

        Raises:
            InputError: a character is not in the vocabulary; in this case the model reads none of the text.
        """
        self.stream.read(self.vocabulary.encode(self._known_form(text)).unsqueeze(1))

    def write(self) -> str:
        """Draw the next character and read it."""
        return self.vocabulary.characters[int(self.stream.write())]

    def generate(self, prompt: str, length: int) -> Iterator[str]:
        """Read the prompt, and yield the prompt and then ``length`` generated characters."""
        self.read(prompt)
        yield prompt
        for _ in range(length):
            yield self.write()

    def reply(self, line: str, length: int) -> Iterator[str]:
        """Read a line, and generate a line of at most ``length`` characters, without the line break.

        Lines end with LF, CRLF or CR, as in the training text.
        """
        self.read(line)
        breaks = [character for character in "\r\n" if character in self.vocabulary.characters]
        if breaks:
            first = breaks[0]
            if (outputs := self.stream.outputs) is not None:  # the vocabulary may have both: take the more probable one
                first = max(breaks, key=lambda character: outputs[0, self.vocabulary.encode(character)])
            self.read(first)
            self._complete_break(first)
        for _ in range(length):
            character = self.write()
            if character in breaks:
                self._complete_break(character)
                return
            yield character

    def _complete_break(self, character: str) -> None:
        """Read the line feed after a carriage return, if it is the most probable next character."""
        if character == "\r" and self.vocabulary.characters[int(self.stream.outputs.argmax())] == "\n":
            self.read("\n")

    def _known_form(self, text: str) -> str:
        """``text`` in the Unicode form of the vocabulary: unchanged, composed (NFC) or decomposed (NFD)."""
        forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        return next((form for form in forms if set(form) <= set(self.vocabulary.characters)), text)
