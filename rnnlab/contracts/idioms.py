"""The operations of the fuzzer's random cells (`rnnlab.contracts.recipes`).

Each operation is a function of a recipe's cell and two tensors ``[B, H]``. `SMOOTH` and `CORNERED` contain documented
operations; those of `CORNERED` have discontinuous derivatives. A backend may refuse the operations of `UNUSUAL`, but
must not compute wrong results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rnnlab.cells import surrogate

SCALE = 0.7
"""A module-level number that the operation "module-level number" reads."""


class Spike(torch.autograd.Function):
    """A step function with a triangular surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: D102
        (z,) = ctx.saved_tensors
        return gradient * (1 - z.abs()).clamp_min(0)


class Reverse(torch.autograd.Function):
    """The identity with a reversed gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:  # noqa: D102
        return z * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: D102
        return -0.5 * gradient


SMOOTH: dict[str, Callable[..., Tensor]] = {
    "tanh": lambda c, a, b: a.tanh(),
    "sigmoid": lambda c, a, b: a.sigmoid(),
    "sin": lambda c, a, b: a.sin(),
    "softplus": lambda c, a, b: F.softplus(a),
    "silu": lambda c, a, b: F.silu(a),
    "gelu": lambda c, a, b: F.gelu(a),
    "mish": lambda c, a, b: F.mish(a),
    "logsigmoid": lambda c, a, b: F.logsigmoid(a),
    "atan": lambda c, a, b: a.atan(),
    "erf": lambda c, a, b: a.erf(),
    "exp": lambda c, a, b: (-a.square()).exp(),
    "expm1": lambda c, a, b: (-a.square()).expm1(),
    "log1p": lambda c, a, b: a.square().log1p(),
    "sqrt": lambda c, a, b: (a.square() + 0.1).sqrt(),
    "rsqrt": lambda c, a, b: (a * a + 0.5).rsqrt(),
    "reciprocal": lambda c, a, b: (a * a + 1).reciprocal(),
    "pow": lambda c, a, b: (a * a + 0.1) ** 1.3,
    "add": lambda c, a, b: a + b,
    "sub": lambda c, a, b: 0.5 - a + 2 * b,
    "mul": lambda c, a, b: a * b,
    "div": lambda c, a, b: a / (b * b + 1),
    "lerp": lambda c, a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda c, a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda c, a, b: torch.addcdiv(a, b, b * b + 1, value=0.5),
    "linear": lambda c, a, b: F.linear(a, c.used[0]),
    "matmul": lambda c, a, b: a @ c.used[0],
    "linear with bias": lambda c, a, b: F.linear(a, c.used[1], c.used[2]),
    "scaled by a weight": lambda c, a, b: a * c.used[2],
    "softmax": lambda c, a, b: a.softmax(-1),
    "layer_norm": lambda c, a, b: F.layer_norm(a, (a.shape[-1],)),
    "layer_norm with gain": lambda c, a, b: F.layer_norm(a, a.shape[1:], c.used[2], c.used[2]),
    "mean": lambda c, a, b: a - a.mean(-1, keepdim=True),
    "sum": lambda c, a, b: b * a.sum(1, keepdim=True),
    "norm": lambda c, a, b: a / (a.norm(dim=-1, keepdim=True) + 1),
    "var": lambda c, a, b: a * torch.var(b, -1, keepdim=True, correction=0),
    "chunk and cat": lambda c, a, b: torch.cat([*torch.cat([a, b], -1).chunk(2, -1)][::-1][:1], -1),
    "slice": lambda c, a, b: torch.cat([a[:, 1:], b[:, :1]], 1),
    "stack": lambda c, a, b: torch.stack([a, b], -1).sum(-1),
    "detach": lambda c, a, b: a / (a.abs().mean(-1, keepdim=True).detach() + 1),
    "ones_like": lambda c, a, b: torch.ones_like(a) - a,
    "attribute": lambda c, a, b: a * c.slope,
    "attribute in a dictionary": lambda c, a, b: a * c.held["slope"],
    "function in an attribute": lambda c, a, b: c.act(a),
    "module-level number": lambda c, a, b: SCALE * a,
    "class attribute": lambda c, a, b: a * c.factor,
    "submodule": lambda c, a, b: c.module(a),
}
CORNERED: dict[str, Callable[..., Tensor]] = {
    # Corners are not at zero: a value such as a variance may be zero up to rounding, whose sign depends on the backend.
    "relu": lambda c, a, b: (a + 0.05).relu(),
    "leaky_relu": lambda c, a, b: F.leaky_relu(a + 0.05, 0.2),
    "elu": lambda c, a, b: F.elu(a),
    "celu": lambda c, a, b: F.celu(a, 0.7),
    "hardtanh": lambda c, a, b: F.hardtanh(a),
    "hardsigmoid": lambda c, a, b: F.hardsigmoid(a),
    "hardswish": lambda c, a, b: F.hardswish(a),
    "clamp": lambda c, a, b: a.clamp(-0.5, 0.4),
    "clamp by tensors": lambda c, a, b: torch.clamp(a, -b.abs(), b.abs()),
    "abs": lambda c, a, b: (a + 0.05).abs(),
    "maximum": lambda c, a, b: torch.maximum(a, b + 0.05),
    "minimum": lambda c, a, b: torch.minimum(a, b + 0.05),
    "where": lambda c, a, b: torch.where(a > b + 0.05, a, 0.5 * b),
    "masked": lambda c, a, b: a.masked_fill(b < 0.05, 0.3),
    "mask as number": lambda c, a, b: a * ((a > 0.05) & (b > -0.05)).to(a.dtype),
    "sign": lambda c, a, b: 0.3 * (a + 0.05).sign() + a,
    "round": lambda c, a, b: surrogate((4 * a + 0.2).round() / 4, a, 1.0),
    "floor": lambda c, a, b: 0.3 * (a + 0.05).floor() + (b + 0.05).ceil() * a - (a + 1.05).trunc(),
    "straight through": lambda c, a, b: a + ((a + 0.05).sign() - a).detach(),
    "surrogate": lambda c, a, b: surrogate((a > 0.05).to(a.dtype), a, (1 + a.abs()) ** -2),
    "surrogate, reversed": lambda c, a, b: surrogate(a, a, -0.5).tanh(),
}


def _no_grad(c: Any, a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        scale = a.abs().mean(-1, keepdim=True) + 1
    return a / scale


@torch.no_grad()
def _without(a: Tensor) -> Tensor:
    return a.square().sum(-1, keepdim=True).sqrt() + 1


def _enabled_again(c: Any, a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        held = a.sin()
        with torch.enable_grad():
            other = b.cos()
    return held * other


def _hook(c: Any, a: Tensor, b: Tensor) -> Tensor:
    a = a + 0.0
    if a.requires_grad:
        a.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
    return a


def _hook_always(c: Any, a: Tensor, b: Tensor) -> Tensor:
    a = a * 1.0
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        (a if a.requires_grad else a.requires_grad_()).register_hook(lambda gradient: 0.5 * gradient)
    return a


def _in_place(c: Any, a: Tensor, b: Tensor) -> Tensor:
    a = a * 1.0
    a += b
    a[:, 0] = 0.0
    return a


def _rows(c: Any, a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([row * (1 + 0.1 * (place > 0)) for place, row in enumerate(a)])


def _each(c: Any, a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a[place : place + 1] * (1.0 if place else 0.5) for place in range(a.shape[0])])


def _writes(c: Any, a: Tensor, b: Tensor) -> Tensor:
    c.seen = float(a.detach().mean())
    return a


def _energy(c: Any, a: Tensor, b: Tensor) -> Tensor:
    with torch.enable_grad():
        z = a if a.requires_grad else a.detach().requires_grad_()
        (slope,) = torch.autograd.grad(z.tanh().sum(), z, create_graph=True)
    return slope


UNUSUAL: dict[str, Callable[..., Tensor]] = {
    "no_grad": _no_grad,
    "no_grad as decorator": lambda c, a, b: a / _without(b),
    "set_grad_enabled": lambda c, a, b: _enabled_again(c, a, b),
    "autograd.Function, spike": lambda c, a, b: Spike.apply(a - 0.1),
    "autograd.Function, reversal": lambda c, a, b: Reverse.apply(a).tanh(),
    "hook where there is a gradient": _hook,
    "hook": _hook_always,
    "data": lambda c, a, b: a + b.data,
    "is_grad_enabled": lambda c, a, b: a * (1.0 + torch.is_grad_enabled()),
    "requires_grad": lambda c, a, b: a * (0.5 if b.requires_grad else 0.4),
    "number of sequences": lambda c, a, b: a / a.shape[0],
    "number of sequences, size": lambda c, a, b: a * (1.0 / b.size(0)),
    "number of sequences, len": lambda c, a, b: a / len(a),
    "branch on the number of sequences": lambda c, a, b: a.tanh() if a.shape[0] > 2 else a.sin(),
    "mean over the batch": lambda c, a, b: a - b.mean(0),
    "mean over the batch, kept": lambda c, a, b: a - b.mean(0, keepdim=True),
    "softmax over the batch": lambda c, a, b: a.softmax(0),
    "first sequence": lambda c, a, b: a + b[0],
    "flipped batch": lambda c, a, b: a.flip(0),
    "row by row": _rows,
    "each row": _each,
    "numpy": lambda c, a, b: a * float(b.detach().cpu().numpy().max()),
    "list": lambda c, a, b: a * b.detach().tolist()[0][0],
    "item": lambda c, a, b: a / (b.abs().max().item() + 1),
    "branch on a value": lambda c, a, b: a.tanh() if b.abs().max() > 0.5 else a.relu(),
    "in place": _in_place,
    "detach in place": lambda c, a, b: (a * 1.0).detach_() + b,
    "other precision": lambda c, a, b: a.float().sigmoid().to(a.dtype),
    "new tensor": lambda c, a, b: a * torch.tensor(0.3, dtype=a.dtype),
    "zeros": lambda c, a, b: torch.zeros(a.shape, dtype=a.dtype, device=a.device) + a,
    "view": lambda c, a, b: (a.reshape(a.shape[0], -1, 1) * 2).reshape(a.shape),
    "einsum": lambda c, a, b: torch.einsum("bi,ij->bj", a, c.used[0]),
    "transposed product": lambda c, a, b: (c.used[0] @ a.t()).t(),
    "outer product": lambda c, a, b: (a.unsqueeze(2) * b.unsqueeze(1)).sum(2),
    "cumsum": lambda c, a, b: a.cumsum(-1),
    "sort": lambda c, a, b: a.sort(-1).values,
    "roll": lambda c, a, b: a.roll(1, -1),
    "roll over the batch": lambda c, a, b: a.roll(1, 0),
    "nan_to_num": lambda c, a, b: (a / (b - b)).nan_to_num(0.0, 0.0, 0.0) + b,
    "amax": lambda c, a, b: a - b.amax(-1, keepdim=True),
    "prod": lambda c, a, b: a * b.prod(-1, keepdim=True),
    "logsumexp": lambda c, a, b: a - b.logsumexp(-1, keepdim=True),
    "checkpoint": lambda c, a, b: checkpoint(lambda z: z.tanh() * 2, a, use_reentrant=False),
    "weight not handed over": lambda c, a, b: a * c.b,
    "writes an attribute": _writes,
    "gradient within the step": _energy,
    "autocast within the step": lambda c, a, b: _cast(a, c),
    "dropout": lambda c, a, b: F.dropout(a, 0.0, training=True) * 1.0,
    "imaginary part": lambda c, a, b: torch.complex(a, b).conj().imag,
    "expand over the batch": lambda c, a, b: a + c.used[2].expand(a.shape),
}


def _cast(a: Tensor, c: Any) -> Tensor:
    with torch.autocast(a.device.type, torch.bfloat16, enabled=a.dtype == torch.float32):
        return F.linear(a, c.used[0]).to(a.dtype)
