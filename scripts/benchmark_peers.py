"""Measure a training step of rnnlab's layers and of the layers of other packages, for docs/peers.md.

python scripts/benchmark_peers.py [cells=lstm,gru,rnn,mgu,cfc] [sizes=64x32x128,128x64x256] [rounds=20]

Measured are torch.nn, torchrecurrent, Keras (KERAS_BACKEND=jax or torch), Flax, JAX and ncps, where they are installed
and have the cell. A size is steps x sequences x width; the inputs are as wide as the layer. A training step computes
the outputs and the gradients of weights and inputs from a given gradient of the outputs. All layers take turns in this
process, on one thread in float32, and the least CPU time of each counts, which the load of the machine hardly affects.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PJRT_NPROC", "1")  # the threads of XLA
os.environ.setdefault("KERAS_BACKEND", "jax")

import importlib
from collections.abc import Callable
from time import process_time
from typing import Any

import torch

from rnnlab import cells
from rnnlab.benchmark.contenders import Contender, Missing, Work, of_layer, work_of
from rnnlab.benchmark.peers import CONTENDERS
from rnnlab.benchmark.settings import Size
from rnnlab.benchmark.timing import threads
from rnnlab.layers import Recurrent

KERAS = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
FLAX = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}


def installed(name: str) -> Any:
    """Import a package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed") from None


def keras(name: str, work: Work) -> Contender:
    """Return the layer of Keras, on the backend that KERAS_BACKEND names."""
    package = installed("keras")
    if name not in KERAS:
        raise Missing("no such layer")
    layer = getattr(package.layers, KERAS[name])(work.cell.hidden_size, return_sequences=True)
    title = f"Keras {package.__version__} ({package.backend.backend()})"
    inputs = work.inputs.detach().transpose(0, 1).contiguous()
    layer.build(inputs.shape)
    if package.backend.backend() == "torch":
        inputs.requires_grad_()
        upstream = work.upstream.transpose(0, 1).contiguous()

        def training() -> Any:
            inputs.grad = None
            layer.zero_grad()
            torch.autograd.backward(layer(inputs), upstream)
            return inputs.grad

        return Contender(title, None, training, training)
    weights = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    return differentiated(title, lambda w, x: layer.stateless_call(w, fixed, x)[0], weights, work)


def flax(name: str, work: Work) -> Contender:
    """Return the layer of Flax."""
    package, nnx = installed("flax"), installed("flax.nnx")
    if name not in FLAX:
        raise Missing("no such layer")
    size, rngs = work.cell.hidden_size, nnx.Rngs(0)
    layer = nnx.RNN(getattr(nnx, FLAX[name])(work.cell.input_size, size, rngs=rngs), rngs=rngs)
    carry = layer.cell.initialize_carry((work.inputs.shape[1], work.cell.input_size), rngs)
    graph, weights, rest = nnx.split(layer, nnx.Param, ...)
    title = f"Flax {package.__version__}"
    return differentiated(title, lambda w, x: nnx.merge(graph, w, rest)(x, initial_carry=carry), weights, work)


def differentiated(title: str, layer: Callable, weights: Any, work: Work) -> Contender:
    """Return a function of JAX ``layer(weights, inputs [B, T, F])``, compiled with its derivative."""
    jax = installed("jax")
    inputs, upstream = (
        jax.numpy.asarray(one.detach().transpose(0, 1).contiguous().numpy()) for one in (work.inputs, work.upstream)
    )

    def loss(weights: Any, inputs: Any) -> Any:
        return (layer(weights, inputs) * upstream).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def training() -> Any:
        return jax.block_until_ready(compiled(weights, inputs))

    return Contender(title, None, training, training)


def ncps(name: str, work: Work) -> Contender:
    """Return the CfC layer of ncps."""
    installed("ncps")
    if name != "cfc":
        raise Missing("no such layer")
    cell = work.cell
    layer = installed("ncps.torch").CfC(
        cell.input_size, cell.hidden_size, batch_first=False, backbone_units=cell.hidden_size, backbone_layers=1
    )
    return of_layer("ncps", layer, work)


def contenders(name: str, work: Work) -> list[Contender]:
    """Return rnnlab's layer and those of the packages that have the cell; print the others."""
    found = [of_layer("rnnlab", Recurrent(work.cell, "auto"), work)]
    makers = {key: CONTENDERS[key] for key in ("torch.nn", "torchrecurrent", "jax")}
    makers |= {one.__name__: lambda work, one=one: one(name, work) for one in (keras, flax, ncps)}
    for title, make in makers.items():
        try:
            found.append(make(work))
        except Missing as reason:
            print(f"  {title}: {reason}")
    return found


def least(one: Contender, work: Work) -> float:
    """Return the CPU time of a training step; clearing gradients is not timed."""
    work.inputs.grad = None
    if one.module is not None:
        one.module.zero_grad()
    started = process_time()
    one.training()
    return process_time() - started


def main() -> None:
    """Print the milliseconds of all layers, and their times divided by that of rnnlab."""
    own = {"cells": "lstm,gru,rnn,mgu,cfc", "sizes": "64x32x128,128x64x256", "rounds": "20"}
    if not all(argument.partition("=")[0] in own and "=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    own |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    torch.manual_seed(0)
    with threads(1):
        for name in own["cells"].split(","):
            for text in own["sizes"].split(","):
                size = Size(*map(int, text.split("x")))
                cell = cells.create(name, input_size=size.hidden_size, hidden_size=size.hidden_size)
                work = work_of(cell, size, 1, torch.device("cpu"))
                found = contenders(name, work)
                times = [min(least(one, work) for _ in range(2)) for one in found]  # the first calls compile
                for _ in range(int(own["rounds"])):
                    times = [min(time, least(one, work)) for time, one in zip(times, found, strict=True)]
                for one, time in zip(found, times, strict=True):
                    print(f"{name} {text} {one.name}: {1e3 * time:.2f} ms, {time / times[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
