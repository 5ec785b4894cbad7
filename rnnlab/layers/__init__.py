"""Layers, stacks of layers, regularisers and initialisers of cells, and conversion from and to ``torch.nn``."""

from rnnlab.layers.block import Block
from rnnlab.layers.convert import from_torch, to_torch
from rnnlab.layers.convolution import ShortConvolution
from rnnlab.layers.initialisers import initialise
from rnnlab.layers.linear import Linear
from rnnlab.layers.recurrent import Recurrent
from rnnlab.layers.regularisers import VariationalDropout, WeightDrop, Zoneout, regularise
from rnnlab.layers.resets import Resetting
from rnnlab.layers.stack import Bidirectional, Stack
from rnnlab.layers.states import Exposing

__all__ = [
    "Bidirectional",
    "Block",
    "Exposing",
    "Linear",
    "Recurrent",
    "Resetting",
    "ShortConvolution",
    "Stack",
    "VariationalDropout",
    "WeightDrop",
    "Zoneout",
    "from_torch",
    "initialise",
    "regularise",
    "to_torch",
]
