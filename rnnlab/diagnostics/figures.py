"""The figures of a diagnosis: each function takes plain numbers and returns a matplotlib figure."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Any

from rnnlab.report import GRID, INK, MUTED, SERIES, dress, figure, legend_below, style, write_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = list[float]


def of_layer(layer: dict[str, Any]) -> dict[str, Figure]:
    """Draw every figure of one layer, by name.

    Args:
        layer: the result of `rnnlab.diagnostics.report.describe_layer`.

    Raises:
        InputError: matplotlib is not installed.
    """
    drawn = {
        "gradients": gradients(layer["gradients"]["last"], "steps before the last scored step"),
        "gradients-whole": gradients(layer["gradients"]["whole"], "step of the sequence"),
    }
    jacobian = layer["jacobian"]
    if "singular_values" in jacobian:
        drawn["jacobian"] = singular_values(jacobian["singular_values"])
        drawn["eigenvalues"] = eigenvalues(*jacobian["eigenvalues"])
    drawn["lyapunov"] = lyapunov(layer["lyapunov_exponents"])
    drawn["memory"] = memory(layer["memory"]["influence"], layer["memory"]["half_life"])
    if layer["gates"]:
        drawn["saturation"] = saturation(layer["gates"])
    scales = {name: gate["time_scales"] for name, gate in layer["gates"].items() if "time_scales" in gate}
    if scales:
        drawn["time-scales"] = time_scales(scales)
    drawn["states"] = states(layer["state_norms"])
    drawn["units"] = units(**layer["units"])
    return drawn


def gradients(norms: dict[str, Numbers], xlabel: str) -> Figure:
    """Plot norms on a logarithmic scale, one line for each state.

    Args:
        norms: norms by the state's name.
        xlabel: label of the x axis.
    """
    made, axes = figure(xlabel=xlabel, ylabel="norm of the gradient", yscale="log")
    for number, (name, values) in enumerate(norms.items()):
        axes.plot([value if value > 0 else None for value in values], label=name, **_line(number))
    if len(norms) > 1:
        legend_below(made)
    write_counts(axes)
    return made


def singular_values(values: Numbers) -> Figure:
    """Plot singular values, largest first."""
    made, axes = figure(xlabel="direction, most stretched first", ylabel="factor per step (singular value)")
    axes.axhline(1, color=MUTED, linewidth=0.8)
    axes.plot(range(1, len(values) + 1), values, **_line(0, marked=len(values) < 50))
    axes.set_ylim(bottom=0)
    write_counts(axes)
    return made


def eigenvalues(real: Numbers, imaginary: Numbers) -> Figure:
    """Plot eigenvalues in the complex plane, with the unit circle."""
    from matplotlib.patches import Circle

    made, axes = figure(5.0, 3.6, xlabel="real part", ylabel="imaginary part")
    axes.add_patch(Circle((0, 0), 1, fill=False, color=MUTED, linewidth=0.8))
    axes.scatter(real, imaginary, s=12, color=SERIES[0])
    reach = max(1.0, *map(abs, real), *map(abs, imaginary)) * 1.1
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    return made


def lyapunov(exponents: Numbers) -> Figure:
    """Plot exponents as bars, largest first; exponents of minus infinity have no bar."""
    made, axes = figure(xlabel="exponent, largest first", ylabel="growth (nats per step)")
    numbers = [n for n, value in enumerate(exponents, 1) if _is_finite(value)]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.bar(numbers, [exponents[n - 1] for n in numbers], color=SERIES[0], width=0.6)
    axes.set_xticks(range(1, len(exponents) + 1))
    return made


def memory(influence: Numbers, half_life: float | None) -> Figure:
    """Plot the influence on a logarithmic scale, with the half-life."""
    made, axes = figure(xlabel="steps since the change", ylabel="relative size of the change", yscale="log")
    axes.plot([value if value > 0 else None for value in influence], **_line(0))
    axes.axhline(0.5, color=MUTED, linewidth=0.8)
    if half_life is not None:
        axes.plot([half_life], [0.5], marker="o", color=SERIES[1])
        axes.annotate(f" {half_life:.3g} steps", (half_life, 0.5), color=INK, fontsize=9, va="bottom")
    write_counts(axes)
    return made


def saturation(gates: dict[str, dict[str, Any]]) -> Figure:
    """Plot every unit as a point, as in Karpathy, Johnson and Fei-Fei (2015, arXiv:1506.02078, figure 3)."""
    made, axes = figure(5.0, 3.6, xlabel="share of steps below 0.1", ylabel="share of steps above 0.9")
    axes.plot([0, 1], [1, 0], color=GRID, linewidth=0.8)
    for number, (name, gate) in enumerate(gates.items()):
        look = style(number)
        place = (gate["left_saturated"], gate["right_saturated"])
        axes.scatter(*place, s=18, alpha=0.7, color=look["color"], marker=look["marker"], label=name)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    legend_below(made)
    return made


def time_scales(scales: dict[str, Numbers]) -> Figure:
    """Plot the sorted time scales of the units on a logarithmic scale."""
    made, axes = figure(xlabel="units, sorted by time scale", ylabel="time scale (steps)", yscale="log")
    for number, (name, values) in enumerate(scales.items()):
        axes.plot(sorted(value for value in values if value > 0), label=name, **_line(number))
    if len(scales) > 1:
        legend_below(made)
    return made


def states(norms: dict[str, Numbers]) -> Figure:
    """Plot one line for each state."""
    made, axes = figure(xlabel="step of the sequence", ylabel="size (root mean square)")
    for number, (name, values) in enumerate(norms.items()):
        axes.plot(values, label=name, **_line(number))
    if len(norms) > 1:
        legend_below(made)
    axes.set_ylim(bottom=0)
    write_counts(axes)
    return made


def units(from_step: int, inputs: list[str], numbers: list[int], values: list[Numbers]) -> Figure:
    """Plot a heat map with a row for each unit and a column for each step.

    Args:
        from_step: number of the first step.
        inputs: labels of the columns; if empty, the numbers of the steps are used.
        numbers: numbers of the units.
        values: values of every unit, by step.
    """
    made, axes = figure(8.0, 0.6 + 0.13 * len(numbers), ylabel="unit")
    reach = max((abs(value) for row in values for value in row if _is_finite(value)), default=1.0) or 1.0
    steps = len(values[0])
    image = axes.imshow(
        values,
        cmap="RdBu_r",
        vmin=-reach,
        vmax=reach,
        aspect="auto",
        interpolation="nearest",
        extent=(from_step - 0.5, from_step + steps - 0.5, len(numbers) - 0.5, -0.5),
    )
    axes.grid(visible=False)
    axes.set_yticks(range(0, len(numbers), 4), [str(number) for number in numbers[::4]])
    if inputs:
        shown = {" ": "␣", "\n": "⏎", "\t": "⇥"}
        axes.set_xticks(range(from_step, from_step + steps), [shown.get(one, one) for one in inputs], fontsize=7)
        axes.set_xlabel("input")
    else:
        axes.set_xlabel("step")
    bar = made.colorbar(image, ax=axes, pad=0.01)
    bar.ax.tick_params(colors=MUTED, labelsize=8)
    bar.outline.set_visible(False)
    return made


VANISHED, EXPLODED = 2**-24, 100.0
"""Bounds of a gradient norm relative to that at the nearest step. Below VANISHED, the gradient is lost by rounding in a
float32 sum with the nearest one; above EXPLODED, norm clipping scales the nearest one to less than a hundredth.
"""


def reach(curves: dict[str, dict[str, Numbers]], low: float = 1e-16, high: float = 1e6) -> Figure:
    """Plot how far gradients reach, with a panel for each moment and a labelled line for each cell.

    Args:
        curves: ‖dL/dh‖ by distance from the loss, relative to that at the loss, by moment and cell.
        low: lower limit of the y axis; a line that leaves the axes is labelled at that point.
        high: upper limit of the y axis.
    """
    made, first = figure(9.0, 4.2)
    first.remove()
    panels = made.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    beside = {"color": MUTED, "fontsize": 9, "va": "top"}
    for axes, (moment, cells) in zip(panels, curves.items(), strict=True):
        dress(axes)
        steps = max(len(values) for values in cells.values()) - 1
        axes.set(title=moment, xlabel="steps before the loss", yscale="log", ylim=(low, high), xlim=(0, steps * 1.42))
        axes.set_xticks(range(0, steps + 2, 50 if steps > 100 else 10))
        axes.axhspan(low, VANISHED, color=SERIES[0], alpha=0.08, linewidth=0)
        axes.axhspan(EXPLODED, high, color=SERIES[1], alpha=0.1, linewidth=0)
        axes.text(steps * 1.4, VANISHED / 2, "vanishing: lost in float32 rounding", **beside, ha="right")
        axes.text(steps * 0.02, high / 2, "exploding", **beside, ha="left")
        ends = {}
        for number, (name, values) in enumerate(cells.items()):
            seen = next((n for n, value in enumerate(values) if not low < value < high), len(values))
            axes.plot(values[: seen + 1], **_line(number))
            ends[name] = (seen - 1, values[seen - 1], style(number)["color"])
        _label(axes, ends, steps)
    panels[0].set_ylabel("‖dL/dh‖ over that at the loss")
    return made


def _label(axes: Axes, ends: dict[str, tuple[int, float, str]], steps: int) -> None:
    """Label the lines at their ends: at the right without overlap, or where a line leaves the axes."""
    low, high = (log10(bound) for bound in axes.get_ylim())
    right = sorted((log10(value), name) for name, (step, value, _) in ends.items() if step == steps)
    places, gap = [place for place, _ in right], (high - low) / 18
    for _ in range(100):  # move labels that overlap apart by equal distances
        for n in range(1, len(places)):
            missing = max(0.0, gap - (places[n] - places[n - 1])) / 2
            places[n - 1], places[n] = places[n - 1] - missing, places[n] + missing
    for place, (_, name) in zip(places, right, strict=True):
        axes.text(steps * 1.02, 10**place, name, color=ends[name][2], fontsize=9, va="center")
    for name, (step, value, colour) in ends.items():
        if step < steps:
            axes.text(step + steps * 0.015, value * (3 if value < 1 else 1 / 3), name, color=colour, fontsize=9)


def _line(number: int, marked: bool = False) -> dict[str, Any]:
    """Return the style of a line, without markers unless ``marked``, because many markers would hide the line."""
    look = {**style(number), "linewidth": 1.5, "markersize": 3}
    return look if marked else {**look, "marker": "None"}


def _is_finite(value: float) -> bool:
    return value - value == 0
