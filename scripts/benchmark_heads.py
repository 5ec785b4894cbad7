"""Measure cells with matrix states: rnnlab's layer, its plain loop, a chunkwise form of mLSTM, and the input products.

python scripts/benchmark_heads.py [rounds=20] [cells=mlstm] [sizes=256x16x256,1024x4x256] [heads=8,4] [input_size=64]
                                  [chunks=16,32,64,128,256] [loop=3]

Sizes are steps x sequences x hidden_size. Everything runs in one process and alternates, so that the load of the
machine affects all columns equally; the fastest of ``rounds`` counts, for the plain loop the fastest of ``loop``.
"products" are the matrix products of the input weights alone, forward and for both gradients. Every other column is a
time divided by that of the layer: a training step without optimizer, or one time step without gradients, the mean of
20 in a row, as in generation. The script checks that the columns that it compares have equal outputs.
"""

import sys
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.cells.matrix.mlstm import MLSTM
from rnnlab.engine import reference
from rnnlab.layers import Recurrent
from rnnlab.trees import State

IN_A_ROW = 20


def chunkwise(cell: MLSTM, inputs: Tensor, state: State, size: int) -> tuple[Tensor, State]:
    """Run mLSTM over ``inputs`` in chunks of ``size`` steps, with matrix products instead of a loop over the steps.

    A chunk attends to its own steps; it reads the steps before it from the state at its start. Weights are stabilised
    by the largest exponent of each step, whose gradient is zero, as h does not depend on it.

    Args:
        cell: the cell.
        inputs: ``[T, B, input_size]``; T is a multiple of ``size``.
        state: C', n' and m before the first step.
        size: steps of a chunk.

    Returns:
        outputs ``[T, B, hidden_size]`` and the final state, whose scale m may differ from that of the step form.
    """
    T, B, _ = inputs.shape
    heads, d = cell.heads, cell.hidden_size // cell.heads
    q, k, v, o = linear(inputs, cell.W, cell.b).chunk(4, dim=-1)
    q, k, v = (  # [chunk, B * heads, step, d]
        part.reshape(T // size, size, B * heads, d).transpose(1, 2) for part in (q, k / d**0.5, v)
    )
    # log_i, log_f: [chunk, B * heads, step]
    gates = linear(inputs, cell.W_gates, cell.b_gates).chunk(2, dim=-1)
    log_i, log_f = (
        part.reshape(T // size, size, B * heads).transpose(1, 2) for part in gates
    )  # [chunk, B * heads, step]
    if cell.forget_gate == "sigmoid":
        log_f = logsigmoid(log_f)
    since = log_f.cumsum(-1)  # log of the decay from the start of the chunk
    befores, state = _starts(k, v, log_i, since, tuple(part.flatten(0, 1) for part in state))
    C, n, m = (torch.stack(part) for part in zip(*befores, strict=True))
    later = torch.ones(size, size, dtype=torch.bool).triu(1)
    weight = (since.unsqueeze(-1) + (log_i - since).unsqueeze(-2)).masked_fill(later, -torch.inf)
    carried = since + m.unsqueeze(-1)
    scale = torch.maximum(weight.amax(-1), carried).detach()
    weight = (weight - scale.unsqueeze(-1)).exp() * (q @ k.transpose(-1, -2))
    carried = (carried - scale).exp().unsqueeze(-1) * q
    numerator = weight @ v + carried @ C
    denominator = weight.sum(-1) + (carried @ n.unsqueeze(-1)).squeeze(-1)
    h = numerator / torch.maximum(denominator.abs(), (-scale).exp()).unsqueeze(-1)
    h = h.transpose(1, 2).reshape(T, B, cell.hidden_size)
    C, n, m = (part.unflatten(0, (B, heads)) for part in state)
    return o.sigmoid() * h, (C.transpose(-1, -2), n, m)


def _starts(k: Tensor, v: Tensor, log_i: Tensor, since: Tensor, state: State) -> tuple[list[State], State]:
    """Return the state at the start of every chunk, C' as [key, value], and the final state."""
    C, n, m = state[0].transpose(-1, -2), *state[1:]
    decay = since[..., -1]
    weight = decay.unsqueeze(-1) - since + log_i
    largest = weight.amax(-1).detach()
    kept = k * (weight - largest.unsqueeze(-1)).exp().unsqueeze(-1)
    added, added_n = kept.transpose(-1, -2) @ v, kept.sum(-2)
    starts = []
    for step in range(len(k)):
        starts.append((C, n, m))
        new = torch.maximum((decay[step] + m).detach(), largest[step])
        f, i = (decay[step] + m - new).exp().unsqueeze(-1), (largest[step] - new).exp().unsqueeze(-1)
        C = f.unsqueeze(-1) * C + i.unsqueeze(-1) * added[step]
        n, m = f * n + i * added_n[step], new
    return starts, (C, n, m)


def products(cell: Cell, inputs: Tensor, gradients: dict[Tensor, Tensor]) -> None:
    """Compute the products of the input weights of a training step: outputs and the gradients of inputs and weights."""
    rows = inputs.flatten(0, 1)
    for weight, gradient in gradients.items():
        linear(inputs, weight)
        gradient.T @ rows
        gradient @ weight


def trained(run: Callable, cell: Cell, inputs: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    """Return a function that runs a training step without optimizer and returns the outputs."""
    leaf = inputs.clone().requires_grad_()

    def step() -> Tensor:
        cell.zero_grad()
        leaf.grad = None
        outputs = run(leaf)[0]
        outputs.backward(gradient)
        return outputs.detach()

    return step


def generating(run: Callable, inputs: Tensor, state: State) -> Callable[[], None]:
    """Return a function that runs one time step several times."""

    def several() -> None:
        for _ in range(IN_A_ROW):
            run(inputs, state)

    return several


def fastest(steps: dict[str, Callable], rounds: dict[str, int]) -> dict[str, float]:
    """Return the least seconds of each function; they alternate, and ``rounds`` says how often each of them runs."""
    best = dict.fromkeys(steps, float("inf"))
    for done in range(max(rounds.values())):
        for name, step in steps.items():
            if done < rounds[name]:
                started = perf_counter()
                step()
                best[name] = min(best[name], perf_counter() - started)
    return best


def forms(cell: Cell, layer: Recurrent, chunks: list[int]) -> dict[str, Callable]:
    """Return the implementations of a layer as functions ``(inputs, state) -> (outputs, state)``."""
    found = {"layer": layer, "loop": lambda inputs, state: reference.run(cell, inputs, state)}
    if isinstance(cell, MLSTM):
        found |= {f"chunk{size}": lambda x, state, size=size: chunkwise(cell, x, state, size) for size in chunks}
    return found


def compare(cell: Cell, inputs: Tensor, rounds: int, loop: int, chunks: list[int]) -> tuple[dict, dict]:
    """Return the least seconds of a training step, and of one time step without gradients, of every form."""
    layer = Recurrent(cell)
    state = cell.initial_state(inputs.shape[1])
    gradient = torch.randn(*inputs.shape[:2], cell.hidden_size)
    weights = [p for p in cell.parameters() if p.dim() == 2 and p.shape[1] == inputs.shape[2]]
    grown = {weight.detach(): torch.randn(inputs.shape[0] * inputs.shape[1], len(weight)) for weight in weights}
    steps = {
        name: trained(lambda x, run=run: run(x, state), cell, inputs, gradient)
        for name, run in forms(cell, layer, [size for size in chunks if not len(inputs) % size]).items()
    }
    outputs = {name: step() for name, step in steps.items()}
    for found in outputs.values():
        torch.testing.assert_close(found, outputs["layer"], rtol=1e-3, atol=1e-3)
    steps["products"] = lambda: products(cell, inputs, grown)
    training = fastest(steps, {name: loop if name == "loop" else rounds for name in steps})
    with torch.no_grad():
        _, state = layer(inputs[:100])
        several = {name: generating(run, inputs[:1], state) for name, run in forms(cell, layer, [1]).items()}
        generation = fastest(several, dict.fromkeys(several, 5 * rounds))
    return training, {name: seconds / IN_A_ROW for name, seconds in generation.items()}


def main() -> None:
    """Measure the cells and print the ratios."""
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    options = dict(argument.split("=") for argument in sys.argv[1:])
    rounds, loop = int(options.get("rounds", 20)), int(options.get("loop", 3))
    chunks = [int(size) for size in options.get("chunks", "16,32,64,128,256").split(",")]
    width = int(options.get("input_size", 64))
    print(f"{torch.get_num_threads()} threads, fastest of {rounds} rounds, {width} input features")
    for name in options.get("cells", "mlstm").split(","):
        for size in options.get("sizes", "256x16x256,1024x4x256").split(","):
            for heads in map(int, options.get("heads", "8,4").split(",")):
                steps, sequences, hidden = map(int, size.split("x"))
                torch.manual_seed(0)
                cell = cells.create(name, input_size=width, hidden_size=hidden, heads=heads)
                measured = compare(cell, torch.randn(steps, sequences, width), rounds, loop, chunks)
                for kind, times in zip(("training", "one step"), measured, strict=True):
                    ratios = "  ".join(f"{k} {t / times['layer']:.2f}" for k, t in times.items() if k != "layer")
                    head = f"{name} {size} {heads} heads, {kind}:"
                    print(f"{head} layer {1e3 * times['layer']:.3f} ms; over the layer: {ratios}", flush=True)


if __name__ == "__main__":
    main()
