"""Everything that can be seen in one model on one batch: as plain numbers, as scalars for a log, as files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import inf, isfinite, log10, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnlab import files
from rnnlab.diagnostics import figures
from rnnlab.diagnostics.gates import gates, innermost, saturation, time_scales
from rnnlab.diagnostics.gradients import Flows, gradient_flow
from rnnlab.diagnostics.jacobian import half_life, influence, lyapunov_exponents, spectrum, state_size
from rnnlab.diagnostics.trajectory import Trajectory
from rnnlab.interface import Batch, InputError
from rnnlab.lookup import nearest
from rnnlab.models import Model
from rnnlab.report import Page, number, save
from rnnlab.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Effort:
    """How much is computed; the defaults take seconds to a minute on a CPU.

    steps: of a stream, at most; other tasks give whole sequences, as long as they are.
    sequences: of the batch, the longest, for what needs Jacobians; the gradients are those of the whole batch.
    points: steps at which the spectrum of the step Jacobian is taken.
    exponents: Lyapunov exponents, the largest ones.
    directions: for the influence of a state on a later one; exact where the state has no more numbers than that.
    largest: the largest state, in numbers, whose step Jacobian is made as a matrix.
    """

    steps: int = 200
    sequences: int = 4
    points: int = 8
    exponents: int = 8
    directions: int = 64
    largest: int = 1024

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


LIGHT = Effort(steps=100, sequences=2, points=2, exponents=1, directions=16, largest=256)
"""For looking in while training."""

SKIPPED = 10
"""The first tenth of the steps is not counted for exponents and memory: the way from the first state to where the
network usually is.
"""

UNITS, TEXT = 32, 60
"""How many units, and how many of the last steps, a heat map shows."""


def diagnose(model: Model, task: Task, split: str = "valid", effort: Effort = Effort()) -> dict[str, Any]:
    """Look into a model on the first batch of a split.

    It computes in double precision, on a copy in evaluation mode: gradients that vanish over hundreds of steps are
    smaller than what single precision can hold. The model, its gradients and its mode are left as they are.

    Args:
        model: the model.
        task: gives the batch, its loss, and how its inputs are written.
        split: of the task.
        effort: how much to compute.

    Returns:
        plain containers and numbers: ``split``, ``steps``, ``sequences``, and for every recurrent layer under
        ``layers``, by its name in the model, what `describe_layer` says.

    Raises:
        InputError: the task has no such split, or the model no recurrent layer.
    """
    flows, trajectories, batch = flows_of(model, task, split, effort.steps)
    spelled = task.spell(batch.inputs[:, 0])
    layers = {
        name: describe_layer(found, flows[name], effort, spelled if len(spelled) == len(found) else [])
        for name, found in trajectories.items()
    }
    return {"split": split, "steps": len(batch.inputs), "sequences": batch.batch_size, "layers": layers}


def flows_of(model: Model, task: Task, split: str, steps: int) -> tuple[dict[str, Flows], dict[str, Trajectory], Batch]:
    """`gradient_flow` on the first batch of a split, in double precision on a copy, and that batch; see `diagnose`."""
    if split not in task.splits:
        raise InputError(f"the task has no split {split!r}{nearest(split, list(task.splits))}")
    place = next(model.parameters()).device
    watched = copy.deepcopy(model).double().eval().requires_grad_(True)
    batch = first_steps(task, split, steps)
    return *gradient_flow(watched, _double(batch.to(place)), task.loss), batch


def describe_layer(found: Trajectory, flows: Flows, effort: Effort, spelled: list[str]) -> dict[str, Any]:
    """What is to be said of one layer.

    ``gradients``: norms of dL/dh_t, of the whole loss by step and of the last scored step by distance from it, for
    every state and for all together; ``log10_ratio``, the latter's at the farthest step over that at the nearest.
    ``jacobian``: singular values and spectral radius of the step Jacobian, means over points and sequences.
    ``lyapunov_exponents``: nats a step. ``memory``: the influence of a state on later ones, and its half-life.
    ``gates``: for each gate how often units are saturated, and for how long they remember.
    ``state_norms``: root mean square over units and sequences, by step. ``units``: outputs of one sequence.
    """
    part = found.select(effort.sequences, effort.steps)
    skip = len(part) // SKIPPED
    left = influence(part, skip, effort.directions)
    exponents = lyapunov_exponents(part, effort.exponents, skip).mean(1)
    distance = flows.last.by_distance(flows.last.total)
    return {
        "cell": type(innermost(found.cell)).__name__,
        "state_size": state_size(part),
        "steps_looked_at": len(part),
        "gradients": {
            "whole": {name: flows.whole.by_step(norms).tolist() for name, norms in _states(flows.whole).items()},
            "last": {name: flows.last.by_distance(norms).tolist() for name, norms in _states(flows.last).items()},
            "log10_ratio": _log10_ratio(distance),
        },
        "jacobian": _jacobian(part, effort),
        "lyapunov_exponents": exponents.tolist(),
        "memory": {
            "influence": left.tolist(),
            "half_life": half_life(left),
            "from_step": skip,
            "exact": state_size(part) <= effort.directions,
        },
        "gates": _gates(found),
        "state_norms": {name: _rms(values, found.counts) for name, values in found.states().items()},
        "units": _units(found, spelled),
    }


SCALARS = (
    "gradient_log10_ratio",
    "spectral_radius",
    "largest_lyapunov_exponent",
    "memory_half_life",
    "saturated_share",
    "state_norm",
)
"""The names of those numbers of a layer that are worth a curve."""


def scalars(found: dict[str, Any]) -> dict[str, float]:
    """The `SCALARS` that a diagnosis has, for each layer, with the name of the layer if there are several."""
    values = {}
    for name, layer in found["layers"].items():
        of_layer = (
            layer["gradients"]["log10_ratio"],
            layer["jacobian"].get("spectral_radius"),
            layer["lyapunov_exponents"][0],
            layer["memory"]["half_life"],
            _saturated(layer["gates"]),
            next(iter(layer["state_norms"].values()))[-1],
        )
        prefix = f"{name}/" if len(found["layers"]) > 1 else ""
        values |= {f"{prefix}{key}": x for key, x in zip(SCALARS, of_layer, strict=True) if x is not None}
    return values


Drawn = dict[str, tuple["Figure", str, str]]
"""Figures by name: the figure, what it shows, and its caption."""


def draw(found: dict[str, Any]) -> Drawn:
    """Every figure of a diagnosis, by a name for its file.

    Raises:
        InputError: matplotlib is not installed.
    """
    return {
        _prefix(found, name) + kind: drawn
        for name, layer in found["layers"].items()
        for kind, drawn in figures.of_layer(layer).items()
    }


def write(found: dict[str, Any], folder: Path, title: str) -> list[str]:
    """Put ``diagnostics.json``, every figure as PNG and SVG, and ``page.html``, which needs none of them, in a folder.

    Args:
        found: what `diagnose` returned.
        folder: exists, and is empty.
        title: of the page.

    Returns:
        sentences that say where they lie; without matplotlib there are the numbers alone.
    """
    files.write_json(folder / "diagnostics.json", found)
    try:
        drawn = draw(found)
    except InputError as error:
        return [f"Written: {folder / 'diagnostics.json'}", f"No page: {error}"]
    for name, (figure, _, _) in drawn.items():
        save(figure, folder / name)
    page(found, title, drawn).write(folder / "page.html")
    return [f"Written: {folder / 'page.html'}, and beside it the numbers and {len(drawn)} figures"]


def page(found: dict[str, Any], title: str, drawn: Drawn) -> Page:
    """A diagnosis as one page, with the figures that `draw` made of it."""
    sheet = Page(
        title, " ".join(_sentence(name, layer, len(found["layers"])) for name, layer in found["layers"].items())
    )
    sheet.text(
        f"On the first batch of {found['split']}: {found['steps']} steps of {found['sequences']} sequences, in double "
        "precision, on the equations of the cell.",
        "note",
    )
    for name, layer in found["layers"].items():
        sheet.section(f"{layer['cell']}, {name}")
        sheet.table(["measure", "value", "what it is"], _rows(layer), f"{name} in numbers")
        for key, (figure, alt, caption) in drawn.items():
            if key == _prefix(found, name) + "units":
                sheet.heading("Units over the inputs")  # a row of its own: letters need the width
            if key.startswith(_prefix(found, name)):
                sheet.figure(figure, alt, caption)
        if not layer["gates"]:
            sheet.text("This cell has no gate: its step has no sigmoid of inputs or state.")
        elif not any("time_scales" in gate for gate in layer["gates"].values()):
            sheet.text("The cell does not say which of its gates remember, so there are no time scales.")
        if "left_out" in layer["jacobian"]:
            sheet.text(layer["jacobian"]["left_out"])
    return sheet


def first_steps(task: Task, split: str, steps: int) -> Batch:
    """The first batch of a split; of streams, windows one after another until there are ``steps`` steps or no more."""
    batch = task.batch(split, 0)
    if batch.fresh is None or len(batch.targets) != len(batch.inputs):
        return batch
    inputs, targets = [batch.inputs], [batch.targets]
    for place in range(1, task.num_batches(split)):
        if sum(map(len, inputs)) >= steps:
            break
        window = task.batch(split, place)
        if window.fresh.any():
            break
        inputs.append(window.inputs)
        targets.append(window.targets)
    return replace(batch, inputs=torch.cat(inputs)[:steps], targets=torch.cat(targets)[:steps])


def _double(batch: Batch) -> Batch:
    return replace(batch, inputs=_precise(batch.inputs), targets=_precise(batch.targets))


def _precise(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _states(flow: Any) -> dict[str, Tensor]:
    """The norms of every state, and of all together where there are several."""
    return flow.states if len(flow.states) == 1 else {**flow.states, "all": flow.total}


def _log10_ratio(distance: Tensor) -> float:
    """The last over the first, as a power of ten."""
    ratio = float((distance[-1] / distance[0]).detach())
    return -inf if ratio == 0 else log10(ratio) if isfinite(ratio) else nan


def _jacobian(part: Trajectory, effort: Effort) -> dict[str, Any]:
    size = state_size(part)
    if size > effort.largest:
        return {
            "left_out": f"The state has {size:,} numbers, and above {effort.largest:,} the step Jacobian is not made "
            "as a matrix: singular values and spectral radius are left out."
        }
    found = spectrum(part, effort.points)
    values = found.eigenvalues[0, 0]
    return {
        "steps": found.steps,
        "singular_values": found.singular.mean((0, 1)).tolist(),
        "spectral_radius": float(found.radius.mean()),
        "spectral_radii": found.radius.mean(1).tolist(),
        "eigenvalues": [values.real.tolist(), values.imag.tolist()],
    }


def _gates(found: Trajectory) -> dict[str, dict[str, Any]]:
    described = {}
    for name, gate in gates(found).items():
        share = saturation(gate, found.live)
        described[name] = {
            "mean": float(gate.values[found.counts].mean()),
            "left_saturated": share.left.tolist(),
            "right_saturated": share.right.tolist(),
        }
        scales = time_scales(gate, found.live)
        if scales is not None:
            described[name]["time_scales"] = scales.tolist()
    return described


def _saturated(found: dict[str, dict[str, Any]]) -> float | None:
    """The share of all gates' activations that are saturated, either way; None where there is no gate."""
    shares = [
        a + b for gate in found.values() for a, b in zip(gate["left_saturated"], gate["right_saturated"], strict=True)
    ]
    return 2 * sum(shares) / len(shares) if shares else None


def _rms(values: Tensor, live: Tensor) -> list[float]:
    """``[T, B, ...]`` as a root mean square over units and the sequences that count, for every step."""
    squares = values.flatten(2).abs().square().mean(-1)
    return squares.masked_fill(~live, torch.nan).nanmean(1).sqrt().tolist()


def _units(found: Trajectory, spelled: list[str]) -> dict[str, Any]:
    """The outputs of the first sequence's last steps, of those units that move most."""
    end = int(found.counts[:, 0].sum())
    start = max(0, end - TEXT)
    values = found.outputs[start:end, 0].flatten(1)
    moving = values.std(0, correction=0).topk(min(UNITS, values.shape[1])).indices.sort().values
    return {
        "from_step": start,
        "inputs": spelled[start:end],
        "numbers": moving.tolist(),
        "values": values[:, moving].t().tolist(),
    }


def _prefix(found: dict[str, Any], name: str) -> str:
    """What the names of a layer's figures begin with: nothing where there is one layer."""
    return f"{name.replace('.', '-')}-" if len(found["layers"]) > 1 else ""


def _sentence(name: str, layer: dict[str, Any], layers: int) -> str:
    """A summary of the most important numbers."""
    ratio, life = layer["gradients"]["log10_ratio"], layer["memory"]["half_life"]
    distance = len(next(iter(layer["gradients"]["last"].values()))) - 1
    which = f"In {name}, the" if layers > 1 else "The"
    size = "is zero" if ratio == -inf else f"is 10^{ratio:.1f} times what it is there"
    memory = f"half is left after {life:.1f} steps" if life is not None else "more than half is left to the end"
    return (
        f"{which} gradient {distance} steps before the last scored step {size}; of a small change of the state "
        f"{memory}."
    )


def _rows(layer: dict[str, Any]) -> list[list[Any]]:
    """A table of the single numbers."""
    rows = [
        ["gradient, log10 of farthest over nearest", layer["gradients"]["log10_ratio"], "0: it keeps its size"],
        ["largest Lyapunov exponent", layer["lyapunov_exponents"][0], "nats a step; above 0 small changes grow"],
        ["memory half-life", layer["memory"]["half_life"], "steps until half of a small change is left; – if never"],
        ["numbers in the state", layer["state_size"], "of one sequence"],
    ]
    if "spectral_radius" in layer["jacobian"]:
        rows.insert(1, ["spectral radius of the step", layer["jacobian"]["spectral_radius"], "mean over steps"])
    for name, gate in layer["gates"].items():
        left, right = (sum(gate[key]) / len(gate[key]) for key in ("left_saturated", "right_saturated"))
        rows.append([f"gate {name}: mean", gate["mean"], f"below 0.1 {number(left, 2)}, above 0.9 {number(right, 2)}"])
        if "time_scales" in gate:
            scales = sorted(gate["time_scales"])
            middle, longest = scales[len(scales) // 2], scales[-1]
            rows.append([f"gate {name}: median time scale", middle, f"steps; the longest {number(longest, 3)}"])
    return rows
