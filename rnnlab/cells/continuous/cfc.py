"""CfC: closed-form continuous-time network, an LTC without a solver."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu

from rnnlab.cells.base import bias_vector, check_choice, input_weights
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.interface import InputError
from rnnlab.trees import State

_ACTIVATIONS = {
    "lecun_tanh": lambda a: 1.7159 * (0.666 * a).tanh(),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": silu,
    "gelu": gelu,
}


class CfC(Timed):
    """Closed-form continuous-time network, CfC (Hasani et al., 2022, arXiv:2106.13898).

    An approximate solution of the equation of the liquid time-constant network. A backbone of ``backbone_layers``
    layers reads x_t and h_{t-1}. Three linear heads on its last layer give g, k and f. A tanh follows g and k:

        h_t = σ(-f T) ⊙ g + (1 - σ(-f T)) ⊙ k                 mode="default"
        h_t = g + (1 - σ(-f T)) ⊙ k                           mode="no_gate"
        h_t = A - A ⊙ exp(-(|w_τ| + |f|) T) ⊙ f               mode="pure", which uses f only

    T is the time between two inputs.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W and U are the first layer's weights for x and h.
    Differs from the paper: nothing in the gate; the authors' code has σ(-(f T + o)) with two heads, which differ from
    one head only if T varies, see ``offset``. ``pure`` follows that code: B = -A, absolute values in the rate, and f
    instead of f of the negative input. w_τ is initialised to 1; it is 0 in that code, where |w_τ| has no gradient.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        mode: ``default``, ``no_gate`` or ``pure``.
        elapsed: T, the time between two inputs, or its unit if the inputs come with elapsed times.
        backbone_units: width of the backbone's layers; None for ``hidden_size``. The authors use 128.
        backbone_layers: number of backbone layers; with 0 the heads read x and h directly.
        activation: the backbone's nonlinearity, ``lecun_tanh``, ``tanh``, ``relu``, ``silu`` or ``gelu``.
        offset: whether another head o is added to f T in the gate, as in the authors' code.
    """

    verified = "ncps 1.0.1"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        mode: str = "default",
        elapsed: float = 1.0,
        backbone_units: int | None = None,
        backbone_layers: int = 1,
        activation: str = "lecun_tanh",
        offset: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size)
        backbone_units = hidden_size if backbone_units is None else backbone_units
        if backbone_units < 1 or backbone_layers < 0:
            raise InputError(
                f"backbone_layers={backbone_layers} must be at least 0, and backbone_units={backbone_units} at least 1"
            )
        self.mode = check_choice("mode", mode, ("default", "no_gate", "pure"))
        self.activation = check_choice("activation", activation, tuple(_ACTIVATIONS))
        self.elapsed, self.backbone_layers = elapsed, backbone_layers
        if offset and mode == "pure":
            raise InputError('offset=True is for mode="default" and "no_gate"; mode="pure" has no gate')
        self.offset = offset
        heads = ("f",) if mode == "pure" else ("g", "k", "f", "o")[: 3 + offset]
        self.gates = () if backbone_layers else heads
        widths = [input_size + hidden_size, *[backbone_units] * backbone_layers, len(heads) * hidden_size]
        weights = [
            input_weights(gates, size // gates, before)
            for gates, size, before in zip([*[1] * backbone_layers, len(heads)], widths[1:], widths, strict=False)
        ]
        self.W, self.U = (
            nn.Parameter(part.clone()) for part in weights[0].detach().split([input_size, hidden_size], 1)
        )
        self.b = bias_vector(widths[1])
        self.V = nn.ParameterList(weights[1:])
        self.c = nn.ParameterList([bias_vector(size) for size in widths[2:]])
        if mode == "pure":
            self.w_tau = nn.Parameter(torch.ones(hidden_size))
            self.A = nn.Parameter(torch.ones(hidden_size))

    def prepare(self, inputs: Tensor, elapsed: Tensor | None = None) -> tuple[tuple, Any]:  # noqa: D102
        solution = (self.A, self.w_tau.abs()) if self.mode == "pure" else ()
        return (self.U, self.b, tuple(self.V), tuple(self.c), solution), self.timed(linear(inputs, self.W), elapsed)

    def step(self, constants: tuple, x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        x, T = time_of(x, self.elapsed)
        U, b, V, c, solution = constants
        (h,) = state
        a = x + linear(h, U, b)
        for weight, bias in zip(V, c, strict=True):
            a = linear(_ACTIVATIONS[self.activation](a), weight, bias)
        if self.mode == "pure":
            A, rate = solution
            h = A - A * (-T * (rate + a.abs())).exp() * a
        else:
            g, k, f, *o = a.chunk(4 if self.offset else 3, dim=-1)
            s = sum(o, T * f).sigmoid()  # 1 - σ(-f T)
            h = (g.tanh() if self.mode == "no_gate" else (1 - s) * g.tanh()) + s * k.tanh()
        return h, (h,)
