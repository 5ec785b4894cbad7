"""LSTM with peepholes and its ablations: without gates, activations or peepholes; coupled or recurrent gates."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class LSTMAblation(Cell):
    """LSTM with peepholes and its ablations (Greff et al., 2017, arXiv:1503.04069).

        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
        i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)
        f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
        o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)
        h_t = o_t ⊙ tanh(c_t)

    Options for the paper's variants: NIG ``input_gate=False`` (i is 1), NFG ``forget_gate=False``, NOG
    ``output_gate=False``, NIAF ``input_activation=False`` (g without tanh), NOAF ``output_activation=False``, NP
    ``peepholes=False``, CIFG ``coupled=True`` (f = 1 - i), FGR ``full_gate_recurrence=True`` (every gate also
    reads all gates of the previous step, with weights R). For the variants of Jozefowicz, Zaremba and Sutskever (2015),
    use ``peepholes=False`` with NIG, NFG or NOG (LSTM-i, LSTM-f, LSTM-o), or with ``forget_bias=1`` (LSTM-b).

    Shapes: x [B, input_size]; h, c [B, hidden_size]; with full gate recurrence also the gates [B, n * hidden_size];
    output h. W, U, b hold i, f, g, o, and p and R hold i, f, o; gates that do not exist have no rows.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        input_gate, forget_gate, output_gate: whether the gate exists; a missing gate is 1.
        input_activation, output_activation: whether the tanh is applied.
        peepholes: whether the gates read the cell state.
        coupled: whether the forget gate is 1 minus the input gate.
        full_gate_recurrence: whether the gates read the gates of the previous step.
        forget_bias: initial value of the forget gate's bias.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    verified = "torchrecurrent 0.2.5, torch.nn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_gate: bool = True,
        forget_gate: bool = True,
        output_gate: bool = True,
        input_activation: bool = True,
        output_activation: bool = True,
        peepholes: bool = True,
        coupled: bool = False,
        full_gate_recurrence: bool = False,
        forget_bias: float = 0.0,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if coupled and not (input_gate and forget_gate):
            raise InputError("coupled=true needs input_gate=true and forget_gate=true")
        if full_gate_recurrence and not (input_gate or forget_gate or output_gate):
            raise InputError("full_gate_recurrence=true needs input_gate, forget_gate or output_gate")
        if forget_bias and (coupled or not (forget_gate and bias)):
            raise InputError(f"forget_bias={forget_bias} must be 0 without a forget gate with a bias")
        self.input_gate, self.forget_gate, self.output_gate = input_gate, forget_gate, output_gate
        self.input_activation, self.output_activation = input_activation, output_activation
        self.peepholes, self.coupled, self.full_gate_recurrence = peepholes, coupled, full_gate_recurrence
        has = {"i": input_gate, "f": forget_gate and not coupled, "g": True, "o": output_gate}
        self.gates = tuple(name for name in has if has[name])
        self.sigmoids = tuple(name for name in self.gates if name != "g")
        self.remembers = {"f": 1, "i": -1} if "f" in self.gates else {"i": -1} if coupled else {}
        self.remembers = {name: sign for name, sign in self.remembers.items() if name in self.gates}
        H, gates, sigmoids = hidden_size, len(self.gates), len(self.sigmoids)
        self.W = input_weights(gates, H, input_size)
        self.U = recurrent_weights(gates, H, recurrent_init)
        self.p = nn.Parameter(torch.zeros(sigmoids * H)) if peepholes and sigmoids else None
        self.R = input_weights(sigmoids, H, sigmoids * H) if full_gate_recurrence else None
        self.b = bias_vector(gates * H, bias)
        if full_gate_recurrence:
            self.states = ("h", "c", "gates")
        if forget_bias:
            nn.init.constant_(self.b.data.chunk(gates)[self.gates.index("f")], forget_bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros, also for the gates of the previous step."""
        widths = (1, 1, len(self.sigmoids))[: len(self.states)]
        return tuple(self.W.new_zeros(batch_size, width * self.hidden_size) for width in widths)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:  # noqa: D102
        p = () if self.p is None else self.p.chunk(len(self.sigmoids))
        R = () if self.R is None else (self.R,)
        return (self.U, self.b, p, R), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, p, R = constants
        h, c, *before = state
        sums = dict(zip(self.gates, (x + linear(h, U, b)).chunk(len(self.gates), dim=-1), strict=True))
        if before:
            seen = linear(before[0], R[0]).chunk(len(self.sigmoids), dim=-1)
            sums |= {name: sums[name] + more for name, more in zip(self.sigmoids, seen, strict=True)}
        peephole = dict(zip(self.sigmoids, p, strict=True)) if p else {}

        def opened(name: str, cell: Tensor) -> Tensor | float:
            if name not in sums:
                return 1.0
            return (sums[name] + peephole[name] * cell if peephole else sums[name]).sigmoid()

        g = sums["g"].tanh() if self.input_activation else sums["g"]
        i = opened("i", c)
        f = 1 - i if self.coupled else opened("f", c)
        c = f * c + i * g
        o = opened("o", c)
        h = o * (c.tanh() if self.output_activation else c)
        if not before:
            return h, (h, c)
        opening = {"i": i, "f": f, "o": o}
        return h, (h, c, torch.cat([opening[name] for name in self.sigmoids], dim=-1))
