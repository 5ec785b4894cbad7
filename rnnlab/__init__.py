"""rnnlab: a laboratory for recurrent networks.

A recurrent cell is written once, as the mathematics of one time step; everything else comes with it.
"""

__version__ = "0.1.0"
