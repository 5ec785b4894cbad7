"""Cells over time and depth: a layer, a stack of layers, and the way to and from ``torch.nn``."""

from rnnlab.layers.convert import from_torch, to_torch
from rnnlab.layers.recurrent import Recurrent
from rnnlab.layers.stack import Stack

__all__ = ["Recurrent", "Stack", "from_torch", "to_torch"]
