"""Texts of a diagnostic report: headings, captions, and how to read each figure."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf, isfinite
from typing import Any, NamedTuple

from rnnlab.report import Cell, number, raised


class Text(NamedTuple):
    """The text of one figure.

    alt: description for screen readers.
    caption: what the figure shows, in one sentence.
    reading: how to read the figure.
    """

    alt: str
    caption: str
    reading: str


PARTS = {
    "How far gradients reach": ("gradients", "gradients-whole"),
    "What one step does to the state": ("jacobian", "eigenvalues", "lyapunov"),
    "How long a change is remembered": ("memory",),
    "What the gates do": ("saturation", "time-scales"),
    "How large the state is": ("states",),
    "Single units over the input": ("units",),
}
"""Headings of the report, with the figures below each."""

TEXTS = {
    "gradients": Text(
        "Norm of the gradient of the last scored step's loss, by distance from it",
        "Norm of the gradient of the loss of the last scored step with respect to the state at earlier steps, ‖dL/dh‖.",
        "The left end is the step of the loss, and the right end is the farthest step. A line that falls steadily "
        "means that gradients vanish: earlier steps hardly change the weights, so the network cannot learn such long "
        "dependencies. A line that rises means that gradients explode. A flat line is best. The axis is logarithmic: "
        "a straight line is a constant factor per step.",
    ),
    "gradients-whole": Text(
        "Norm of the gradient of the whole loss, by step",
        "Norm of the gradient of the whole loss with respect to the state at every step, as in training.",
        "Each step collects the gradients of all later losses. Large values show the steps that determine the update "
        "of the weights. If the loss is at the last step only, the curve is that of the first figure, mirrored.",
    ),
    "jacobian": Text(
        "Singular values of the step Jacobian, largest first",
        "Singular values of the step Jacobian, the derivative of the state with respect to the state one step before; "
        "means over steps and sequences.",
        "One step stretches or shrinks a small change of the state by a factor that depends on its direction. Above "
        "the grey line at 1 the change grows, below it shrinks. Values far below 1 are directions that one step "
        "forgets.",
    ),
    "eigenvalues": Text(
        "Eigenvalues of a step Jacobian in the complex plane",
        "Eigenvalues of the step Jacobian at step {step} of one sequence, with the unit circle.",
        "Each point is a pattern of the state. If the same step is repeated, a pattern inside the circle dies out, one "
        "outside grows, and one on the circle lasts. Points off the horizontal axis oscillate.",
    ),
    "lyapunov": Text(
        "The largest Lyapunov exponents",
        "The largest Lyapunov exponents: average growth of small changes per step, along the sequence.",
        "An exponent of 0 keeps a change, a negative one forgets it, and a positive one means chaos: two almost equal "
        "states drift apart. An exponent of −0.1 halves a change about every 7 steps (0.69 divided by 0.1).",
    ),
    "memory": Text(
        "Size of a small change of the state, by steps since the change",
        "Size of a small change of the state relative to its first size; the half-life is marked.",
        "The state is changed a little and followed over the next steps. The grey line is one half. The sooner the "
        "curve falls below it, the shorter the network remembers. A curve that bends and becomes flat has some "
        "directions that keep a change for long.",
    ),
    "saturation": Text(
        "Share of steps in which each unit of each gate is saturated, below 0.1 and above 0.9",
        "Share of steps in which each unit of a gate is below 0.1 (closed) and above 0.9 (open).",
        "Each point is one unit of a gate. At the lower right it is almost always closed, at the upper left almost "
        "always open, and at the lower left it takes values in between. Near the diagonal it switches between open and "
        "closed. A unit that never moves carries no information and receives hardly any gradient.",
    ),
    "time-scales": Text(
        "Time scale of each unit in steps, sorted",
        "Time scale of each unit in steps, computed from its gate alone.",
        "A unit with a time scale of 10 keeps its content for about 10 steps. A curve that rises over several powers "
        "of ten means that the layer has both fast and slow units.",
    ),
    "states": Text(
        "Size of the states, by step",
        "Root mean square of each state over units and sequences.",
        "A line that settles means that the state is stable. A line that keeps rising means that the state grows with "
        "the length of the sequence, so sequences longer than those of training may fail.",
    ),
    "units": Text(
        "Outputs of single units over the inputs of one sequence, as a heat map",
        "The units whose outputs vary most over one sequence.",
        "Each row is a unit and each column a step with its input. Red is positive and blue is negative. Look for rows "
        "that change at particular inputs, such as spaces or brackets: such units count or mark something.",
    ),
}
"""Texts of each figure; ``step`` is that of the Jacobian."""


def remarks(layer: dict[str, Any], kinds: Sequence[str]) -> list[str]:
    """Return sentences on figures of a part of the report that cannot be drawn."""
    if "jacobian" in kinds and "left_out" in layer["jacobian"]:
        return [layer["jacobian"]["left_out"]]
    if "saturation" in kinds and not layer["gates"]:
        return ["This cell has no gate: its step has no sigmoid of inputs or state."]
    if "saturation" in kinds and not any("time_scales" in gate for gate in layer["gates"].values()):
        return ["The cell does not declare which of its gates keep the state, so there are no time scales."]
    return []


def sentence(name: str, layer: dict[str, Any], layers: int) -> str:
    """Return a sentence on the gradient and the memory of a layer."""
    ratio, life = layer["gradients"]["log10_ratio"], layer["memory"]["half_life"]
    distance = len(next(iter(layer["gradients"]["last"].values()))) - 1
    which = f"In {name}, the" if layers > 1 else "The"
    size = "is zero" if ratio == -inf else f"is {power(ratio)} times the gradient at that step"
    memory = f"falls to half in {life:.1f} steps" if life is not None else "stays above half to the end"
    return (
        f"{which} gradient {distance:,} steps before the last scored step {size}; a small change of the state {memory}."
    )


def power(exponent: float) -> str:
    """Return 10^exponent as text with two significant digits, also if a float cannot hold it."""
    if not isfinite(exponent) or -4 <= exponent < 15:
        return number(10**exponent, 2)
    mantissa, whole = f"{10 ** (exponent - floor(exponent)):.1f}", floor(exponent)
    if mantissa == "10.0":
        mantissa, whole = "1.0", whole + 1
    return f"{mantissa.removesuffix('.0')}×10{raised(whole)}"


def rows(layer: dict[str, Any]) -> list[list[Any]]:
    """Return the rows of the table of measures: name, value, explanation."""
    ratio = layer["gradients"]["log10_ratio"]
    found = [
        ["gradient at the farthest step over the nearest", Cell(power(ratio), ratio), "1: gradients keep their size"],
        ["largest Lyapunov exponent", layer["lyapunov_exponents"][0], "nats per step; above 0 small changes grow"],
        ["memory half-life", layer["memory"]["half_life"], "steps until a small change falls to half; – if never"],
        ["state size", layer["state_size"], "numbers in the state of one sequence"],
    ]
    if "spectral_radius" in layer["jacobian"]:
        about = "mean over steps: growth of a small change per step if the same step were repeated"
        radius = layer["jacobian"]["spectral_radius"]
        found.insert(1, ["spectral radius of the step", radius, about])
    for name, gate in layer["gates"].items():
        left, right = (sum(gate[key]) / len(gate[key]) for key in ("left_saturated", "right_saturated"))
        found.append(
            [f"gate {name}: mean", gate["mean"], f"share below 0.1: {number(left, 2)}, above 0.9: {number(right, 2)}"]
        )
        if "time_scales" in gate:
            scales = sorted(gate["time_scales"])
            middle, longest = scales[len(scales) // 2], scales[-1]
            found.append([f"gate {name}: median time scale", middle, f"steps; longest: {number(longest, 3)}"])
    return found
