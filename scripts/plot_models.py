"""Draw validation loss against training steps, one line a run: the README's picture.

python scripts/plot_models.py docs/images/loss.svg RUN [RUN ...]

The README's was made from the four models on the default corpus:

    rnnlab train -m model=rnn,stacked_rnn,lstm,gru trainer.eval_every=100
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def read(run: Path) -> tuple[str, list[int], list[float]]:
    """The name of a run's model, the steps at which it was evaluated, and its validation loss there."""
    summary = json.loads((run / "summary.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(record["step"], record["loss"]) for record in records if record["split"] == "valid"]
    return (summary["model"], *map(list, zip(*points, strict=True)))


def plot(curves: list[tuple[str, list[int], list[float]]]) -> Figure:
    """A line for each ``(name, steps, losses)``, named at its end."""
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name, steps, losses in curves:
        axes.plot(steps, losses, marker=".", label=f"{name}  {losses[-1]:.2f}")
    axes.set_xlabel("training steps")
    axes.set_ylabel("validation loss (nats per character)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Read the runs, draw, save."""
    target, *runs = map(Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "rnnlab"  # the same runs give the same file
    plot([read(run) for run in runs]).savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
