"""The peers: layers of torch.nn and torchrecurrent, a naive loop, and a loop under JAX."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from rnnlab.benchmark.contenders import Contender, Missing, Work, native, of_layer
from rnnlab.benchmark.floor import floor
from rnnlab.cells import Cell
from rnnlab.cells.classic.gru import GRU
from rnnlab.cells.classic.lstm import LSTM
from rnnlab.cells.classic.rnn import RNN
from rnnlab.cells.linear.mingru import MinGRU
from rnnlab.layers import Recurrent

_CALLED = {"peephole": "PeepholeLSTM", "brc": "BR", "nbrc": "NBR", "residuallstm": "ResLSTM"}
"""Names of cells in torchrecurrent by our names in lower case, where the names differ."""


def _torchrecurrent(work: Work) -> Contender:
    package = _installed("torchrecurrent")
    _whole(work, "torchrecurrent")
    name = type(work.cell).__name__
    layers = {
        key.lower(): value
        for key, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and not key.endswith("Cell")
    }
    kind = layers.get(_CALLED.get(name.lower(), name).lower())
    if kind is None:
        raise Missing(f"torchrecurrent has no layer called {name}")
    module = kind(work.cell.input_size, work.cell.hidden_size).to(work.inputs.device)
    return of_layer("torchrecurrent", module, work)


def _jax(work: Work) -> Contender:
    """Return the contender that runs the cell's equations under ``jax.lax.scan``, with the cell's weights."""
    _whole(work, "a loop under jax.lax.scan")
    make = _JAX.get(type(work.cell))
    if make is None:
        raise Missing(f"there is no JAX loop for {type(work.cell).__name__}")
    # JAX reads these variables only at its first use. By default it allocates most of a GPU's memory.
    with _environment(PJRT_NPROC=str(work.threads), XLA_PYTHON_CLIENT_PREALLOCATE="false"):
        jax = _installed("jax")
        try:
            place = jax.devices(work.inputs.device.type)[work.inputs.device.index or 0]
        except (RuntimeError, IndexError):
            raise Missing(f"JAX finds no device {work.inputs.device}") from None

    def there(tensor: Tensor) -> Any:
        return jax.device_put(tensor.detach().cpu().numpy(), place)

    # Transposed, as in JAX's own layers.
    parameters = {name: there(tensor.t().contiguous()) for name, tensor in work.cell.named_parameters()}
    inputs, upstream = there(work.inputs), there(work.upstream)
    first = tuple(there(state) for state in work.cell.initial_state(work.inputs.shape[1]))

    def forward(parameters: dict[str, Any], inputs: Any) -> Any:
        x = inputs @ parameters["W"] + parameters.get("b", 0.0)
        return jax.lax.scan(make(jax, work.cell, parameters), first, x)[1]

    def loss(parameters: dict[str, Any], inputs: Any, upstream: Any) -> Any:
        return (forward(parameters, inputs) * upstream).sum()

    compiled = jax.jit(forward)
    differentiated = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def training() -> Any:
        _, (_, gradient) = jax.block_until_ready(differentiated(parameters, inputs, upstream))
        return gradient

    def inference() -> Any:
        return compiled(parameters, inputs).block_until_ready()

    return Contender("jax", None, training, inference)


def _jax_rnn(jax: ModuleType, cell: RNN, p: dict[str, Any]) -> Callable:
    activation = jax.numpy.tanh if cell.activation == "tanh" else jax.nn.relu

    def step(state: Any, x: Any) -> Any:
        h = activation(x + state[0] @ p["U"])
        return (h,), h

    return step


def _jax_lstm(jax: ModuleType, cell: LSTM, p: dict[str, Any]) -> Callable:
    sigmoid, tanh = jax.nn.sigmoid, jax.numpy.tanh

    def step(state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jax.numpy.split(x + h @ p["U"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    return step


def _jax_gru(jax: ModuleType, cell: GRU, p: dict[str, Any]) -> Callable:
    sigmoid, tanh, split = jax.nn.sigmoid, jax.numpy.tanh, jax.numpy.split
    U_rz, U_n = split(p["U"], [2 * cell.hidden_size], axis=1)

    def step(state: Any, x: Any) -> Any:
        (h,) = state
        x_r, x_z, x_n = split(x, 3, axis=-1)
        if cell.reset == "after":
            u_r, u_z, u_n = split(h @ p["U"], 3, axis=-1)
            n = tanh(x_n + sigmoid(x_r + u_r) * (u_n + p.get("b_u", 0.0)))
        else:
            u_r, u_z = split(h @ U_rz, 2, axis=-1)
            n = tanh(x_n + (sigmoid(x_r + u_r) * h) @ U_n)
        z = sigmoid(x_z + u_z)
        h = (1 - z) * n + z * h
        return (h,), h

    return step


def _jax_mingru(jax: ModuleType, cell: MinGRU, p: dict[str, Any]) -> Callable:
    def step(state: Any, x: Any) -> Any:
        z, n = jax.numpy.split(x, 2, axis=-1)
        z = jax.nn.sigmoid(z)
        h = (1 - z) * state[0] + z * n
        return (h,), h

    return step


_JAX: dict[type[Cell], Callable] = {RNN: _jax_rnn, LSTM: _jax_lstm, GRU: _jax_gru, MinGRU: _jax_mingru}

CONTENDERS: dict[str, Callable[[Work], Contender]] = {
    "floor": floor,
    "torch.nn": lambda work: of_layer("torch.nn", native(work.cell), work),
    "naive": lambda work: of_layer("naive", Recurrent(work.cell, "reference"), work),
    "torchrecurrent": _torchrecurrent,
    "jax": _jax,
}


def _whole(work: Work, name: str) -> None:
    if work.lengths is not None:
        raise Missing(f"{name} takes no lengths")


def _installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed; use pip install 'rnnlab[bench]'") from None


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables in this context, unless they are already set."""
    own = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in own})
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]
