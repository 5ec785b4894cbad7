"""Stack manipulation: do what is said to a stack, and write down what is left. Deterministic context-free."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages._binary import Binary

POP, PUSH_A, END = 2, 3, 2


class StackManipulation(Binary):
    """Do a list of actions on a stack and write it from its top (Delétang et al., 2023, "Stack Manipulation").

    A word is a stack from its bottom, then actions: take one letter off, or put an a or a b on. Nothing is taken off an
    empty stack.

        inputs   a b B x x A | | | | | | |        a = 0, b = 1, take off x = 2, put on A = 3 and B = 4, the marker | = 5
        targets  - - - - - - a a . a a a a        the end . = 2, then zeros that do not count; - is not scored

    How many letters are the stack is drawn for every word, from 1 to all but one. A guess among the three symbols is
    right in a third of the steps, a letter in about half of those before the end.
    """

    symbols = 5
    output_size = 3
    end = END

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Letters and actions, each as probable as any other."""
        letters = torch.rand(self.batch_size, generator=generator).mul(max(length - 1, 1)).long() + 1
        places = torch.arange(length).unsqueeze(1)
        letter = torch.randint(2, (length, self.batch_size), generator=generator)
        action = torch.randint(POP, PUSH_A + 2, (length, self.batch_size), generator=generator)
        word = torch.where(places < letters, letter, action)
        pushed = torch.where(word >= PUSH_A, word - PUSH_A, word)
        stack = torch.zeros(length + 1, self.batch_size, dtype=torch.int64)
        height = torch.zeros(1, self.batch_size, dtype=torch.int64)
        for symbol, one in zip(word.unsqueeze(1), pushed.unsqueeze(1), strict=True):
            stack.scatter_(0, height, one)  # where one is taken off, the place above the top, which does not count
            height = torch.where(symbol == POP, height - 1, height + 1).clamp_min(0)
        down = torch.arange(length + 1).unsqueeze(1)
        answer = stack.gather(0, (height - 1 - down).clamp_min(0))
        return word, answer.where(down < height, torch.where(down == height, END, 0))
