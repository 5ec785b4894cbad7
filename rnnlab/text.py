"""Text as tokens: a vocabulary of characters, and generation one character at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rnnlab.interface import Batch, InputError
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


def generate(
    model: nn.Module, vocabulary: Vocabulary, prompt: str, length: int, temperature: float, top_k: int, seed: int
) -> Iterator[str]:
    """The prompt, then ``length`` characters one by one, each drawn given all before it; see `Task.generate`.

    Only one step's state is kept, whatever the length.
    """
    if not prompt:
        raise InputError("the prompt is empty; give at least one character to begin with")
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    tokens = vocabulary.encode(prompt).unsqueeze(1).to(device)
    yield prompt
    with torch.inference_mode():
        state = model.initial_state(1)
        if len(prompt) > 1:
            state = model.encode(Batch(inputs=tokens[:-1], targets=tokens[1:]))
        token = tokens[-1]
    for _ in range(length):
        # Entered anew for each character: a mode held across a yield would leak into the caller.
        with torch.inference_mode():
            logits, state = model.step(token, state)
            token = draw_categorical(logits, temperature, top_k, draw).to(device)
        yield vocabulary.characters[int(token)]
