"""Measure the characters per second of rnnlab's training loop, relative to a minimal loop with layers of torch.nn.

python scripts/benchmark_loop.py [rounds=5] [steps=200] [cells=rnn,lstm,gru]

Both loops train in one process and alternate, so that the load of the machine affects both equally. rnnlab's loop
writes metrics, TensorBoard events and checkpoints with the default options; the minimal loop only trains.
"""

import logging
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rnnlab import config
from rnnlab.layers import to_torch
from rnnlab.training import train
from rnnlab.training.build import build
from rnnlab.training.trainer import Trainer


class Bare(nn.Module):
    """Embedding, a layer of ``torch.nn``, and readout."""

    def __init__(self, vocabulary: int, layer: nn.RNNBase) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, layer.input_size)
        self.layer = layer
        self.readout = nn.Linear(layer.hidden_size, vocabulary)

    def forward(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits and the final state."""
        hidden, state = self.layer(self.embedding(tokens), state)
        return self.readout(hidden), state


def bare_loop(resolved: dict, steps: int) -> float:
    """Train for ``steps`` training steps with the minimal loop; return the time in seconds."""
    torch.manual_seed(0)
    task, model = build(resolved)
    bare = Bare(task.output_size, to_torch(model.stack))
    optimizer = torch.optim.AdamW(bare.parameters(), lr=4e-3, weight_decay=0.01)
    inputs, targets = task.streams["train"]
    length, state = task.seq_len, None
    started = perf_counter()
    for step in range(steps):
        at = step % task.num_batches("train") * length
        logits, state = bare(inputs[at : at + length], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = cross_entropy(logits.flatten(0, 1), targets[at : at + length].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()
    return perf_counter() - started


def our_loop(resolved: dict, folder: Path) -> float:
    """Train the same model with rnnlab; return the seconds from the first to the last training step, including files.

    Imports, samples and evaluations before the first and after the last training step are not included.
    """
    seconds = []
    validate, fit = Trainer.validate, Trainer.fit

    def timed_validate(self: Trainer, *arguments: object) -> None:
        started = perf_counter()
        validate(self, *arguments)
        seconds.append(started - perf_counter())

    def timed_fit(self: Trainer, *arguments: object) -> str:
        started = perf_counter()
        status = fit(self, *arguments)
        seconds.append(perf_counter() - started)
        return status

    Trainer.validate, Trainer.fit = timed_validate, timed_fit
    try:
        train({**resolved, "run_dir": str(folder)})
    finally:
        Trainer.validate, Trainer.fit = validate, fit
    return sum(seconds)


def main() -> None:
    """Measure the cells and print the ratios."""
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    options = dict(argument.split("=") for argument in sys.argv[1:])
    rounds, steps = int(options.get("rounds", 5)), int(options.get("steps", 200))
    logging.disable(logging.INFO)
    print(f"{torch.get_num_threads()} threads, {rounds} rounds of {steps} steps, medians")
    print("cell   ours char/s   bare char/s   ours / bare   ratio, fastest rounds")
    for cell in options.get("cells", "rnn,lstm,gru").split(","):
        resolved = config.compose([f"model={cell}", f"trainer.steps={steps}", f"trainer.eval_every={steps}"])
        characters = steps * resolved["task"]["batch_size"] * resolved["task"]["seq_len"]
        ours, bare = [], []
        for _ in range(rounds + 1):  # the first round warms up
            with tempfile.TemporaryDirectory() as folder:
                ours.append(our_loop(resolved, Path(folder) / "run"))
            bare.append(bare_loop(resolved, steps))
        ratio = statistics.median(b / o for o, b in zip(ours[1:], bare[1:], strict=True))
        fast, plain = (characters / statistics.median(times[1:]) for times in (ours, bare))
        best = min(bare[1:]) / min(ours[1:])  # other load can only make a round slower
        print(f"{cell:<5}{fast:>13,.0f}{plain:>14,.0f}{ratio:>14.3f}{best:>24.3f}", flush=True)


if __name__ == "__main__":
    main()
