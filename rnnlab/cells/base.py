"""The contract of a cell: what an author writes, and what may be relied on.

A cell is the mathematics of one time step, split where the engine can gain from it:

``prepare(inputs) -> (constants, inputs)``
    runs once per sequence on all inputs ``[T, B, F]``. It makes everything that does not depend on the
    state: the input projections of all steps in one product, transformed weights, masks. It returns two
    things, each a tensor or a nested tuple of tensors: what is constant over the sequence (weights, and None for
    those that the cell is configured without, per-sequence masks, an attention memory), and what has a value per
    step (``[T, ...]``: projections, zoneout masks, elapsed times). A bias is best left to the step,
    ``linear(h, U, b)``, which adds it for nothing; and so is whatever is done number by number: fused, it is
    compiled with the rest.

``step(constants, inputs, state) -> (output, state)``
    is one time step and a pure function: it reads its three arguments (``inputs`` being the slice of one
    step) and the cell's plain options, writes nothing, and draws no random number.

``initial_state(batch_size) -> state``
    is the state before the first step: a nested tuple of tensors ``[B, ...]``, by default zeros of
    ``[B, hidden_size]``, one for each name in ``states``.

Tensors that follow from the options alone, such as the fixed matrices of a memory, are returned by ``fixed()`` and
registered with ``register_fixed``; they are then right in every dtype, on every device, and after ``to_empty``.

The output may be narrower or wider than the state (``output_size``). States may be several, of any shape
after the batch axis, and of any dtype.
"""

from __future__ import annotations

import inspect
from math import floor, log
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError, State, tensors_of


class Native(NamedTuple):
    """A cell's weights in the layout of ``torch.nn``'s layer of the same mathematics.

    mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
    weights: ``weight_ih [G*H, F]``, ``weight_hh [G*H, H]`` and, where the cell has biases,
        ``bias_ih [G*H]`` and ``bias_hh [G*H]``; G gates.
    """

    mode: str
    weights: tuple[Tensor, ...]


class Fixed(nn.Module):
    """A module with buffers that follow from its options.

    They are computed again when the module's tensors are converted or given new memory: a matrix that was rounded to
    float32 would stay rounded after ``double()``, and what ``to_empty`` makes of the meta device is not initialised.
    """

    def fixed(self) -> dict[str, Tensor]:
        """The buffers by name, as precise as they can be had."""
        return {}

    def register_fixed(self, persistent: bool) -> None:
        """Register the buffers of `fixed` in the default dtype; ``persistent``: whether they are in the state dict."""
        for name, value in self.fixed().items():
            self.register_buffer(name, value.to(torch.get_default_dtype()).contiguous(), persistent=persistent)

    def _apply(self, function: Any, recurse: bool = True) -> Fixed:
        before = dict(self._buffers)
        super()._apply(function, recurse)
        # As long as nothing was converted the buffers stay where they are: recorded graphs read them there.
        if any(self._buffers[name] is not buffer for name, buffer in before.items()):
            for name, value in self.fixed().items():
                setattr(self, name, value.to(self._buffers[name]).contiguous())
        return self


class Cell(Fixed):
    """One time step of a recurrent network. Subclasses write `prepare` and `step`.

    The constructor of a cell takes ``input_size`` and ``hidden_size``, and its own options as keyword-only
    parameters; the same names, with the same defaults, stand in its file in ``conf/cell``.
    """

    states: ClassVar[tuple[str, ...]] = ("h",)
    """The names of the state tensors, in order."""

    gates: ClassVar[tuple[str, ...]] = ()
    """What the parts of b are, ``hidden_size`` each, in order, those of W where there is no b; empty without gates."""

    remembers: ClassVar[dict[str, int]] = {}
    """The sigmoids among them that decide how long a unit remembers: 1 where it keeps at 1, -1 where it keeps at 0."""

    has_surrogate: ClassVar[bool] = False
    """Whether the step states a derivative of its own (`surrogate`), which finite differences do not have."""

    keeps_norm: bool = False
    """Whether the step relies on a recurrent matrix that keeps the norm of the state, and bounds the state in no other
    way. Dropout of recurrent connections, whose scale is right in the mean only, would then make the state explode.
    """

    context_per_step: ClassVar[tuple[str, ...]] = ()
    """Which of the further parameters of `prepare` have a value per step, ``[T, B, ...]``, such as elapsed times.

    A layer that reads its sequences from their ends reverses these as it reverses the inputs.
    """

    verified: ClassVar[str] = "equations only"
    """What else the tests compare it with: a package and its version, or the official code."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise InputError(f"{name} is {size}; it must be a whole number, at least 1")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size if output_size is None else output_size

    @classmethod
    def width_multiple(cls, **options: object) -> int:
        """What ``hidden_size`` must be a multiple of, given the cell's options; 1 where any width will do."""
        return 1

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        """Everything that does not depend on the state, for all steps of ``inputs`` ``[T, B, input_size]``.

        A cell that needs more than its inputs, an attention memory or elapsed times say, names it as a further
        parameter. The caller of a layer, or of a stack, passes it by that name: ``stack(inputs, memory=memory)``.
        What has a value per step is named in `context_per_step`.
        """
        raise InputError(f"{type(self).__name__} has no prepare(inputs), which returns (constants, values per step)")

    @property
    def required_context(self) -> tuple[str, ...]:
        """The names of the further parameters of `prepare` that have no default."""
        _, *further = inspect.signature(self.prepare).parameters.values()
        named = [p for p in further if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return tuple(p.name for p in named if p.default is p.empty)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:
        """One time step: ``(output [B, output_size], new state)``."""
        raise InputError(f"{type(self).__name__} has no step(constants, x, state), which returns (output, new state)")

    def __call__(self, inputs: Tensor, **options: Any) -> Any:
        """`forward`, with the hooks that were registered on this cell.

        Hooks on all modules of the process, such as those of a FLOP counter, are not run: they expect activations, and
        would find weights among the results.
        """
        has_hooks = self._forward_pre_hooks or self._forward_hooks or self._backward_hooks or self._backward_pre_hooks
        return super().__call__(inputs, **options) if has_hooks else self.forward(inputs, **options)

    def forward(self, inputs: Tensor, *, native: bool = False, **context: Any) -> Any:
        """`prepare`, or with ``native`` the weights for ``torch.nn``'s kernel: what a layer asks for once a sequence.

        A layer calls the cell itself, so that forward hooks run, as those do that make a pruned or normalised weight.
        """
        return self.native() if native else self.prepare(inputs, **context)

    def checked(self, result: Any, state: State) -> tuple[Tensor, State]:
        """``result``, what `step` returned for ``state``, once it is seen to fit.

        Raises:
            InputError: it is no pair of an output and a state, or the state's shapes are not those of ``state``.
        """
        name = type(self).__name__
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)):
            raise InputError(f"the step of {name} must return (output, new state), the state a tuple of tensors")
        after, before = ([list(getattr(t, "shape", "?")) for t in tensors_of(s)] for s in (result[1], state))
        if not isinstance(result[1], tuple) or after != before:
            raise InputError(f"the step of {name} returns a state of shapes {after}; it was given a tuple of {before}")
        return result

    @property
    def like(self) -> Tensor:
        """A tensor of the device and dtype of the parameters; those of a replica are not registered as parameters.

        Raises:
            InputError: the cell has no parameters.
        """
        like = next(self.parameters(), None)
        if like is None:
            former = (vars(module).get("_former_parameters", {}) for module in self.modules())
            like = next((found for parameters in former for found in parameters.values()), None)
        if like is None:
            raise InputError(f"{type(self).__name__} has no parameters, of which its state takes device and dtype")
        return like

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, on the parameters' device and in their dtype."""
        return tuple(self.like.new_zeros(batch_size, self.hidden_size) for _ in self.states)

    def native(self) -> Native | None:
        """The same mathematics as a ``torch.nn`` layer; None where there is none."""
        return None

    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy the weights of the ``torch.nn`` layer that `native` names, in the order of `Native.weights`."""
        raise InputError(f"{type(self).__name__} has no counterpart in torch.nn to take weights from")

    def extra_repr(self) -> str:
        """Sizes, as ``torch.nn`` modules show them."""
        return f"{self.input_size}, {self.hidden_size}"


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """``value`` if it is among ``choices``; otherwise an InputError that names them."""
    if value not in choices:
        raise InputError(f"{option}={value!r} is not one of {', '.join(choices)}")
    return value


def surrogate(value: Tensor, z: Tensor, slope: Tensor | float) -> Tensor:
    """``value``, with ``slope`` as its derivative by ``z`` in place of its own.

    For steps of spiking networks (Neftci, Mostafa and Zenke, 2019, arXiv:1901.09948), straight-through estimators
    (Bengio et al., 2013, arXiv:1308.3432) and reversed gradients. The engine compiles it, as it does not a custom
    ``autograd.Function``.

        spikes = surrogate((z > 0).to(z.dtype), z, (1 + z.abs()) ** -2)
        rounded = surrogate(z.round(), z, 1.0)
        reversed = surrogate(z, z, -1.0)

    Args:
        value: what is computed, ``[B, ...]``; it passes no gradient on.
        z: what the gradient goes to, of the shape of ``value``; finite.
        slope: d value / d z, a number or of the shape of ``z``; it passes no gradient on.
    """
    slope = slope.detach() if isinstance(slope, Tensor) else slope
    return value.detach() + (z - z.detach()) * slope


def input_weights(gates: int, hidden_size: int, input_size: int) -> nn.Parameter:
    """``W`` of ``gates`` stacked gates, ``[gates * hidden_size, input_size]``, each Glorot uniform (Glorot and
    Bengio, 2010).
    """
    weight = torch.empty(gates, hidden_size, input_size)
    for gate in weight:
        nn.init.xavier_uniform_(gate)
    return nn.Parameter(weight.flatten(0, 1))


def recurrent_weights(gates: int, hidden_size: int, init: str = "orthogonal") -> nn.Parameter:
    """``U`` of ``gates`` stacked gates, ``[gates * hidden_size, hidden_size]``.

    Args:
        gates: number of stacked square matrices; each is initialised by itself.
        hidden_size: H.
        init: ``orthogonal`` (Saxe et al., 2014), ``identity`` (Le et al., 2015), or ``uniform`` within
            1/sqrt(H), as ``torch.nn`` does.
    """
    check_choice("recurrent_init", init, ("orthogonal", "identity", "uniform"))
    weight = torch.empty(gates, hidden_size, hidden_size)
    bound = hidden_size**-0.5
    for gate in weight:
        if init == "orthogonal":
            nn.init.orthogonal_(gate)
        elif init == "identity":
            nn.init.eye_(gate)
        else:
            nn.init.uniform_(gate, -bound, bound)
    return nn.Parameter(weight.flatten(0, 1))


def biased(x: Tensor, b: Tensor | None) -> Tensor:
    """``x + b``, or ``x`` where the cell has no biases."""
    return x if b is None else x + b


def half_range(dtype: torch.dtype) -> float:
    """Half of the largest x for which exp(x) and exp(-x) are normal numbers: 43.5 in float32, 354 in float64."""
    return floor(-log(torch.finfo(dtype).tiny)) / 2


def scale_of(kept: Tensor, log_i: Tensor, empty: Tensor) -> Tensor:
    """``kept``, the logarithm of a memory's scale, made very small where the memory is ``empty`` and would make what is
    written first, exp(``log_i``), underflow.
    """
    lost = empty & (kept - log_i > half_range(kept.dtype))
    # A product, not `where`: the C compiler uses SIMD instructions for it.
    return kept - lost.to(kept.dtype) * (torch.finfo(kept.dtype).max / 4)


def bias_vector(size: int, present: bool = True) -> nn.Parameter | None:
    """A bias of zeros ``[size]``, or None where the cell has no biases."""
    return nn.Parameter(torch.zeros(size)) if present else None
