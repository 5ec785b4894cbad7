"""Diagnose one model: gradients through time, step Jacobians, Lyapunov exponents, memory, gates."""

from rnnlab.diagnostics.gates import gates, saturation, time_scales
from rnnlab.diagnostics.gradients import gradient_flow
from rnnlab.diagnostics.jacobian import half_life, influence, lyapunov_exponents, spectrum, step_jacobian
from rnnlab.diagnostics.report import LIGHT, SCALARS, Effort, diagnose, draw, flows_of, scalars, write
from rnnlab.diagnostics.trajectory import follow, watching

__all__ = [
    "LIGHT",
    "SCALARS",
    "Effort",
    "diagnose",
    "draw",
    "flows_of",
    "follow",
    "gates",
    "gradient_flow",
    "half_life",
    "influence",
    "lyapunov_exponents",
    "saturation",
    "scalars",
    "spectrum",
    "step_jacobian",
    "time_scales",
    "watching",
    "write",
]
