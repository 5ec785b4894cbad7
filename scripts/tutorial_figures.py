"""Draw the figures of the tutorial from the runs that its chapters train.

python scripts/tutorial_figures.py [folder=runs/tutorial] [out=docs/tutorial/images]

FOLDER is the folder in which scripts/tutorial.py has run the chapters. A figure with words has a Korean variant,
NAME.ko.svg.
"""

import json
import re
import sys
from pathlib import Path

import torch
import tutorial_diagrams as diagrams
from why_training_is_hard import curve

from rnnlab import files, report
from rnnlab.analysis import curves
from rnnlab.diagnostics import gates, watching
from rnnlab.diagnostics.trajectory import Trajectory
from rnnlab.interface import Batch
from rnnlab.report.figures import colours
from rnnlab.training import load

ROOT = Path(__file__).resolve().parents[1]


def validated(run: Path, metric: str) -> tuple[list[float], list[float]]:
    """Training steps and values of a metric on the validation set."""
    return curves.read(run)[metric]["valid"]


def excerpt(run: Path, length: int) -> tuple[str, Trajectory, slice, int]:
    """A part of the test text, and where its states are: the paragraph with the most quotation marks.

    Returns:
        the text, the trajectory of the only layer over the test set, the steps, and the number of the sequence.
    """
    task, model, _ = load(run, "cpu")
    inputs = torch.cat([task.batch("test", number).inputs for number in range(8)])
    with watching(model) as seen, torch.no_grad():
        model(Batch(inputs, inputs))
    (trajectory,) = seen.values()
    found = []
    for sequence, stream in enumerate(inputs.T):
        text = "".join(task.spell(stream))
        for start in (mark.end() for mark in re.finditer("\n", text[64:-length])):
            shown = text[64 + start :][:length]
            if "|" not in shown and "--" not in shown:  # no tables
                found.append((shown.count('"'), -sequence, -start, shown))
    _, sequence, start, text = max(found)
    return text, trajectory, slice(64 - start, 64 - start + length), -sequence


def hello(runs: Path) -> str:
    """Chapter 3: the numbers of the network that spells "hello"."""
    task, model, _ = load(runs / "hello", "cpu")
    batch = task.batch("train", 0)
    with watching(model) as seen, torch.no_grad():
        scores, _ = model(batch)
    (trajectory,) = seen.values()
    tokens = [*batch.inputs[:, 0].tolist(), int(batch.targets[-1, 0])]
    states, probabilities = trajectory.states()["h"][:, 0], scores[:, 0].softmax(-1)
    return diagrams.hello(task.vocabulary.characters, tokens, states.tolist(), probabilities.tolist())


def units(runs: Path) -> str:
    """Chapter 6: the test text coloured by the two units that the chapter finds."""
    chosen = json.loads((runs / "units.json").read_text())
    text, trajectory, steps, sequence = excerpt(runs / "units", 260)
    rows = []
    for name, unit in chosen.items():
        values = trajectory.states()["c"][:, sequence, unit]
        low, high = values.quantile(0.02), values.quantile(0.98)
        scaled = (values - low) / (high - low) * 2 - 1
        label = {"position": "position in the line", "quoted": "quotation marks"}[name]
        rows.append((label, text, scaled[steps].tolist()))
    return diagrams.coloured(rows)


def layers(runs: Path) -> str:
    """Chapter 6: learning curves of one, two and three layers."""
    made, axes = report.figure(5.6, 3.2, xlabel="training step", ylabel="bits per character")
    for number, label in enumerate(("1 layer", "2 layers", "3 layers")):
        axes.plot(*validated(runs / f"layers_{number + 1}", "bpc"), label=label, **report.style(number))
    report.legend(axes)
    return themed(made, "layers")


def gradients(runs: Path) -> str:
    """Chapter 8: how far gradients reach in three cells, before and after training."""
    made, first = report.figure(8.4, 3.4)
    first.remove()
    for axes, (title, which) in zip(
        made.subplots(1, 2, sharey=True), (("untrained", "initial"), ("trained", "best")), strict=True
    ):
        report.dress(axes)
        axes.set(title=title, xlabel="steps before the loss", yscale="log", ylim=(1e-14, 1e2))
        for number, cell in enumerate(("rnn", "lstm", "gru")):
            look = {**report.style(number), "markevery": 10, "markersize": 4}
            axes.plot(curve(runs / f"adding_{cell}", which), label=cell, **look)
    report.legend(axes)
    return themed(made, "gradients")


def forget_bias(runs: Path) -> str:
    """Chapter 9: gradients before training and learning curves for four biases of the forget gate."""
    made, first = report.figure(8.4, 3.4)
    first.remove()
    left, right = made.subplots(1, 2)
    report.dress(left)
    report.dress(right)
    left.set(title="before training", xlabel="steps before the loss", yscale="log", ylabel="‖dL/dh‖")
    right.set(title="during training", xlabel="training step", ylabel="squared error")
    for number, bias in enumerate((-2, 0, 1, 3)):
        run, look = runs / f"bias_{bias}", {**report.style(number), "markersize": 4}
        left.plot(curve(run, "initial"), **look, markevery=10)
        right.plot(*validated(run, "loss"), label=f"b_f = {bias}".replace("-", "−"), **look, markevery=3)
    right.set_ylim(bottom=0)
    report.legend(right)
    return themed(made, "forget_bias")


def gate_values(runs: Path) -> str:
    """Chapter 9: the forget gates of the 24 units with the most variable gates over a part of the test text."""
    text, trajectory, steps, sequence = excerpt(runs / "units", 64)
    values = gates(trajectory)["f"].values[steps, sequence]
    chosen = values.std(0).topk(24).indices
    made, axes = report.figure(8.4, 3.4, ylabel="unit")
    image = axes.imshow(values[:, chosen].T, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xticks(range(len(text)), [{" ": "␣", "\n": "⏎"}.get(one, one) for one in text], fontsize=7)
    bar = made.colorbar(image, ax=axes, pad=0.01, ticks=[0, 0.5, 1])
    bar.ax.tick_params(colors=report.MUTED, labelsize=8)
    bar.outline.set_visible(False)
    return themed(made, "gates")


def equal_size(runs: Path) -> str:
    """Chapter 10: learning curves of three cells with equal numbers of parameters, mean and range of three seeds."""
    made, axes = report.figure(5.6, 3.2, xlabel="training step", ylabel="bits per character")
    places = sorted((runs / "equal" / "char_lm").glob("*/config.yaml"))
    for number, cell in enumerate(("rnn", "lstm", "gru")):
        curves = [validated(place.parent, "bpc") for place in places if f"-{cell}-s" in f"-{place.parent.name}"]
        steps, values = curves[0][0], torch.tensor([values for _, values in curves])
        look = report.style(number)
        axes.plot(steps, values.mean(0), label=cell, **look)
        axes.fill_between(steps, values.amin(0), values.amax(0), color=look["color"], alpha=0.2, linewidth=0)
    report.legend(axes)
    return themed(made, "equal_size")


def themed(made: object, name: str) -> str:
    """A figure of matplotlib as an SVG document with its own background, in light and dark colours."""
    svg = report.themed(report.render(made, name), name, "")
    svg = re.sub(r"(?<![\d.])-?\d+\.\d{4,}", lambda number: f"{float(number[0]):.2f}", svg)
    paper = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{colours()}</style>{paper}", svg, count=1)


FIGURES = {
    "patterns": lambda runs: diagrams.patterns(),
    "unrolled": lambda runs: diagrams.unrolled(),
    "hello": hello,
    "truncated": lambda runs: diagrams.truncated(),
    "units": units,
    "layers": layers,
    "gradients": gradients,
    "lstm": lambda runs: diagrams.lstm(),
    "forget_bias": forget_bias,
    "gates": gate_values,
    "gru": lambda runs: diagrams.gru(),
    "equal_size": equal_size,
}
"""The figures by name: functions of the folder of the runs that return an SVG document."""


def main(arguments: list[str]) -> None:
    """Draw all figures."""
    options = {"folder": "runs/tutorial", "out": str(ROOT / "docs" / "tutorial" / "images")}
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if not given.keys() <= options.keys():
        sys.exit(__doc__)
    options |= given
    runs, out = Path(options["folder"]) / "runs", Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        svg = draw(runs)
        korean = diagrams.translated(svg)
        files.write_bytes(out / f"{name}.svg", svg.encode())
        if korean != svg:
            files.write_bytes(out / f"{name}.ko.svg", korean.encode())
        print(f"{name}.svg: {len(svg.encode()) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
