"""Text as tokens: a vocabulary of characters, and generation one character at a time."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError
from rnnlab.outputs import draw_categorical


class Vocabulary:
    """The characters a model knows, in order; a token is a character's place among them.

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
    """A character model at work: it reads text and writes what it makes of it, one character at a time.

    Only one step's state is kept, however long it reads and writes.

    Args:
        model: in evaluation mode, over the tokens of ``vocabulary``.
        vocabulary: the characters.
        temperature: 0 takes the most probable character each time, 1 draws as the model believes.
        top_k: only the k most probable characters can be drawn; 0 means all.
        seed: of the draw.
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, temperature: float, top_k: int, seed: int) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.temperature, self.top_k = temperature, top_k
        self.draw = torch.Generator().manual_seed(seed)
        self.state = model.initial_state(1)
        self.logits: Tensor | None = None

    @torch.inference_mode()
    def read(self, text: str) -> None:
        """Take in ``text``.

        Raises:
            InputError: a character is unknown; nothing of the text has been taken in then.
        """
        for token in self.vocabulary.encode(self._known_form(text)).to(self._device).unsqueeze(1):
            self.logits, self.state = self.model.step(token, self.state)

    @torch.inference_mode()
    def write(self) -> str:
        """The next character, drawn given all that was read and written."""
        if self.logits is None:
            raise InputError("the prompt is empty; give at least one character to begin with")
        token = draw_categorical(self.logits, self.temperature, self.top_k, self.draw)
        self.logits, self.state = self.model.step(token.to(self._device), self.state)
        return self.vocabulary.characters[int(token)]

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
            if self.logits is not None:  # a text may have both; the model tells which ends this line
                first = max(breaks, key=lambda character: self.logits[0, self.vocabulary.encode(character)])
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
        if character == "\r" and self.vocabulary.characters[int(self.logits.argmax())] == "\n":
            self.read("\n")

    def _known_form(self, text: str) -> str:
        """``text`` with accents as the model has them: in one character with the letter, or in one of their own."""
        forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
        return next((form for form in forms if set(form) <= set(self.vocabulary.characters)), text)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
