"""Backends: functions that run a cell over a sequence. All backends compute the same results.

=============  =====================================================================================
``reference``  plain loop over the steps with autograd; runs any cell in any dtype; defines the correct results
``fused``      one autograd function for the whole sequence, with a derived backward step; compiled to C or Triton
``scan``       cells linear in their state: like ``fused`` if the step is compiled, otherwise a parallel scan in blocks
``native``     ``torch.nn``'s own kernels (oneDNN, cuDNN): RNN, LSTM and GRU
``auto``       the backend that was measured, or on a GPU is estimated, to be fastest for the cell and the call
=============  =====================================================================================

A backend is a function ``run(cell, inputs, state, lengths, **context) -> (outputs, state)``.

Modules, from the bottom up; a module imports only modules that are listed before it:

- `reference`: the plain loop.
- `ir`: a step as a program: trace it, derive its backward step, print both as Python, verify them.
- `loops`: the same step as loops over rows and columns.
- `cpu`: the loops in C, with threads, memory and matrix products. `gpu`: the loops in Triton, and CUDA graphs.
- `arrays`, `prove`, `traced`: the memory of a call; trace and compile the step of a cell, check and cache the result.
- `fused`, `scan`, `native`: the other backends.
- `choose`: selects the backend of a cell.
"""

from rnnlab.engine import fused, native, reference, scan
from rnnlab.engine.choose import BACKENDS, Choice, backends_of, choose, identity, observed
from rnnlab.engine.cpu import memory
from rnnlab.engine.cpu.linear import linear
from rnnlab.engine.cpu.scores import additive_scores

__all__ = [
    "BACKENDS",
    "Choice",
    "additive_scores",
    "backends_of",
    "choose",
    "fused",
    "identity",
    "linear",
    "memory",
    "native",
    "observed",
    "reference",
    "scan",
]
