"""Measure the speed of cells, relative to their floor and to peers.

The *floor* of a cell is the time of its unavoidable matrix products, measured in the same process: one input projection
over all steps, the products of T steps forward and of T steps backward, and one product each for the gradients of U, W
and the inputs. They are derived from the trace of the cell.

The *peers* are other implementations of the cell: ``torch.nn``'s layer; ``naive``, a loop over the steps with autograd;
``torchrecurrent``'s layer; and ``jax.lax.scan`` over the equations, compiled by JAX. A peer that is missing is reported
with the reason.
"""

from rnnlab.benchmark.report import check_out, run, save
from rnnlab.benchmark.settings import Candidate, Settings, read_cells, read_sizes
from rnnlab.benchmark.timing import measure

__all__ = ["Candidate", "Settings", "check_out", "measure", "read_cells", "read_sizes", "run", "save"]
