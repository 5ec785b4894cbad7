"""The operations that a step may use.

`OPERATIONS` holds the operations of a program, each with its derivative and its form in C and Python. `EXPANSIONS`
expresses the other supported torch operations in terms of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, prod, sqrt
from typing import Any

import torch

from rnnlab.engine.ir.program import Builder, Extent, Node, Unsupported, Value

Rule = Callable[[Builder, Node, Value], list[Any]]


@dataclass(frozen=True)
class Operation:
    """One operation.

    rule: (builder, node, gradient of the result) -> gradients of the arguments, in order. The gradient of an argument
        that was broadcast has the result's shape. Arguments without gradient may be left out at the end.
    c: its C expression for scalars; None if the operation is not elementwise.
    infix: whether the C expression is also the Python expression.
    costly: whether keeping its result costs less than computing it twice.
    """

    rule: Rule
    c: str | None = None
    infix: bool = False
    costly: bool = False


def _none(b: Builder, n: Node, g: Value) -> list[Any]:
    return []


def _halves(larger: str) -> Rule:
    """Rule of ``maximum`` and ``minimum``: the selected argument gets the gradient; equal arguments get half each."""

    def rule(b: Builder, n: Node, g: Value) -> list[Any]:
        x, y = n.arguments
        half = b.where(b.eq(x, y), b.mul(g, 0.5), 0.0)
        return [b.where(getattr(b, larger)(x, y), g, half), b.where(getattr(b, larger)(y, x), g, half)]

    return rule


def _pow(b: Builder, n: Node, g: Value) -> list[Any]:
    base, exponent = n.arguments
    return [b.mul(g, b.mul(b.pow(base, exponent - 1), exponent))]


def _cat(b: Builder, n: Node, g: Value) -> list[Any]:
    pieces, dim = n.arguments
    return [b.split(g, [piece.shape[dim] for piece in pieces], dim)]


def _standardise(b: Builder, n: Node, g: Value) -> list[Any]:
    """Rule of ``y = (x - mean) * scale``, with the mean and scale of x (Ba et al., 2016, arXiv:1607.06450).

    The gradient of x is the gradient of y without its mean and without its component along y, scaled. This takes one
    pass over a row less than separate gradients of mean and scale.
    """
    x, _, scale = n.arguments
    y, size = n.results[0], Extent(x.shape[-1])
    mean, along = b.div(b.sum(g, -1), size), b.div(b.sum(b.mul(g, y), -1), size)
    return [b.mul(b.sub(b.sub(g, mean), b.mul(y, along)), scale)]


OPERATIONS: dict[str, Operation] = {
    "add": Operation(lambda b, n, g: [g, g], "{} + {}", infix=True),
    "sub": Operation(lambda b, n, g: [g, b.neg(g)], "{} - {}", infix=True),
    "mul": Operation(lambda b, n, g: [b.mul(g, n.arguments[1]), b.mul(g, n.arguments[0])], "{} * {}", infix=True),
    "div": Operation(
        lambda b, n, g: [b.div(g, n.arguments[1]), b.neg(b.mul(g, b.div(n.results[0], n.arguments[1])))],
        "{} / {}",
        infix=True,
    ),
    "neg": Operation(lambda b, n, g: [b.neg(g)], "-{}", infix=True),
    "pow": Operation(_pow, "pow_({}, {})", costly=True),
    "sqrt": Operation(lambda b, n, g: [b.div(g, b.mul(n.results[0], 2))], "sqrt_({})", costly=True),
    "abs": Operation(lambda b, n, g: [b.mul(g, b.sgn(n.arguments[0]))], "abs_({})"),
    "sgn": Operation(_none, "sgn_({})"),
    **{name: Operation(_none, f"{name}_({{}})") for name in ("round", "floor", "ceil", "trunc")},
    "exp": Operation(lambda b, n, g: [b.mul(g, n.results[0])], "exp_({})", costly=True),
    "expm1": Operation(lambda b, n, g: [b.mul(g, b.add(n.results[0], 1))], "expm1_({})", costly=True),
    "log": Operation(lambda b, n, g: [b.div(g, n.arguments[0])], "log_({})", costly=True),
    "log1p": Operation(lambda b, n, g: [b.div(g, b.add(n.arguments[0], 1))], "log1p_({})", costly=True),
    "sin": Operation(lambda b, n, g: [b.mul(g, b.cos(n.arguments[0]))], "sin_({})", costly=True),
    "cos": Operation(lambda b, n, g: [b.neg(b.mul(g, b.sin(n.arguments[0])))], "cos_({})", costly=True),
    "atan": Operation(
        lambda b, n, g: [b.div(g, b.add(b.mul(n.arguments[0], n.arguments[0]), 1))], "atan_({})", costly=True
    ),
    "erf": Operation(
        lambda b, n, g: [b.mul(g, b.mul(b.exp(b.neg(b.mul(n.arguments[0], n.arguments[0]))), 2 / sqrt(pi)))],
        "erf_({})",
        costly=True,
    ),
    "sigmoid": Operation(lambda b, n, g: [b.sigmoid_backward(g, n.results[0])], "sigmoid_({})", costly=True),
    "sigmoid_backward": Operation(_none, "{0} * {1} * (1 - {1})"),
    "tanh": Operation(lambda b, n, g: [b.tanh_backward(g, n.results[0])], "tanh_({})", costly=True),
    "tanh_backward": Operation(_none, "{0} * (1 - {1} * {1})"),
    "relu": Operation(lambda b, n, g: [b.threshold_backward(g, n.results[0], 0)], "relu_({})"),
    "threshold_backward": Operation(_none, "{1} <= {2} ? 0 : {0}"),
    "softplus": Operation(lambda b, n, g: [b.mul(g, b.sigmoid(n.arguments[0]))], "softplus_({})", costly=True),
    "standardise": Operation(_standardise, "({} - {}) * {}", infix=True),
    "where": Operation(
        lambda b, n, g: [None, b.where(n.arguments[0], g, 0.0), b.where(n.arguments[0], 0.0, g)], "{} ? {} : {}"
    ),
    "maximum": Operation(_halves("gt"), "maximum_({}, {})"),
    "minimum": Operation(_halves("lt"), "minimum_({}, {})"),
    "gt": Operation(_none, "{} > {}", infix=True),
    "lt": Operation(_none, "{} < {}", infix=True),
    "ge": Operation(_none, "{} >= {}", infix=True),
    "le": Operation(_none, "{} <= {}", infix=True),
    "eq": Operation(_none, "{} == {}", infix=True),
    "ne": Operation(_none, "{} != {}", infix=True),
    "detach": Operation(_none, "{}"),
    "zeros_like": Operation(_none, "0"),
    "ones_like": Operation(_none, "1"),
    "sum": Operation(lambda b, n, g: [b.expand_as(g, n.arguments[0])]),
    "amax": Operation(_none),  # in softmax only, where its gradient cancels
    "expand_as": Operation(lambda b, n, g: [g]),
    "expand": Operation(lambda b, n, g: [g]),
    "as_number": Operation(_none, "{}"),
    "sum_to": Operation(_none),
    "squeeze": Operation(lambda b, n, g: [b.unsqueeze(g, n.arguments[1])]),
    "unsqueeze": Operation(lambda b, n, g: [b.squeeze(g, n.arguments[1])]),
    "flatten": Operation(lambda b, n, g: [b.unflatten(g, n.arguments[0].shape[1:])]),
    "unflatten": Operation(lambda b, n, g: [b.flatten(g)]),
    "cat": Operation(_cat),
    "split": Operation(_none),  # derive concatenates the gradients of its results
    "mm": Operation(_none),  # see derive
    "t": Operation(_none),
}


def _axes(name: str, x: Value, dims: Any) -> list[int]:
    """Return the axes of a reduction; refuse one over all axes, which would mix the sequences of a batch."""
    if dims is None or dims == []:
        raise Unsupported(f"{name} over all axes")
    return [dim % len(x.shape) for dim in (dims if isinstance(dims, list) else [dims])]


def _sum(b: Builder, x: Value, dims: Any = None, keepdim: bool = False, name: str = "sum") -> Value:
    dims = _axes(name, x, dims)
    for dim in dims:
        x = b.sum(x, dim)
    for dim in () if keepdim else sorted(dims, reverse=True):
        x = b.squeeze(x, dim)
    return x


def _mean(b: Builder, x: Value, dims: Any = None, keepdim: bool = False) -> Value:
    dims = _axes("mean", x, dims)
    return b.div(_sum(b, x, dims, keepdim), Extent(prod(x.shape[dim] for dim in dims)))


def _var(b: Builder, x: Value, dims: Any = None, *, correction: float = 1, keepdim: bool = False) -> Value:
    dims = _axes("var", x, dims)
    apart = b.sub(x, _mean(b, x, dims, True))
    return b.div(_sum(b, b.mul(apart, apart), dims, keepdim), Extent(prod(x.shape[d] for d in dims) - correction))


def _norm(b: Builder, x: Value, order: float = 2, dims: Any = None, keepdim: bool = False) -> Value:
    if order != 2:
        raise Unsupported(f"norm of order {order}")
    return _root(b, _sum(b, b.mul(x, x), dims, keepdim, name="norm"))


def _root(b: Builder, x: Value) -> Value:
    """Square root with gradient 0 at 0, as in torch's norms and standard deviations."""
    zero = b.eq(x, 0)
    return b.where(zero, 0.0, b.sqrt(b.where(zero, 1.0, x)))


def _layer_norm(b: Builder, x: Value, shape: list[int], gain: Any, bias: Any, eps: float) -> tuple[Value, ...]:
    if len(shape) != 1:
        raise Unsupported("layer_norm over several axes")
    size = Extent(shape[0])
    mean = b.div(b.sum(x, -1), size)
    apart = b.sub(x, mean)
    scale = b.div(1.0, b.sqrt(b.add(b.div(b.sum(b.mul(apart, apart), -1), size), eps)))
    y = b.standardise(x, mean, scale)
    y = y if gain is None else b.mul(y, gain)
    return (y if bias is None else b.add(y, bias)), mean, scale


def _softmax(b: Builder, x: Value, dim: int, to_single: bool) -> Value:
    e = b.exp(b.sub(x, b.amax(x, dim)))
    return b.div(e, b.sum(e, dim))


def _power(b: Builder, x: Any, exponent: Any) -> Value:
    if isinstance(exponent, Value) or not isinstance(x, Value):
        raise Unsupported("pow with a tensor as exponent")
    exact = {
        0: lambda: b.ones_like(x),
        1: lambda: x,
        2: lambda: b.mul(x, x),
        3: lambda: b.mul(b.mul(x, x), x),
        0.5: lambda: b.sqrt(x),
    }
    return exact[exponent]() if exponent in exact else b.pow(x, exponent)


def _gradient_at_bound(of_tensor: bool) -> float:
    """Return the gradient of ``clamp`` exactly at a bound in this version of torch.

    It is 1 up to 2.13; from 2.14 on it is 0, or 0.5 if the bound is a tensor.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(1, device="cpu", requires_grad=True)
        (gradient,) = torch.autograd.grad(x.clamp_min(torch.zeros(1, device="cpu") if of_tensor else 0.0), x)
    return float(gradient)


AT_BOUND, AT_TENSOR_BOUND = _gradient_at_bound(False), _gradient_at_bound(True)


def _clamp(b: Builder, x: Value, low: Any = None, high: Any = None) -> Value:
    """Clamp that propagates NaN, with the gradient of the installed torch at the bounds."""
    for bound, beyond, extreme in ((low, "lt", "maximum"), (high, "gt", "minimum")):
        if bound is None:
            continue
        if isinstance(bound, Value) and AT_TENSOR_BOUND not in (0.0, 1.0):
            x = getattr(b, extreme)(x, bound)
            continue
        passes = AT_TENSOR_BOUND if isinstance(bound, Value) else AT_BOUND
        x = b.where(getattr(b, beyond if passes else f"{beyond[0]}e")(x, bound), bound, x)
    return x


def _hardtanh(b: Builder, x: Value, low: float = -1, high: float = 1) -> Value:
    """Clamp with gradient 0 at the bounds."""
    return b.where(b.le(x, low), low, b.where(b.ge(x, high), high, x))


def _elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    positive = b.gt(x, 0)
    below = b.mul(b.expm1(b.mul(b.where(positive, 0.0, x), input_scale)), alpha)
    return b.mul(b.where(positive, x, below), scale)


def _softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = b.mul(x, beta)
    return b.where(b.gt(scaled, threshold), x, b.div(b.softplus(scaled), beta))


def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        cubic = b.add(x, b.mul(b.mul(b.mul(x, x), x), 0.044715))
        return b.mul(b.mul(x, 0.5), b.add(b.tanh(b.mul(cubic, sqrt(2 / pi))), 1))
    return b.mul(b.mul(x, 0.5), b.add(b.erf(b.mul(x, sqrt(0.5))), 1))


def _split(b: Builder, x: Value, size: Any, dim: int = 0) -> tuple[Value, ...]:
    total = x.shape[dim]
    if isinstance(size, int):
        size = [min(size, total - start) for start in range(0, total, size)]
    return b.split(x, size, dim % len(x.shape))


def _slice(b: Builder, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    start, end, _ = slice(start, end).indices(x.shape[dim])
    if step != 1:
        raise Unsupported(f"slice with step {step}")
    return _piece(b, x, dim % len(x.shape), start, max(end - start, 0))


def _select(b: Builder, x: Value, dim: int, index: int) -> Value:
    dim = dim % len(x.shape)
    return b.squeeze(_piece(b, x, dim, index % x.shape[dim], 1), dim)


def _piece(b: Builder, x: Value, dim: int, start: int, size: int) -> Value:
    """Take ``size`` elements along an axis, from ``start`` on."""
    if size == x.shape[dim]:
        return x
    sizes = [start, size, x.shape[dim] - start - size]
    return b.split(x, [n for n in sizes if n] if size else sizes, dim)[1 if start or not size else 0]


def _expand(b: Builder, x: Value, shape: list[int]) -> Value:
    new = (1,) * (len(shape) - len(x.shape))
    sizes = [-1 if wanted in (-1, size) else wanted for size, wanted in zip((*new, *x.shape), shape, strict=True)]
    if sizes == [-1] * len(x.shape):
        return x
    if new or sizes[0] != -1:  # the first axis is the batch, whose size is not fixed
        raise Unsupported("expand over the sequences of a batch")
    return b.expand(x, sizes)


def _where(b: Builder, mask: Value, x: Any, y: Any) -> Value:
    if not isinstance(x, Value) and not isinstance(y, Value):  # torch would use its default dtype
        x = b.mul(b.ones_like(b.as_number(mask)), x)
    return b.where(mask, x, y)


def _truth(b: Builder, x: Value) -> Value:
    return b.ne(x, 0)


def _transposed(b: Builder, x: Value, *dims: Any) -> Value:
    order = [dim % 2 for dim in dims[0]] if isinstance(dims[0], list) else sorted(dim % 2 for dim in dims)[::-1]
    if len(x.shape) != 2 or order not in ([0, 1], [1, 0]):
        raise Unsupported("permute")
    return b.t(x) if order == [1, 0] else x


def _unbind(b: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(b.squeeze(piece, dim) for piece in b.split(x, [1] * x.shape[dim], dim % len(x.shape)))


def _stack(b: Builder, pieces: list[Value], dim: int = 0) -> Value:
    return b.cat([b.unsqueeze(piece, dim) for piece in pieces], dim % (len(pieces[0].shape) + 1))


def _view(b: Builder, x: Value, shape: list[int]) -> Value:
    """Another shape of the axes after the batch axis, as for the heads of a cell."""
    known = prod(size for size in shape if size != -1)
    shape = [prod(x.shape) // known if size == -1 else size for size in shape]
    if list(x.shape) == shape:
        return x
    if not shape or not x.shape or shape[0] != x.shape[0]:
        raise Unsupported("view over the sequences of a batch")
    flat = b.unsqueeze(x, 1) if len(x.shape) == 1 else x if len(x.shape) == 2 else b.flatten(x)
    if len(shape) == 1:
        return b.squeeze(flat, 1)
    return flat if len(shape) == 2 else b.unflatten(flat, shape[1:])


def _scaled(b: Builder, y: Any, alpha: float) -> Any:
    return y if alpha == 1 else b.mul(y, alpha)


# For each operation of torch a function (builder, *arguments) -> its result in terms of OPERATIONS.
EXPANSIONS: dict[str, Callable[..., Value | tuple[Value, ...]]] = {
    "add": lambda b, x, y, *, alpha=1: b.add(x, _scaled(b, y, alpha)),
    "sub": lambda b, x, y, *, alpha=1: b.sub(x, _scaled(b, y, alpha)),
    "rsub": lambda b, x, y, alpha=1: b.sub(y, _scaled(b, x, alpha)),
    "addmm": lambda b, c, x, w: b.add(c, b.mm(x, w)),
    "addcmul": lambda b, x, y, z, *, value=1: b.add(x, _scaled(b, b.mul(y, z), value)),
    "addcdiv": lambda b, x, y, z, *, value=1: b.add(x, _scaled(b, b.div(y, z), value)),
    "lerp": lambda b, x, y, w: b.add(x, b.mul(w, b.sub(y, x))),
    "reciprocal": lambda b, x: b.div(1.0, x),
    "rsqrt": lambda b, x: b.div(1.0, b.sqrt(x)),
    "pow": _power,
    "sign": lambda b, x: b.sgn(x),
    "tan": lambda b, x: b.div(b.sin(x), b.cos(x)),
    "silu": lambda b, x: b.mul(x, b.sigmoid(x)),
    "mish": lambda b, x: b.mul(x, b.tanh(_softplus(b, x))),
    "softplus": _softplus,
    "log_sigmoid_forward": lambda b, x: (b.neg(b.softplus(b.neg(x))), x),
    "leaky_relu": lambda b, x, slope=0.01: b.where(b.gt(x, 0), x, b.mul(x, slope)),
    "elu": _elu,
    "gelu": _gelu,
    "clamp": _clamp,
    "clamp_min": lambda b, x, low: _clamp(b, x, low),
    "clamp_max": lambda b, x, high: _clamp(b, x, None, high),
    "hardtanh": _hardtanh,
    "hardsigmoid": lambda b, x: b.div(_hardtanh(b, b.add(x, 3), 0.0, 6.0), 6.0),
    "hardswish": lambda b, x: b.mul(x, b.div(_hardtanh(b, b.add(x, 3), 0.0, 6.0), 6.0)),
    "celu": lambda b, x, alpha=1: _elu(b, x, alpha, 1, 1 / alpha),
    "logical_not": lambda b, x: b.eq(x, 0),
    "logical_and": lambda b, x, y: b.mul(_truth(b, x), _truth(b, y)),
    "logical_or": lambda b, x, y: b.gt(b.add(_truth(b, x), _truth(b, y)), 0),
    "logical_xor": lambda b, x, y: b.ne(_truth(b, x), _truth(b, y)),
    "where": _where,
    "masked_fill": lambda b, x, mask, value: _where(b, mask, value, x),
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "std": lambda b, x, *arguments, **options: _root(b, _var(b, x, *arguments, **options)),
    "linalg_vector_norm": _norm,
    "native_layer_norm": _layer_norm,
    "_softmax": _softmax,
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
    "select": _select,
    "expand": _expand,
    "cat": lambda b, pieces, dim=0: b.cat(pieces, dim % len(pieces[0].shape)),
    "unbind": _unbind,
    "stack": _stack,
    "permute": _transposed,
    "transpose": _transposed,
    "view": _view,
    "_unsafe_view": _view,
    "alias": lambda b, x: x,
    "clone": lambda b, x, *, memory_format=None: x,
}
for _name in ("not", "and", "or", "xor"):  # on masks only; the trace refuses integers
    EXPANSIONS[f"bitwise_{_name}"] = EXPANSIONS[f"logical_{_name}"]
