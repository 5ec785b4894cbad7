"""`RNN`, `LSTM` and `GRU` with the interface of ``torch.nn``'s, run by the compiled steps of rnnlab.

    from rnnlab import nn as fast
    layer = fast.LSTM(8, 16, num_layers=2, batch_first=True)  # instead of torch.nn.LSTM

The classes are subclasses of those in ``torch.nn``: constructor, parameters, state dict, errors and, up to rounding,
results are the same. On a CPU, in float32 and float64, the compiled steps run them, forward and backward. Everything
else is left to PyTorch: other devices and dtypes, autocast, ``proj_size``, ``torch.compile``, ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab import cells, engine
from rnnlab.cells.base import Native
from rnnlab.layers import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]

if TYPE_CHECKING:  # the classes below precede a class with these attributes in the order of bases
    _Layer, _Cell = nn.RNNBase, cells.Cell
else:
    _Layer = _Cell = object

PLAIN = (Tensor, nn.Parameter)
"""Types of tensors that compiled steps compute with; the operations of subclasses of tensors are their own."""
FEWEST_STEPS = {"GRU": 16, "RNN_TANH": 32, "RNN_RELU": 32}
"""Number of time steps from which the compiled steps are faster than PyTorch's GRU and RNN."""
LEAST_WORK = 2**25
"""Multiply-adds of one layer from which they train faster than PyTorch's LSTM, one oneDNN kernel for all steps.
Without gradients that kernel is as fast at any size."""


class _Compiled(_Layer):
    """What `RNN`, `LSTM` and `GRU` add to the classes of ``torch.nn``."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run the layers as ``torch.nn`` does.

        Args:
            input: ``[T, B, input_size]``, with ``batch_first`` ``[B, T, input_size]``; ``[T, input_size]`` without a
                batch; or a `PackedSequence`.
            hx: the states before the first step, each ``[num_layers * directions, B, hidden_size]``, without B if the
                input is unbatched; a pair for `LSTM`. None for zeros.

        Returns:
            the outputs in the form of the inputs, and the states after the last step in the form of ``hx``.
        """
        is_packed = isinstance(input, PackedSequence)
        data = input.data if is_packed else input
        if not _is_served(self, data):
            return super().forward(input, hx)
        inputs, lengths = _time_major(self, input)
        states = _states(self, inputs, hx, is_batched=is_packed or input.dim() == 3)
        if states is None or not _is_faster(self, *inputs.shape):
            return super().forward(input, hx)  # for malformed states it raises its error
        outputs, states = _run(self, inputs, states, lengths)
        if isinstance(input, PackedSequence):
            return _packed_like(input, outputs, lengths), _as_given(states)
        if input.dim() == 2:
            return outputs.squeeze(1), _as_given([state.squeeze(1) for state in states])
        return (outputs.transpose(0, 1) if self.batch_first else outputs), _as_given(states)

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the layer of ``torch.nn`` with the same parameters, for ``torch.jit.script``."""
        base: Any = next(kind for kind in type(self).__mro__ if kind.__module__ == nn.LSTM.__module__)
        plain = base.__new__(base)
        plain.__dict__ = self.__dict__
        return plain


class RNN(_Compiled, nn.RNN):
    """`torch.nn.RNN`, compiled."""


class LSTM(_Compiled, nn.LSTM):
    """`torch.nn.LSTM`, compiled."""


class GRU(_Compiled, nn.GRU):
    """`torch.nn.GRU`, compiled."""


class _Shared(_Cell):
    """A cell that computes with the weights of a layer of ``torch.nn``, and has no parameters of its own."""

    _weights: tuple[Tensor, ...]

    def __init__(self, layer: nn.RNNBase, input_size: int) -> None:
        nn.Module.__init__(self)
        self.input_size, self.hidden_size, self.output_size = input_size, layer.hidden_size, layer.hidden_size
        self.mode = layer.mode

    def share(self, weights: list[Tensor]) -> None:
        """Use these weights from now on, in the order of `Native.weights`."""
        # Not by setattr, which would register parameters: they belong to the layer.
        vars(self).update(_weights=tuple(weights), **self.named(*weights))

    def named(self, W: Tensor, U: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> dict[str, Any]:
        """Return the weights by their names in the cell, which has one bias."""
        return {"W": W, "U": U, "b": None if b_ih is None or b_hh is None else b_ih + b_hh}

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Return the weights of the layer."""
        return iter(self._weights)

    def native(self) -> Native:
        """Return the weights as they are."""
        return Native(self.mode, self._weights)


class _RNNCell(_Shared, cells.find("rnn")):
    def __init__(self, layer: nn.RNNBase, input_size: int) -> None:
        super().__init__(layer, input_size)
        self.activation = layer.nonlinearity


class _LSTMCell(_Shared, cells.find("lstm")):
    pass


class _GRUCell(_Shared, cells.find("gru")):
    reset = "after"

    def named(self, W: Tensor, U: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> dict[str, Any]:
        if b_ih is None or b_hh is None:
            return {"W": W, "U": U, "b": None, "b_u": None}
        rz, n = b_hh.split([2 * self.hidden_size, self.hidden_size])
        # A copy, because conversions may swap tensors (torch.utils.swap_tensors), which refuses parameters with views.
        return {"W": W, "U": U, "b": b_ih + torch.cat([rz, torch.zeros_like(n)]), "b_u": n.clone()}


_CELLS = {"RNN_TANH": _RNNCell, "RNN_RELU": _RNNCell, "LSTM": _LSTMCell, "GRU": _GRUCell}
_RUNNERS: WeakKeyDictionary[nn.RNNBase, list[Recurrent]] = WeakKeyDictionary()
"""What runs a layer: one `Recurrent` for each depth and direction. Not attributes, so that copies have their own."""


def _weights(layer: nn.RNNBase) -> Iterator[Tensor]:
    """Yield the weights. They need not be parameters: a parametrization may compute them."""
    return (getattr(layer, name) for names in layer._all_weights for name in names)


def _is_served(layer: nn.RNNBase, data: Any) -> bool:
    """Whether the compiled steps run this input, given as the tensor of all steps; its last axis are the features."""
    weight = layer.weight_ih_l0
    return (
        all(type(tensor) in PLAIN for tensor in (data, *_weights(layer)))
        and engine.reference.observer(data) is None
        and data.dim() in (2, 3)
        and data.numel() > 0
        and data.shape[-1] == layer.input_size
        and data.device.type == weight.device.type == "cpu"
        and data.dtype == weight.dtype
        and data.dtype in (torch.float32, torch.float64)
        and not layer.proj_size
        and engine.reference.autocast_dtype(data.device) is None
    )


def _is_faster(layer: nn.RNNBase, steps: int, batch_size: int, features: int) -> bool:
    """Whether the compiled steps are measured to be faster than PyTorch's kernels."""
    if layer.mode != "LSTM":
        return steps >= FEWEST_STEPS[layer.mode]
    work = 4 * steps * batch_size * layer.hidden_size * (features + layer.hidden_size)
    return torch.is_grad_enabled() and work >= LEAST_WORK


def _time_major(layer: nn.RNNBase, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
    """Return the inputs ``[T, B, input_size]``, and the lengths of a packed batch, in the order of the user."""
    if isinstance(input, PackedSequence):
        return pad_packed_sequence(input)
    if input.dim() == 2:
        return input.unsqueeze(1), None
    return (input.transpose(0, 1) if layer.batch_first else input), None


def _states(layer: nn.RNNBase, inputs: Tensor, hx: Any, is_batched: bool) -> list[Tensor] | None:
    """Return the initial states, each ``[num_layers * directions, B, hidden_size]``; None if ``hx`` is malformed."""
    count = 2 if layer.mode == "LSTM" else 1
    shape = (layer.num_layers * (1 + layer.bidirectional), inputs.shape[1], layer.hidden_size)
    if hx is None:
        return [inputs.new_zeros(shape)] * count
    states = [hx] if count == 1 else hx
    if not isinstance(states, list | tuple) or len(states) != count:
        return None
    expected = shape if is_batched else (shape[0], shape[2])
    for state in states:
        if type(state) not in PLAIN or state.shape != expected:
            return None
        if state.dtype != inputs.dtype or state.device != inputs.device:
            return None
    return [state.view(shape) if is_batched else state.unsqueeze(1) for state in states]


def _runners(layer: nn.RNNBase) -> list[Recurrent]:
    """Return one `Recurrent` for each depth and direction, with the present weights of ``layer``."""
    names, directions = layer._all_weights, 1 + layer.bidirectional
    weights = [[getattr(layer, name) for name in part] for part in names]
    runners = _RUNNERS.get(layer)
    if runners is None:
        runners = _RUNNERS[layer] = []
        for place, part in enumerate(weights):
            cell = _CELLS[layer.mode](layer, part[0].shape[1])
            cell.share(part)
            runners.append(Recurrent(cell, reverse=place % directions == 1))
    for runner, part in zip(runners, weights, strict=True):
        cell: Any = runner.cell
        cell.share(part)
    return runners


def _run(
    layer: nn.RNNBase, inputs: Tensor, states: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Run all depths and directions; return the outputs ``[T, B, directions * hidden_size]`` and the final states."""
    directions, final, outputs = 1 + layer.bidirectional, [], []
    for place, runner in enumerate(_runners(layer)):
        if place and place % directions == 0:
            inputs = dropout(_joined(outputs, dim=-1), layer.dropout, layer.training)
            outputs = []
        output, state = runner(inputs, tuple(state[place] for state in states), lengths)
        outputs.append(output)
        final.append(state)
    return _joined(outputs, dim=-1), [torch.stack(parts) for parts in zip(*final, strict=True)]


def _joined(outputs: list[Tensor], dim: int) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim)


def _as_given(states: list[Tensor]) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


def _packed_like(packed: PackedSequence, outputs: Tensor, lengths: Tensor | None) -> PackedSequence:
    """Return outputs ``[T, B, F]`` packed in the order of ``packed``."""
    assert lengths is not None, "a packed batch has lengths"
    order = packed.sorted_indices
    if order is not None:
        outputs, lengths = outputs[:, order], lengths[order.to(lengths.device)]
    data = pack_padded_sequence(outputs, lengths).data
    return PackedSequence(data, *packed[1:])
