"""The recurrent kernels of ``torch.nn``, run with the weights of a cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.trees import State


def run(cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` with the kernel that its ``native`` names; see `reference.run` for the arguments.

    Under autocast on a CPU the plain loop runs: oneDNN's half-precision kernels fail on processors without AVX-512.
    """
    if inputs.device.type == "cpu" and reference.autocast_dtype(inputs.device):
        return reference.run(cell, inputs, state, lengths)
    return reference.widened(cell, _kernel(cell, inputs, state, lengths))


def _kernel(cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
    if lengths is not None and not len(lengths):
        lengths = None  # torch cannot pack an empty batch
    mode, weights = cell(inputs, native=True)
    kernel = getattr(torch, mode.lower())  # torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu
    has_biases = len(weights) == 4
    if inputs.is_cuda:
        weights = _in_one_piece(weights)
    # biases, layers, dropout, train, bidirectional; cuDNN saves tensors for its backward pass only if "train" is set
    is_training = torch.is_grad_enabled() and not torch.jit.is_tracing()
    options = (has_biases, 1, 0.0, is_training, False)
    if lengths is None:
        outputs, *final = kernel(inputs, _hidden(state), weights, *options, False)  # batch_first
        return outputs, tuple(part[0] for part in final)
    packed = pack_padded_sequence(inputs, lengths.cpu(), enforce_sorted=False)
    state = tuple(part[packed.sorted_indices] for part in state)
    data, *final = kernel(packed.data, packed.batch_sizes, _hidden(state), weights, *options)
    outputs, _ = pad_packed_sequence(PackedSequence(data, *packed[1:]), total_length=inputs.shape[0])
    return outputs, tuple(part[0][packed.unsorted_indices] for part in final)


def _hidden(state: State) -> Tensor | tuple[Tensor, ...]:
    """Return the state in the form of ``torch.nn``: ``[1, B, H]``, in a tuple only if there are several."""
    layered = tuple(part.unsqueeze(0) for part in state)
    return layered if len(layered) > 1 else layered[0]


def _in_one_piece(weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the weights into one block of memory; otherwise cuDNN copies them at every call, with a warning."""
    pieces = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
    return tuple(piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True))
