"""Make cells and stacks from the weights of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab import cells
from rnnlab.interface import InputError
from rnnlab.layers import Bidirectional, Recurrent, Stack

GATES = {"rnn": 1, "gru": 3, "lstm": 4, "peephole": 4}
"""Number of gates of the cells that can be made."""


class Part(NamedTuple):
    """Recurrent layers on top of each other that have one name in a file.

    name: name of the layer, module or node.
    layers: the layers, from the lowest to the highest.
    between: names of other layers or nodes between the part below and this one, which a stack would leave out.
    """

    name: str
    layers: tuple[Recurrent | Bidirectional, ...]
    between: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of input features and of output features."""
        lowest = self.layers[0]
        cell = (lowest.forward_layer if isinstance(lowest, Bidirectional) else lowest).cell
        return cell.input_size, self.layers[-1].output_size


def cell_of(
    name: str, W: Tensor, U: Tensor, biases: Sequence[Tensor] = (), peepholes: Tensor | None = None, **options: Any
) -> cells.Cell:
    """Return a cell with the given weights, whose gates are in the order of the cell.

    Args:
        name: one of `GATES`.
        W: input weights ``[G * H, F]`` of G gates.
        U: recurrent weights ``[G * H, H]``.
        biases: none, or the biases of the input products and of the recurrent products, each ``[G * H]``.
        peepholes: ``[3 * H]``, for ``peephole``.
        options: options of the cell.

    Raises:
        InputError: the shapes do not fit each other.
    """
    size = U.shape[-1]
    rows = GATES[name] * size
    shapes = [list(tensor.shape) for tensor in (W, U, *biases)]
    if W.dim() != 2 or shapes != [[rows, W.shape[1]], [rows, size], *([[rows]] * len(biases))]:
        raise InputError(f"weights of shapes {shapes} are not those of {name} with {size} units")
    dtype = torch.float64 if W.dtype == torch.float64 else torch.float32
    cell: Any = cells.create(name, input_size=W.shape[1], hidden_size=size, bias=bool(biases), **options).to(dtype)
    with torch.no_grad():
        cell.W.copy_(W)
        cell.U.copy_(U)
        if peepholes is not None:
            cell.p.copy_(peepholes)
        if biases:
            inner, recurrent = biases
            cell.b.copy_(inner + recurrent)
            if getattr(cell, "b_u", None) is not None:  # the reset gate multiplies this bias, so it stays separate
                cell.b[2 * size :] = inner[2 * size :]
                cell.b_u.copy_(recurrent[2 * size :])
    return cell


def stack_of(found: list[Part], source: str, chosen: Sequence[str] | None = None) -> Stack:
    """Return the stack of the parts called ``chosen``, in this order; None for all.

    Raises:
        InputError: there is no such part, or the parts do not form a stack.
    """
    if not found:
        raise InputError(f"{source} has no RNN, LSTM or GRU")
    known = {part.name: part for part in found}
    listed = ", ".join(f"{part.name or 'unnamed'} ({part.sizes[0]} to {part.sizes[1]} features)" for part in found)
    if missing := [name for name in chosen or () if name not in known]:
        raise InputError(f"{source} has no recurrent layer {missing[0]!r}; it has {listed}")
    parts = [known[name] for name in chosen] if chosen else found
    for below, above in pairwise(parts):
        if above.between and not chosen:
            raise InputError(
                f"{source} has {', '.join(above.between)} between the recurrent layers {below.name} and {above.name}; "
                f"give the names of the layers to read, which are {listed}"
            )
        if below.sizes[1] != above.sizes[0]:
            raise InputError(
                f"the layers of {source} form no stack, because {below.name} has {below.sizes[1]} outputs and "
                f"{above.name} has {above.sizes[0]} inputs; give the names of the layers to read, which are {listed}"
            )
    return Stack([layer for part in parts for layer in part.layers])
