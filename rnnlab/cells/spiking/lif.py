"""Leaky integrate-and-fire neurons with a surrogate gradient."""

from math import exp

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights, surrogate
from rnnlab.interface import InputError
from rnnlab.trees import State


class LIF(Cell):
    """Leaky integrate-and-fire neurons, LIF (Neftci, Mostafa and Zenke, 2019, arXiv:1901.09948).

    i is the synaptic current, v the membrane potential, s the spikes, and Θ the Heaviside step function:

        s_{t-1} = Θ(v_{t-1} - ϑ)
        v_t = β v_{t-1} + i_{t-1} - ϑ s_{t-1}
        i_t = α i_{t-1} + W x_t + U s_{t-1} + b          α = exp(-1 / τ_syn), β = exp(-1 / τ_mem)

    The output is Θ(v_t - ϑ). The derivative of Θ is replaced by that of a fast sigmoid, 1 / (1 + k |v - ϑ|)² (Zenke and
    Ganguli, 2018, arXiv:1705.11146).

    Shapes: x [B, input_size]; i, v [B, hidden_size]; output s [B, hidden_size], zeros and ones.
    Differs from the paper: it has a bias. A spike subtracts the threshold ϑ, which is 1 in the paper.

    Args:
        input_size: features of x.
        hidden_size: number of neurons.
        tau_synapse: τ_syn, time constant of the current, in steps.
        tau_membrane: τ_mem, time constant of the potential, in steps.
        threshold: ϑ.
        sharpness: k; larger values make the surrogate derivative narrower.
        reset_gradient: whether gradients flow through the reset -ϑ s_{t-1}; in the authors' code they do not.
        bias: whether the cell has a bias b.
        recurrent_init: initialisation of U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("i", "v")
    has_surrogate = True
    verified = "equations and the authors' surrogate"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        tau_synapse: float = 5.0,
        tau_membrane: float = 10.0,
        threshold: float = 1.0,
        sharpness: float = 10.0,
        reset_gradient: bool = False,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive = {"tau_synapse": tau_synapse, "tau_membrane": tau_membrane, "threshold": threshold}
        for name, value in {**positive, "sharpness": sharpness}.items():
            if not value > 0:
                raise InputError(f"{name}={value} must be positive")
        self.alpha, self.beta = exp(-1 / tau_synapse), exp(-1 / tau_membrane)
        self.threshold, self.sharpness, self.reset_gradient = threshold, sharpness, reset_gradient
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, Tensor | None], Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(  # noqa: D102
        self, constants: tuple[Tensor, Tensor | None], x: Tensor, state: State
    ) -> tuple[Tensor, State]:
        U, b = constants
        i, v = state
        s = self.spikes(v)
        v = self.beta * v + i - self.threshold * (s if self.reset_gradient else s.detach())
        i = self.alpha * i + x + linear(s, U, b)
        return self.spikes(v), (i, v)

    def spikes(self, v: Tensor) -> Tensor:
        """Return Θ(v - ϑ) with its surrogate derivative."""
        z = v - self.threshold
        return surrogate((z > 0).to(z.dtype), z, (1 + self.sharpness * z.abs()) ** -2)
