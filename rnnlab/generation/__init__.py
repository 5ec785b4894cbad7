"""Batched generation with a trained model, step by step: greedy, sampling or beam search.

Generation works with any model that has ``begin`` and ``step``, and any head that has ``draw``. It keeps only the
current state of the model.
"""

from rnnlab.generation.beam import Hypothesis, beam_search, write
from rnnlab.generation.stream import Stream, generate, sequences

__all__ = ["Hypothesis", "Stream", "beam_search", "generate", "sequences", "write"]
