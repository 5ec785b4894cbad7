"""Text as tokens: a vocabulary of characters, and generation one character at a time."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rnnlab.generation import Stream
from rnnlab.heads import Categorical
from rnnlab.interface import InputError
from rnnlab.trees import State


class Vocabulary:
    """The characters of a model, in order; a token is the index of a character.

    Args:
        characters: each once.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._tokens = {character: token for token, character in enumerate(characters)}

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The characters of ``text``, sorted."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """``text`` as int64 tokens ``[len(text)]``.

        Raises:
            InputError: a character is not in the vocabulary.
        """
        try:
            return torch.tensor([self._tokens[character] for character in text], dtype=torch.int64)
        except KeyError as error:
            raise InputError(
                f"the character {error.args[0]!r} is not among the {len(self)} this model knows: {self.characters!r}"
            ) from None


class Speaker:
    """Text in and out of a character model: a `rnnlab.generation.Stream` whose tokens are characters.

    Args:
        model: in evaluation mode, over the tokens of ``vocabulary``.
        vocabulary: the characters.
        temperature: 0 takes the most probable character each time, 1 draws from the distribution of the model.
        top_k: only the k most probable characters can be drawn; 0 means all.
        seed: of the draws.
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, temperature: float, top_k: int, seed: int) -> None:
        self.vocabulary = vocabulary
        state = model.begin()
        head = Categorical(len(vocabulary))
        self.stream = Stream(model, head, state, temperature=temperature, top_k=top_k, seeds=[seed])

    @property
    def state(self) -> State:
        """The state of the model after all that was read and written."""
        return self.stream.state

    def read(self, text: str) -> None:
        """Read ``text``.

        Raises:
            InputError: a character is not in the vocabulary; nothing of the text has been read then.
        """
        self.stream.read(self.vocabulary.encode(self._known_form(text)).unsqueeze(1))

    def write(self) -> str:
        """The next character, drawn given all that was read and written."""
        return self.vocabulary.characters[int(self.stream.write())]

    def generate(self, prompt: str, length: int) -> Iterator[str]:
        """The prompt, then ``length`` characters one by one."""
        self.read(prompt)
        yield prompt
        for _ in range(length):
            yield self.write()

    def reply(self, line: str, length: int) -> Iterator[str]:
        """Read a line, then write one, of at most ``length`` characters, without the line break.

        Lines end with LF, CRLF or CR, as in the text that the model was trained on.
        """
        self.read(line)
        breaks = [character for character in "\r\n" if character in self.vocabulary.characters]
        if breaks:
            first = breaks[0]
            if (outputs := self.stream.outputs) is not None:  # a text may have both: take the more probable one
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
        """Read the line feed that follows a carriage return, if the model expects one."""
        if character == "\r" and self.vocabulary.characters[int(self.stream.outputs.argmax())] == "\n":
            self.read("\n")

    def _known_form(self, text: str) -> str:
        """``text`` in the Unicode form of the vocabulary: letters and accents composed (NFC) or apart (NFD)."""
        forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        return next((form for form in forms if set(form) <= set(self.vocabulary.characters)), text)
