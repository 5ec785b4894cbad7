"""Well-nested brackets of several types. Deterministic context-free; regular if the depth is bounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class Dyck(Generated, Labelling):
    """Predict at each step which closing bracket can come next, if any (Dyck-k; arXiv:1911.03329, arXiv:2010.07515).

        inputs   ( [ ] ( ) ) [        ( = 0, [ = 1, ) = 2, ] = 3
        targets  ( [ ( ( ( . [        the type that can be closed, ( = 0 or [ = 1, or none, . = 2

    In Suzgun et al., 2019, the target is the set of possible next brackets; this is equivalent, since opening brackets
    are always possible there. In Dyck-(k, m) of Hewitt et al., 2020, the nesting depth is at most m; they also score
    the prediction of the correct closing bracket.

    As in Hewitt et al., the next bracket opens or closes with equal probability, unless only one of the two is
    possible; all types are equally probable. Unlike there, words have a given length and brackets may remain open: a
    word is a prefix of a Dyck word. Chance is 1 / (types + 1). Predicting the type of the last bracket is correct
    after each opening bracket, and with two types at three quarters of all steps.

    Args:
        types: number of bracket types, k.
        depth: maximum nesting depth, m; null: unlimited.
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of brackets.

    Raises:
        InputError: ``types`` or ``depth`` is less than 1.
    """

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, types: int = 2, depth: int | None = None, **shared: Any
    ) -> None:
        super().__init__(seed, data_root, **shared)
        check_least(1, types=types)
        if depth is not None and depth < 1:
            raise InputError(f"task.depth={depth} must be at least 1, or null for unlimited depth")
        self.types, self.depth = types, depth

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(2 * self.types)

    @property
    def output_size(self) -> int:  # noqa: D102
        return self.types + 1

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Random brackets, and the type of the innermost open bracket at each step."""
        walk = torch.randint(2, (self.batch_size, length), generator=generator).mul(2).sub(1).cumsum(1)
        period = 2 * (self.depth or length)  # reflect the walk at height 0 and at the maximum depth
        height = period // 2 - (period // 2 - walk % period).abs()
        opens = height.diff(dim=1, prepend=torch.zeros_like(height[:, :1])) > 0
        drawn = torch.randint(self.types, height.shape, generator=generator)
        # The innermost open bracket is the last bracket opened at the current height: sort by height, then by time.
        order = height.argsort(dim=1, stable=True)
        last = torch.arange(length).where(opens.gather(1, order), 0).cummax(1).values
        innermost = torch.empty_like(drawn).scatter_(1, order, drawn.gather(1, order.gather(1, last)))
        innermost[height == 0] = self.types
        closed = self.types + innermost.roll(1, dims=1)
        return Batch(torch.where(opens, drawn, closed).t().contiguous(), innermost.t().contiguous())

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``last bracket``: the type of the last bracket, whether it opens or closes."""
        lengths = self.ranges[split]
        right = self._last_bracket(max(lengths)).cumsum(0)
        accuracy = sum(float(right[length - 1]) / length for length in lengths) / len(lengths)
        return {**super().baselines(split), "last bracket": {"accuracy": accuracy}}

    def _last_bracket(self, longest: int) -> Tensor:
        """The probability at every step that the type of the last bracket is the answer."""
        height = torch.zeros((longest if self.depth is None else self.depth) + 1, dtype=torch.float64)
        height[0] = 1
        right = []
        for _ in range(longest):
            up = height / 2
            up[0], up[-1] = height[0], 0
            down = height - up
            right.append(up.sum() + down[2:].sum() / self.types)  # closing at height 1 leaves no open bracket
            height = up.roll(1) + down.roll(-1)
        return torch.stack(right)
