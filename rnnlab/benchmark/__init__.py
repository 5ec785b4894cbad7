"""How fast cells run: their time over that of their matrix products alone, and against other ways of running them.

The *floor* of a cell is the time of the products that no way of running it can do without, measured in the same
process: one input projection over all steps, the products of T steps forward and of T steps backward, and one product
each for the gradients of U, W and the inputs. Which products these are is read off the cell itself.

The *peers* are other ways to the same outputs and gradients: ``torch.nn``'s layer; ``naive``, a loop over the steps
with autograd; ``torchrecurrent``'s layer; and a loop under ``jax.lax.scan``, compiled by JAX. One that cannot take part
is named, with the reason.
"""

from rnnlab.benchmark.report import check_out, run, save
from rnnlab.benchmark.settings import Candidate, Settings, read_cells, read_sizes
from rnnlab.benchmark.timing import measure

__all__ = ["Candidate", "Settings", "check_out", "measure", "read_cells", "read_sizes", "run", "save"]
