"""Measure a training step of the cells at equal state size, relative to a reference cell with the same state size.

python scripts/benchmark_zoo.py [state_size=1024] [cells=NAME,NAME] [reference=lstm] [size=64x32x128] [rounds=4]
                                [cell.OPTION=VALUE ...]

The width of each cell is the one that `budget.state_size` selects, whatever its deviation. size is steps x sequences x
input features. A cell and the reference alternate in one process, on one thread, and the least CPU time of each counts,
which the load of the machine hardly affects. The rows are those of the table in docs/cells.md: width, numbers of state,
operations of a time step in matrix products and others, in thousands, and the time of a training step divided by the
reference's. cell.OPTION=VALUE applies to all cells, such as cell.heads=4 with cells=gla,mlstm.
"""

import sys
from time import process_time

import torch

from rnnlab import cells, config, lookup
from rnnlab.benchmark.contenders import Contender, Work, of_layer
from rnnlab.benchmark.timing import threads
from rnnlab.cells import Cell
from rnnlab.layers import Recurrent
from rnnlab.training.flops import cost_of


def sized(name: str, state_size: int, input_size: int, options: list[str]) -> Cell:
    """Return a cell whose state has about ``state_size`` numbers for each sequence."""
    budget = [f"budget.state_size={state_size}", "budget.tolerance=1"]
    found = config.compose(["task=hello", "model.num_layers=1", f"cell={name}", *budget, *options])
    name, options = lookup.read_section(found["cell"])
    return cells.create(name, input_size=input_size, hidden_size=found["model"]["hidden_size"], **options)


def contender(cell: Cell, steps: int, sequences: int) -> tuple[Contender, Work]:
    """Return the training step of a cell on random inputs."""
    inputs = torch.randn(steps, sequences, cell.input_size, requires_grad=True)
    work = Work(cell, inputs, torch.randn(steps, sequences, cell.output_size), threads=1)
    return of_layer("ours", Recurrent(cell, "auto"), work), work


def seconds(one: Contender, work: Work) -> float:
    """Return the CPU time of a training step; clearing gradients is not timed."""
    work.inputs.grad = None
    one.module.zero_grad()
    started = process_time()
    one.training()
    return process_time() - started


def ratio(cell: Cell, reference: Cell, steps: int, sequences: int, rounds: int) -> tuple[float, float]:
    """Return the least seconds of a training step of both cells; the first call of each is not counted.

    In each round, the cell repeats its step for as long as one step of the reference takes.
    """
    ours, other = (contender(one, steps, sequences) for one in (cell, reference))
    for one in (ours, other):
        seconds(*one)
    least = other_least = float("inf")
    for _ in range(rounds):
        left = taken = seconds(*other)
        other_least = min(other_least, taken)
        while left > 0:
            taken = seconds(*ours)
            least, left = min(least, taken), left - taken
    return least, other_least


def main() -> None:
    """Measure the cells and print the rows of the table."""
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    own = dict(argument.split("=", 1) for argument in sys.argv[1:] if not argument.startswith("cell."))
    options = [argument for argument in sys.argv[1:] if argument.startswith("cell.")]
    state_size, rounds = int(own.get("state_size", 1024)), int(own.get("rounds", 4))
    steps, sequences, features = map(int, own.get("size", "64x32x128").split("x"))
    torch.manual_seed(0)
    reference = sized(own.get("reference", "lstm"), state_size, features, [])
    least = float("inf")
    print("| cell | hidden_size | state | products | others | time |\n|---|---|---|---|---|---|")
    with threads(1):
        for name in own["cells"].split(",") if "cells" in own else cells.available():
            cell = sized(name, state_size, features, options)
            ours, other = ratio(cell, reference, steps, sequences, rounds)
            least = min(least, other)
            cost = cost_of(cell)
            thousands = " | ".join(f"{count / 1000:,.1f}" for count in (cost.products, cost.elements))
            print(f"| `{name}` | {cell.hidden_size} | {cost.state:,} | {thousands} | {ours / other:.2f} |", flush=True)
    print(f"\n{steps}x{sequences}, {features} input features; a step of the reference takes {1e3 * least:.1f} ms")


if __name__ == "__main__":
    main()
