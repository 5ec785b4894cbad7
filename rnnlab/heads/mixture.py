"""The mixture density head: a mixture of normal distributions, with an optional pen state for handwriting."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from rnnlab.heads.base import Density, check_size, drawable, no_top_k
from rnnlab.interface import InputError


class _Parts(NamedTuple):
    """The parameters of a mixture.

    logits: logits of the components, ``[..., K]``.
    mean, log_deviation: means and log standard deviations, ``[..., K, size]``.
    slant: inverse hyperbolic tangent of the correlation of each component, ``[..., K]``; None unless ``size`` is 2.
    pen: logits of the states of the pen, ``[..., pen + 1]``; None without a pen.
    """

    logits: Tensor
    mean: Tensor
    log_deviation: Tensor
    slant: Tensor | None
    pen: Tensor | None


class Mixture(Density):
    """A mixture of normal distributions (Bishop, 1994), as for handwriting (Graves, 2013, arXiv:1308.0850, section 4).

    The values of a step are independent within a component, except that two values (``size=2``, the offsets of a pen)
    have a correlation. The outputs are, in this order: the logits of the components, their means, the logarithms of
    their standard deviations, the inverse hyperbolic tangents of their correlations if ``size`` is 2, and the logit of
    a lifted pen if ``pen``. Targets are float ``[T, B, size]``, or ``[T, B, size + 1]`` with ``pen``: the last value is
    1 if the pen is lifted after the step, otherwise 0. With ``pen=2`` there is a third state, 2: the drawing ends after
    the step (Ha and Eck, 2017, arXiv:1704.03477), and its logit follows; the logit of state 0 is always 0. The loss is
    in nats per step.

    Args:
        size: number of values per step, excluding the pen.
        components: number of components.
        pen: number of states of the pen besides 0: False (0) for no pen, True (1), or 2 with the end of a drawing.
    """

    def __init__(self, size: int, components: int, pen: int = False) -> None:
        check_size("Mixture", size=size, components=components)
        if pen not in (0, 1, 2):
            raise InputError(f"Mixture: pen={pen} must be False, True or 2")
        self.numbers, self.components, self.pen = size, components, int(pen)
        self.size = size + bool(pen)
        self.features = components * (1 + 2 * size + (size == 2)) + self.pen

    def _parts(self, outputs: Tensor) -> _Parts:
        components, numbers = self.components, self.numbers
        widths = [components, components * numbers, components * numbers, components * (numbers == 2), self.pen]
        logits, mean, log_deviation, slant, pen = outputs.split(widths, -1)
        shape = (components, numbers)
        return _Parts(
            logits,
            mean.unflatten(-1, shape),
            log_deviation.unflatten(-1, shape),
            slant if numbers == 2 else None,
            pad(pen, (1, 0)) if self.pen else None,
        )

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        parts = self._parts(outputs)
        numbers = targets[..., : self.numbers].unsqueeze(-2)
        z = (numbers - parts.mean) * (-parts.log_deviation).exp()
        log_scale = parts.log_deviation.sum(-1) + 0.5 * self.numbers * log(2 * pi)
        if parts.slant is not None:
            # With a correlation ρ = tanh a, 1 / sqrt(1 - ρ²) = cosh a, which avoids the cancellation in 1 - ρ².
            first, second = z.unbind(-1)
            z = torch.stack([first, (second - parts.slant.tanh() * first) * parts.slant.cosh()], -1)
            log_scale = log_scale - (parts.slant.abs() + softplus(-2 * parts.slant.abs()) - log(2))
        components = parts.logits.log_softmax(-1) - 0.5 * z.square().sum(-1) - log_scale
        density = components.logsumexp(-1)
        if parts.pen is not None:
            density = density + self.log_pen(outputs, targets)
        return density

    def log_pen(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The part of `log_density` that is the log-probability of the pen's states, ``[...]`` in nats."""
        states = targets[..., -1:].long()
        pen = self._parts(outputs).pen
        assert pen is not None, "the distribution has no pen"
        return pen.log_softmax(-1).gather(-1, states).squeeze(-1)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw vectors ``[B, size]``, or ``[B, size + 1]`` with the pen state last.

        The temperature divides the logits of the components and of the pen, and multiplies the variances (Ha and Eck,
        2017, arXiv:1704.03477, section 3.4). At 0, the result is the mean of the most probable component.
        """
        no_top_k("Mixture", top_k)
        parts = self._parts(drawable(outputs))
        if temperature == 0:
            chosen = parts.logits.argmax(-1, keepdim=True)
        else:
            probabilities = (parts.logits.double() / temperature).softmax(-1)
            chosen = torch.multinomial(probabilities, 1, generator=generator)
        where = chosen.unsqueeze(-1).expand(-1, 1, self.numbers)
        numbers = parts.mean.gather(1, where).squeeze(1)
        if temperature > 0:
            z = torch.randn(numbers.shape, generator=generator)
            if parts.slant is not None:
                slant = parts.slant.gather(1, chosen).squeeze(1)
                z[:, 1] = slant.tanh() * z[:, 0] + z[:, 1] / slant.cosh()
            numbers = numbers + sqrt(temperature) * parts.log_deviation.gather(1, where).squeeze(1).exp() * z
        if parts.pen is None:
            return numbers
        if temperature == 0:
            state = parts.pen.argmax(-1, keepdim=True)
        else:
            state = torch.multinomial((parts.pen.double() / temperature).softmax(-1), 1, generator=generator)
        return torch.cat([numbers, state.float()], 1)
