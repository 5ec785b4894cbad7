"""LTC: liquid time-constant network with the fused solver."""

from math import expm1, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from rnnlab.cells.base import bias_vector, check_choice, input_weights, recurrent_weights
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.interface import InputError
from rnnlab.trees import State


class LTC(Timed):
    """Liquid time-constant network, LTC (Hasani et al., 2021, arXiv:2006.04439).

    It solves dh/dt = -(1/τ + f) ⊙ h + f ⊙ A (equation 1) with the fused solver (equation 3, algorithm 1). Each input
    lasts for a time T, in which the solver takes L sub-steps from h_{t-1} to h_t:

        f = φ(W x_t + U h + b)
        h = (h + Δt f ⊙ A) / (1 + Δt (1/τ + f))          Δt = T / L

    With φ = σ the bounds of theorems 1 and 2 hold: h stays between 0 and A. With tanh, an example in the paper, they do
    not hold, but the denominator is positive for Δt up to 1.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h.
    Differs from the paper: τ is the softplus of a free parameter ρ, so that it is positive. f is computed per neuron,
    as in the paper; the authors' code computes it per synapse, with a separate reversal potential, slope and threshold.
    Both agree for neurons with one synapse. A is initialised to random signs, as in that code, and τ to 1. Each
    sub-step starts from the previous sub-step; algorithm 1 as printed starts each from h_{t-1}.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        unfolds: L, number of sub-steps of the solver per input.
        elapsed: T, the time between two inputs, or its unit if the inputs come with elapsed times.
        activation: φ, ``sigmoid`` or ``tanh``.
        bias: whether the cell has a bias b.
    """

    gates = ("f",)
    verified = "ncps 1.0.1, one synapse per neuron"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        unfolds: int = 6,
        elapsed: float = 1.0,
        activation: str = "sigmoid",
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if unfolds < 1:
            raise InputError(f"unfolds={unfolds} must be at least 1")
        self.unfolds, self.elapsed = unfolds, elapsed
        self.activation = check_choice("activation", activation, ("sigmoid", "tanh"))
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)
        self.b = bias_vector(hidden_size, bias)
        self.A = nn.Parameter(torch.randint(2, (hidden_size,)) * 2.0 - 1.0)
        self.rho = nn.Parameter(torch.full((hidden_size,), log(expm1(1.0))))

    def prepare(  # noqa: D102
        self, inputs: Tensor, elapsed: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Any]:
        inputs, tau = linear(inputs, self.W, self.b), softplus(self.rho)
        if elapsed is not None:
            return (self.U, self.A, 1 / tau), self.timed(inputs, elapsed)
        dt = self.elapsed / self.unfolds
        return (self.U, dt * self.A, 1 + dt / tau), inputs

    def step(self, constants: tuple[Tensor, ...], x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, dt_A, leak = constants  # Δt A and 1 + Δt/τ, or A and 1/τ if Δt varies
        (h,) = state
        is_varying = isinstance(x, tuple)
        x, dt = time_of(x, self.elapsed / self.unfolds)
        if is_varying:
            dt_A, leak = dt * dt_A, 1 + dt * leak
        for _ in range(self.unfolds):
            a = x + linear(h, U)
            f = a.sigmoid() if self.activation == "sigmoid" else a.tanh()
            h = (h + f * dt_A) / (leak + dt * f)
        return h, (h,)
