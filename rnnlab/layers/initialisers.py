"""Initialisers of recurrent matrices and gate biases, for every cell that names its gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnnlab.cells.base import Cell, check_choice
from rnnlab.interface import InputError

WEIGHTS = {
    "orthogonal": nn.init.orthogonal_,
    "identity": nn.init.eye_,
    "glorot": nn.init.xavier_uniform_,
    "uniform": lambda weight: nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5),
}
GATES = ("chrono", "uniform")


@torch.no_grad()
def initialise(cell: Cell, recurrent: str = "", gates: str = "", memory_length: int = 100) -> Cell:
    """Initialise a cell's recurrent weights and gate biases; an empty string keeps the cell's own values.

    Args:
        cell: the cell, modified in place.
        recurrent: initialisation of U, per gate: ``orthogonal`` (Saxe et al., 2014, arXiv:1312.6120), ``identity`` (Le
            et al., 2015, arXiv:1504.00941), ``glorot`` (Glorot and Bengio, 2010), or ``uniform`` in ±1/sqrt(H).
        gates: initialisation of the biases of gates that control memory: ``chrono``, for time scales uniform up to
            ``memory_length`` steps (Tallec and Ollivier, 2018, arXiv:1804.11188, equation 16), or ``uniform``, for
            gates uniform between 0 and 1 (Gu et al., 2020, arXiv:1910.09890).
        memory_length: longest time scale of ``chrono``, in steps.

    Raises:
        InputError: an option has an unknown value, or the cell has no square U or no gate that controls memory.
    """
    name = type(cell).__name__
    if recurrent:
        check_choice("recurrent_init", recurrent, tuple(WEIGHTS))
        weight = getattr(cell, "U", None)
        if weight is None or weight.dim() != 2 or weight.shape[0] % weight.shape[1]:
            raise InputError(f"recurrent_init={recurrent} needs square recurrent matrices U; {name} has none")
        for block in weight.split(weight.shape[1]):
            WEIGHTS[recurrent](block)
    if gates:
        check_choice("gate_init", gates, GATES)
        bias = getattr(cell, "b", None)
        if not cell.remembers or bias is None:
            raise InputError(f"gate_init={gates} needs a gate with a bias that keeps the state; {name} has none")
        if memory_length < 3:
            raise InputError(f"memory_length={memory_length} must be at least 3 steps")
        start = _biases(gates, bias.new_empty(bias.shape[0] // len(cell.gates)), memory_length)
        blocks = dict(zip(cell.gates, bias.chunk(len(cell.gates)), strict=True))
        for gate, sign in cell.remembers.items():
            blocks[gate].copy_(sign * start)
    return cell


def _biases(kind: str, like: Tensor, memory_length: int) -> Tensor:
    """Return biases of a gate that keeps the state if it is open."""
    if kind == "chrono":
        return torch.empty_like(like).uniform_(1, memory_length - 1).log()
    # In [1/H, 1 - 1/H], as in the paper: the logit of 0 and 1 is infinite.
    return torch.empty_like(like).uniform_(1 / len(like), 1 - 1 / len(like)).logit() if len(like) > 2 else like.zero_()
