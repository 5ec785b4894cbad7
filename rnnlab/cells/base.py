"""The contract of a cell: the methods that a cell defines, and helpers to write them.

A cell is the mathematics of one time step, in three methods, and a fourth for cells with matrix states:

``prepare(inputs) -> (constants, inputs)``
    runs once per sequence on all inputs ``[T, B, F]`` and computes everything that does not depend on the state: the
    input projections of all steps in one matrix product, transformed weights, masks. It returns two values, each a
    tensor or a nested tuple of tensors. The first is constant over the sequence: weights (None for weights that the
    cell does not have), masks of a sequence, an attention memory. The second has one entry per step, ``[T, ...]``:
    projections, zoneout masks, elapsed times. Leave biases and elementwise operations to the step: ``linear(h, U, b)``
    adds the bias without extra cost, and a compiled step includes the elementwise operations.

``step(constants, inputs, state) -> (output, state)``
    computes one time step. It is a pure function of its arguments (``inputs`` is the slice of one step) and of the
    cell's options: it modifies nothing and draws no random numbers.

``activate(constants, inputs) -> inputs``
    computes the values that the step reads from those of `prepare`: feature maps, norms of keys, gates. It depends
    neither on the state nor on other steps. Only cells with matrix states need it. A step that is compiled head by head
    includes it, with the values of one step. The plain loop and GPUs call it once with the values of all steps,
    ``[T, ...]``, as each operation in every step would take them long. It therefore addresses axes from the end. The
    default returns ``inputs``.

``initial_state(batch_size) -> state``
    returns the state before the first step, a nested tuple of tensors ``[B, ...]``. The default is zeros
    ``[B, hidden_size]``, one tensor for each name in ``states``.

Tensors that are determined by the options, such as the fixed matrices of a memory, are returned by ``fixed()`` and
registered with ``register_fixed``. They are then exact in every dtype, on every device, and after ``to_empty``.

The width of the output (``output_size``) may differ from that of the state. A cell may have several states, of any
shape after the batch axis and of any dtype.
"""

from __future__ import annotations

import inspect
from math import floor, log
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError
from rnnlab.trees import State, tensors_of


class Native(NamedTuple):
    """A cell's weights in the layout of the equivalent ``torch.nn`` layer.

    mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
    weights: ``weight_ih [G*H, F]``, ``weight_hh [G*H, H]`` and, if the cell has biases,
        ``bias_ih [G*H]`` and ``bias_hh [G*H]``, for G gates.
    """

    mode: str
    weights: tuple[Tensor, ...]


class Fixed(nn.Module):
    """A module with buffers that are determined by its options.

    They are recomputed when the module's tensors are converted or get new memory: a matrix that was rounded to float32
    would stay rounded after ``double()``, and ``to_empty`` leaves buffers of the meta device uninitialised.
    """

    def fixed(self) -> dict[str, Tensor]:
        """Return the buffers by name, in the highest precision available."""
        return {}

    def register_fixed(self, persistent: bool) -> None:
        """Register the buffers of `fixed` in the default dtype; ``persistent`` ones are part of the state dict."""
        for name, value in self.fixed().items():
            self.register_buffer(name, value.to(torch.get_default_dtype()).contiguous(), persistent=persistent)

    def _apply(self, function: Any, recurse: bool = True) -> Fixed:
        before = dict(self._buffers)
        super()._apply(function, recurse)
        # Without a conversion the buffers keep their memory: recorded CUDA graphs read from it.
        if any(self._buffers[name] is not buffer for name, buffer in before.items()):
            for name, value in self.fixed().items():
                setattr(self, name, value.to(self._buffers[name]).contiguous())
        return self


class Cell(Fixed):
    """Base class of cells: one time step of a recurrent network. Subclasses define `prepare` and `step`.

    The constructor of a cell takes ``input_size`` and ``hidden_size``, and its options as keyword-only parameters.
    """

    states: tuple[str, ...] = ("h",)
    """Names of the state tensors, in order."""

    gates: ClassVar[tuple[str, ...]] = ()
    """Names of the blocks of ``hidden_size`` rows in b, or in W if there is no b, in order; empty without gates."""

    remembers: ClassVar[dict[str, int]] = {}
    """Gates that control memory: +1 if an open gate keeps the state, -1 if a closed gate does."""

    has_surrogate: bool = False
    """Whether the step uses `surrogate`, so that its derivatives differ from finite differences."""

    keeps_norm: bool = False
    """Whether only a norm-preserving recurrent matrix bounds the state.

    Dropout of recurrent connections preserves the norm only in expectation, so such a state would explode.
    """

    context_per_step: tuple[str, ...] = ()
    """Names of the additional parameters of `prepare` that have one value per step, ``[T, B, ...]``, such as times.

    A layer with ``reverse=True`` reverses them like the inputs.
    """

    context_between: tuple[str, ...] = ()
    """Names in `context_per_step` of values that belong to the time between a step and the one before it.

    A layer with ``reverse=True`` passes the value between two steps with the one that it reads second, and the first
    value of a sequence with the step that it reads first.
    """

    verified: ClassVar[str] = "equations only"
    """Implementation that the tests compare the cell with: a package and its version, or the official code."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise InputError(f"{name}={size} must be a whole number of at least 1")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size if output_size is None else output_size

    @classmethod
    def width_multiple(cls, **options: object) -> int:
        """Return the number of which ``hidden_size`` must be a multiple, given the cell's options; 1 for any width."""
        return 1

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        """Compute everything that does not depend on the state, for all steps of ``inputs`` ``[T, B, input_size]``.

        A cell may need more than its inputs, such as an attention memory or elapsed times. It declares them as
        additional parameters, and the caller of a layer or stack passes them by name: ``stack(inputs, memory=memory)``.
        Parameters with one value per step are listed in `context_per_step`.

        A layer calls it once per sequence. If it only returns parameters and ``linear`` of the inputs, the engine
        computes that itself at later calls.

        Returns:
            (constants, values per step), see the module's docstring.
        """
        raise InputError(f"{type(self).__name__} has no prepare(inputs); it must return (constants, values per step)")

    def activate(self, constants: Any, inputs: Any) -> Any:
        """Return the values that `step` reads, from those of `prepare`, for one step or for all steps at once.

        Args:
            constants: first result of `prepare`.
            inputs: second result of `prepare`, ``[T, B, ...]``, or the slice of one step.
        """
        return inputs

    @property
    def required_context(self) -> tuple[str, ...]:
        """Names of the additional parameters of `prepare` that have no default."""
        _, *further = inspect.signature(self.prepare).parameters.values()
        named = [p for p in further if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return tuple(p.name for p in named if p.default is p.empty)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:
        """Compute one time step and return ``(output [B, output_size], new state)``."""
        raise InputError(f"{type(self).__name__} has no step(constants, x, state); it must return (output, new state)")

    def __call__(self, inputs: Tensor, **options: Any) -> Any:
        """Call `forward` with the hooks that are registered on this cell.

        Global module hooks, such as those of a FLOP counter, are not run: they expect activations, and the results
        contain weights.
        """
        has_hooks = self._forward_pre_hooks or self._forward_hooks or self._backward_hooks or self._backward_pre_hooks
        return super().__call__(inputs, **options) if has_hooks else self.forward(inputs, **options)

    def forward(self, inputs: Tensor, *, native: bool = False, raw: bool = False, **context: Any) -> Any:
        """Return the constants and the values that `step` reads, ``[T, ...]``.

        A layer calls the cell once per sequence, so forward hooks run, such as those of pruned or normalised weights.

        Args:
            inputs: ``[T, B, input_size]``.
            native: whether to return the weights for the ``torch.nn`` kernel instead.
            raw: whether to return the values of `prepare`, without `activate`.
            context: additional arguments of `prepare`.
        """
        if native:
            return self.native()
        result = self.prepare(inputs, **context)
        if raw or type(self).activate is Cell.activate:
            return result
        constants, prepared = result
        return constants, self.activate(constants, prepared)

    def checked(self, result: Any, state: State) -> tuple[Tensor, State]:
        """Return ``result``, the return value of `step` for ``state``, after checking its structure.

        Raises:
            InputError: ``result`` is not a pair of output and state, or its state has other shapes than ``state``.
        """
        name = type(self).__name__
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)):
            raise InputError(f"the step of {name} must return (output, new state), the state a tuple of tensors")
        after, before = ([list(getattr(t, "shape", "?")) for t in tensors_of(s)] for s in (result[1], state))
        if not isinstance(result[1], tuple) or after != before:
            raise InputError(f"the step of {name} returns a state of shapes {after}, not a tuple of shapes {before}")
        return result

    @property
    def like(self) -> Tensor:
        """A tensor with the device and dtype of the parameters, also in a ``DataParallel`` replica.

        Raises:
            InputError: the cell has no parameters.
        """
        for parameter in self._parameters.values():  # the usual case; `parameters` takes longer
            if parameter is not None:
                return parameter
        like = next(self.parameters(), None)
        if like is None:
            former = (vars(module).get("_former_parameters", {}) for module in self.modules())
            like = next((found for parameters in former for found in parameters.values()), None)
        if like is None:
            raise InputError(f"{type(self).__name__} has no parameters; its state takes device and dtype from them")
        return like

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step, with the device and dtype of the parameters."""
        like, size = self.like, (batch_size, self.hidden_size)
        return tuple([like.new_zeros(size) for _ in self.states])

    def native(self) -> Native | None:
        """Return the weights of the equivalent ``torch.nn`` layer, or None if there is none."""
        return None

    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy the weights of the ``torch.nn`` layer that `native` names, in the order of `Native.weights`."""
        raise InputError(f"{type(self).__name__} has no equivalent layer in torch.nn")

    def extra_repr(self) -> str:
        """Return ``input_size, hidden_size``, which ``repr`` shows."""
        return f"{self.input_size}, {self.hidden_size}"


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise raise an InputError that lists them."""
    if value not in choices:
        raise InputError(f"{option}={value!r} is not one of {', '.join(choices)}")
    return value


def surrogate(value: Tensor, z: Tensor, slope: Tensor | float) -> Tensor:
    """Return ``value`` with ``slope`` as its derivative with respect to ``z``.

    Use it for spiking networks (Neftci, Mostafa and Zenke, 2019, arXiv:1901.09948), straight-through estimators (Bengio
    et al., 2013, arXiv:1308.3432) and reversed gradients. The engine compiles it; it does not compile a custom
    ``autograd.Function``.

        spikes = surrogate((z > 0).to(z.dtype), z, (1 + z.abs()) ** -2)
        rounded = surrogate(z.round(), z, 1.0)
        reversed = surrogate(z, z, -1.0)

    Args:
        value: the result, ``[B, ...]``; no gradient flows through it.
        z: tensor that receives the gradient, with the shape of ``value``; its values must be finite.
        slope: d value / d z, a number or a tensor with the shape of ``z``; no gradient flows through it.
    """
    slope = slope.detach() if isinstance(slope, Tensor) else slope
    return value.detach() + (z - z.detach()) * slope


def input_weights(gates: int, hidden_size: int, input_size: int) -> nn.Parameter:
    """Return the input weights ``W`` of ``gates`` stacked gates, ``[gates * hidden_size, input_size]``.

    Each gate is initialised Glorot uniform (Glorot and Bengio, 2010).
    """
    weight = torch.empty(gates, hidden_size, input_size)
    for gate in weight:
        nn.init.xavier_uniform_(gate)
    return nn.Parameter(weight.flatten(0, 1))


def recurrent_weights(gates: int, hidden_size: int, init: str = "orthogonal") -> nn.Parameter:
    """Return the recurrent weights ``U`` of ``gates`` stacked gates, ``[gates * hidden_size, hidden_size]``.

    Args:
        gates: number of stacked square matrices; each is initialised separately.
        hidden_size: H.
        init: ``orthogonal`` (Saxe et al., 2014), ``identity`` (Le et al., 2015), or ``uniform`` in
            ±1/sqrt(H), as in ``torch.nn``.
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
    """Return ``x + b``, or ``x`` if b is None."""
    return x if b is None else x + b


def half_range(dtype: torch.dtype) -> float:
    """Return half of the largest x for which exp(x) and exp(-x) are normal numbers: 43.5 in float32, 354 in float64."""
    return floor(-log(torch.finfo(dtype).tiny)) / 2


def scale_of(kept: Tensor, log_i: Tensor, empty: Tensor) -> Tensor:
    """Return the log-scale of a memory: ``kept``, or a large negative number where the first write would underflow.

    Args:
        kept: logarithm of the memory's scale.
        log_i: logarithm of the input gate; the first write has the size exp(log_i).
        empty: bool, true where the memory is empty.
    """
    lost = empty & (kept - log_i > half_range(kept.dtype))
    # A product, not `where`: the C compiler uses SIMD instructions for it.
    return kept - lost.to(kept.dtype) * (torch.finfo(kept.dtype).max / 4)


def bias_vector(size: int, present: bool = True) -> nn.Parameter | None:
    """Return a bias of zeros ``[size]``, or None if ``present`` is False."""
    return nn.Parameter(torch.zeros(size)) if present else None
