"""Settings of a benchmark: cells, sizes, and how to measure them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rnnlab import cells, engine
from rnnlab.cells import Cell
from rnnlab.interface import InputError
from rnnlab.training.device import pick_device

PEERS = ("torch.nn", "naive", "torchrecurrent", "jax")
KINDS = ("training", "inference")
"""Training: a forward and backward pass with a given gradient of the outputs. Inference: a forward pass alone."""

Say = Callable[[str], None]


class Candidate(NamedTuple):
    """A cell to measure: its label in the tables, its name for `rnnlab.cells.create`, and its options."""

    label: str
    name: str
    options: dict[str, Any]

    def create(self, hidden_size: int) -> Cell:
        """Make the cell, with an input size equal to the hidden size."""
        return cells.create(self.name, input_size=hidden_size, hidden_size=hidden_size, **self.options)


class Size(NamedTuple):
    """Steps T, batch size B and hidden size H; the inputs are ``[T, B, H]``."""

    steps: int
    batch_size: int
    hidden_size: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark.

    candidates: the cells to measure.
    sizes: the sizes at which every cell is measured.
    backend: the backend of our layer, one of `rnnlab.engine.BACKENDS`.
    threads: the number of threads that torch and JAX use.
    rounds: the number of times that each contender is timed.
    device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
    peers: the peers to measure, a subset of `PEERS`.
    first_use: whether to measure the extra time of the first training step, in new processes.
    lengths: whether sequences have random lengths; peers that do not support them are missing.
    memory: whether to measure the peak memory of a training step, in new processes.

    Raises:
        InputError: ``threads`` or ``rounds`` is below 1, the device does not exist, or the backend cannot run a cell.
    """

    candidates: tuple[Candidate, ...]
    sizes: tuple[Size, ...]
    backend: str = "fused"
    threads: int = 1
    rounds: int = 7
    device: str = "cpu"
    peers: tuple[str, ...] = PEERS
    lengths: bool = False
    first_use: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        pick_device(self.device)
        for candidate in self.candidates:  # checked here, because measuring takes minutes
            engine.choose(candidate.create(self.sizes[0].hidden_size), self.backend)


def read_cells(text: str) -> list[tuple[str, str, list[str]]]:
    """Parse ``"gru,gru(reset=before)"`` to ``[("gru", "gru", []), ("gru(reset=before)", "gru", ["reset=before"])]``.

    Raises:
        InputError: the text is not a list of cells.
    """
    found = []
    for item in re.split(r",(?![^(]*\))", text):  # at commas outside brackets
        parts = re.fullmatch(r"([^\s(),=]+)(?:\(([^()]*)\))?", item.strip())
        options = [option.strip() for option in parts[2].split(",")] if parts and parts[2] else []
        if not parts or not all("=" in option for option in options):
            raise InputError(
                f"cannot read the cell {item!r}; give names, as in cells='gru,gru(reset=before),mine:Cell'"
            )
        found.append((item.strip(), parts[1], options))
    return [cell for i, cell in enumerate(found) if cell not in found[:i]]


def read_sizes(text: str) -> tuple[Size, ...]:
    """Parse sizes such as ``"64x32x128,100x1x256"``.

    Raises:
        InputError: the text is not a list of sizes.
    """
    found = []
    for item in text.split(","):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", item.strip()):
            raise InputError(f"cannot read the size {item!r}; give steps x batch x hidden size, as in sizes=64x32x128")
        found.append(Size(*map(int, item.split("x"))))
    return tuple(dict.fromkeys(found))
