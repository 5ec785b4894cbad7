"""Diagnose one model on one batch: all measures as plain numbers, as scalars for a log, and as files."""

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
from rnnlab.diagnostics.gates import gates, saturation, time_scales
from rnnlab.diagnostics.gradients import Flows, gradient_flow
from rnnlab.diagnostics.jacobian import half_life, influence, lyapunov_exponents, spectrum, state_size
from rnnlab.diagnostics.reading import PARTS, TEXTS, Text, remarks, rows, sentence
from rnnlab.diagnostics.trajectory import Trajectory
from rnnlab.interface import Batch, InputError
from rnnlab.layers.wrapped import name_of
from rnnlab.lookup import nearest
from rnnlab.models import Model
from rnnlab.report import Page, save
from rnnlab.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Effort:
    """Amount of computation; the defaults take seconds to a minute on a CPU.

    steps: largest number of steps for Jacobians, exponents and memory, and for all measures of a stream; gradients and
        gates of other tasks are computed on whole sequences.
    sequences: number of sequences for Jacobians, exponents and memory, the longest of the batch; gradients are computed
        on the whole batch.
    points: number of steps at which the spectrum of the step Jacobian is computed.
    exponents: number of Lyapunov exponents, the largest ones.
    directions: number of directions for the memory, which is exact for states with at most this many numbers.
    largest: largest number of numbers in a state for which the step Jacobian is computed as a matrix.
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
                raise InputError(f"{name}={value} must be at least 1")


LIGHT = Effort(steps=100, sequences=2, points=2, exponents=1, directions=16, largest=256)
"""For diagnostics during training."""

SKIPPED = 10
"""Exponents and memory exclude the first tenth of the steps, the transient from the initial state."""

UNITS, TEXT = 32, 60
"""Largest number of units and of last steps in a heat map."""


def diagnose(model: Model, task: Task, split: str = "valid", effort: Effort = Effort()) -> dict[str, Any]:
    """Diagnose a model on the first batch of a split.

    The measures are computed in double precision on a copy in evaluation mode, because gradients over hundreds of steps
    underflow in single precision. The model, its gradients and its mode are not changed.

    Args:
        model: the model.
        task: the task, which provides the batch, the loss and the text of the inputs.
        split: name of the split.
        effort: amount of computation.

    Returns:
        plain containers and numbers: ``split``, ``steps``, ``sequences``, and ``layers``, the results of
        `describe_layer` by the layer's name in the model.

    Raises:
        InputError: the task has no such split, the model has no recurrent layer, or the loss has no gradient.
    """
    flows, trajectories, batch = flows_of(model, task, split, effort.steps)
    spelled = task.spell(batch.inputs[:, 0])
    layers = {
        name: describe_layer(found, flows[name], effort, spelled if len(spelled) == len(found) else [])
        for name, found in trajectories.items()
    }
    return {"split": split, "steps": len(batch.inputs), "sequences": batch.batch_size, "layers": layers}


def flows_of(model: Model, task: Task, split: str, steps: int) -> tuple[dict[str, Flows], dict[str, Trajectory], Batch]:
    """Return the result of `gradient_flow` on the first batch of a split, and the batch; see `diagnose`."""
    if split not in task.splits:
        raise InputError(f"the task has no split {split!r}{nearest(split, list(task.splits))}")
    place = next(model.parameters()).device
    watched = copy.deepcopy(model).double().eval().requires_grad_(True)
    batch = first_steps(task, split, steps)
    return *gradient_flow(watched, _double(batch.to(place)), task.loss), batch


def describe_layer(found: Trajectory, flows: Flows, effort: Effort, spelled: list[str]) -> dict[str, Any]:
    """Return all measures of one layer.

    - ``gradients``: norms of dL/dh_t for every state and for all together: ``whole``, for the whole loss by step, and
      ``last``, for the loss of the last scored step by distance from it. ``log10_ratio`` is log10 of the norm of
      ``last`` for all states at the farthest step over that at the nearest.
    - ``jacobian``: singular values and spectral radius of the step Jacobian, means over points and sequences.
    - ``lyapunov_exponents``: the largest exponents in nats per step.
    - ``memory``: the influence of a state on later states, and its half-life in steps.
    - ``gates``: for each gate its mean, the saturation of its units, and their time scales in steps.
    - ``state_norms``: root mean square over units and sequences, by step.
    - ``units``: outputs of the most active units for one sequence.
    """
    part = found.select(effort.sequences, effort.steps)
    skip = len(part) // SKIPPED
    left = influence(part, skip, effort.directions)
    exponents = lyapunov_exponents(part, effort.exponents, skip).mean(1)
    distance = flows.last.by_distance(flows.last.total)
    return {
        "cell": name_of(found.cell),
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
"""Names of the numbers of a layer that are logged during training."""


def scalars(found: dict[str, Any]) -> dict[str, float]:
    """Return the `SCALARS` that a diagnosis contains, for each layer, with the layer's name if there are several."""
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


Drawn = dict[str, tuple["Figure", Text]]
"""Figures by file name, with their texts."""


def draw(found: dict[str, Any]) -> Drawn:
    """Draw every figure of a diagnosis, by file name.

    Raises:
        InputError: matplotlib is not installed.
    """
    return {
        _prefix(found, name) + kind: (drawn, _text(kind, layer))
        for name, layer in found["layers"].items()
        for kind, drawn in figures.of_layer(layer).items()
    }


def _text(kind: str, layer: dict[str, Any]) -> Text:
    step = layer["jacobian"].get("steps", [0])[0]  # without a Jacobian no text names it
    text = TEXTS[kind]
    return text._replace(caption=text.caption.replace("{step}", f"{step:,}")) if "{step}" in text.caption else text


def write(found: dict[str, Any], folder: Path, title: str) -> list[str]:
    """Write ``diagnostics.json``, every figure as PNG and SVG, and the self-contained ``page.html`` to a folder.

    Args:
        found: the result of `diagnose`.
        folder: an existing, empty folder.
        title: title of the page.

    Returns:
        sentences that name the files; without matplotlib only ``diagnostics.json`` is written.
    """
    files.write_json(folder / "diagnostics.json", found)
    try:
        drawn = draw(found)
    except InputError as error:
        return [f"Written: {folder / 'diagnostics.json'}", f"No page: {error}"]
    for name, (figure, _) in drawn.items():
        save(figure, folder / name)
    page(found, title, drawn).write(folder / "page.html")
    return [f"Written: {folder / 'page.html'}, and in the same folder diagnostics.json and {len(drawn)} figures"]


def page(found: dict[str, Any], title: str, drawn: Drawn) -> Page:
    """Return a diagnosis as one page, with the figures of `draw`."""
    sheet = Page(
        title, " ".join(sentence(name, layer, len(found["layers"])) for name, layer in found["layers"].items())
    )
    size = f"{found['steps']:,} steps of {found['sequences']:,} sequences"
    sheet.text(
        f"Computed on the first batch of {found['split']}: {size}, in double precision with the equations of the cell.",
        "note",
    )
    for place, (name, layer) in enumerate(found["layers"].items(), 1):
        which = f"Layer {place} of {len(found['layers'])}: {layer['cell']}" if len(found["layers"]) > 1 else "Measures"
        sheet.section(which)
        sheet.table(["measure", "value", "explanation"], rows(layer), f"{layer['cell']}, {name} in the model.")
        for heading, kinds in PARTS.items():
            shown = [drawn[key] for kind in kinds if (key := _prefix(found, name) + kind) in drawn]
            missing = remarks(layer, kinds)
            if shown or missing:
                sheet.heading(heading)
            for made, text in shown:
                is_wide = text is TEXTS["units"]  # its letters need the width
                sheet.figure(made, text.alt, text.caption, is_wide, text.reading)
            for remark in missing:
                sheet.text(remark)
    return sheet


def first_steps(task: Task, split: str, steps: int) -> Batch:
    """Return the first batch of a split; for a stream, consecutive windows joined to at most ``steps`` steps."""
    batch = task.batch(split, 0)
    if batch.fresh is None or len(batch.targets) != len(batch.inputs):
        return batch
    windows, has_resets = [batch], batch.fresh.dim() == 2
    for place in range(1, task.num_batches(split)):
        if sum(len(window.inputs) for window in windows) >= steps:
            break
        window = task.batch(split, place)
        if window.fresh.any() and not has_resets:
            break
        windows.append(window)
    names = ("inputs", "targets", "fresh")[: 2 + has_resets]
    return replace(batch, **{name: torch.cat([getattr(w, name) for w in windows])[:steps] for name in names})


def _double(batch: Batch) -> Batch:
    return replace(batch, inputs=_precise(batch.inputs), targets=_precise(batch.targets))


def _precise(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _states(flow: Any) -> dict[str, Tensor]:
    """Return the norms for every state, and for all together if there are several."""
    return flow.states if len(flow.states) == 1 else {**flow.states, "all": flow.total}


def _log10_ratio(distance: Tensor) -> float:
    """Return log10 of the last value over the first."""
    ratio = float((distance[-1] / distance[0]).detach())
    return -inf if ratio == 0 else log10(ratio) if isfinite(ratio) else nan


def _jacobian(part: Trajectory, effort: Effort) -> dict[str, Any]:
    size = state_size(part)
    if size > effort.largest:
        return {
            "left_out": f"The state has {size:,} numbers. Above {effort.largest:,} the step Jacobian is not computed "
            "as a matrix, so singular values and spectral radius are missing."
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
    """Return the share of all gate activations that are saturated; None if there are no gates."""
    shares = [
        a + b for gate in found.values() for a, b in zip(gate["left_saturated"], gate["right_saturated"], strict=True)
    ]
    return 2 * sum(shares) / len(shares) if shares else None


def _rms(values: Tensor, live: Tensor) -> list[float]:
    """Return the root mean square of ``values`` ``[T, B, ...]`` over units and live sequences, for every step."""
    squares = values.flatten(2).abs().square().mean(-1)
    return squares.masked_fill(~live, torch.nan).nanmean(1).sqrt().tolist()


def _units(found: Trajectory, spelled: list[str]) -> dict[str, Any]:
    """Return the outputs of the most variable units over the last steps of the first sequence."""
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
    """Return the prefix of the names of a layer's figures; empty if there is one layer."""
    return f"{name.replace('.', '-')}-" if len(found["layers"]) > 1 else ""
