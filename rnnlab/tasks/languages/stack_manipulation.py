"""Stack manipulation: apply push and pop operations to a stack and write the result. Deterministic context-free."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages._binary import Binary

POP, PUSH_A, END = 2, 3, 2


class StackManipulation(Binary):
    """Apply operations to a stack and write it from its top (Delétang et al., 2023, "Stack Manipulation").

    A word is the initial stack from bottom to top, followed by operations: pop, push a or push b. A pop from an empty
    stack has no effect.

        inputs   a b B x x A | | | | | | |        a = 0, b = 1, pop x = 2, push A = 3 and B = 4, the marker | = 5
        targets  - - - - - - a a . a a a a        the end . = 2, then zeros that do not count; - is not scored

    The size of the initial stack is random, from 1 to the length of the word minus 1. Chance is 1/3; always predicting
    the same letter is correct at about half of the steps before the end.
    """

    symbols = 5
    output_size = 3
    end = END

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Uniformly random letters and operations."""
        letters = torch.rand(self.batch_size, generator=generator).mul(max(length - 1, 1)).long() + 1
        places = torch.arange(length).unsqueeze(1)
        letter = torch.randint(2, (length, self.batch_size), generator=generator)
        action = torch.randint(POP, PUSH_A + 2, (length, self.batch_size), generator=generator)
        word = torch.where(places < letters, letter, action)
        pushed = torch.where(word >= PUSH_A, word - PUSH_A, word)
        stack = torch.zeros(length + 1, self.batch_size, dtype=torch.int64)
        height = torch.zeros(1, self.batch_size, dtype=torch.int64)
        for symbol, one in zip(word.unsqueeze(1), pushed.unsqueeze(1), strict=True):
            stack.scatter_(0, height, one)  # a pop writes above the top, where the value has no effect
            height = torch.where(symbol == POP, height - 1, height + 1).clamp_min(0)
        down = torch.arange(length + 1).unsqueeze(1)
        answer = stack.gather(0, (height - 1 - down).clamp_min(0))
        return word, answer.where(down < height, torch.where(down == height, END, 0))
