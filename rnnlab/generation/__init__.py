"""Generation: a trained model writes, one step at a time; greedy, sampled or by beam search, a batch at once.

Any model with ``begin`` and ``step`` and any head with ``draw`` will do. One step's state is all that is kept.
"""

from rnnlab.generation.beam import Hypothesis, beam_search, write
from rnnlab.generation.stream import Stream, generate, sequences

__all__ = ["Hypothesis", "Stream", "beam_search", "generate", "sequences", "write"]
