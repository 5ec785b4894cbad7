"""How a cell is run over time: one cell, several ways, always the same numbers; see `rnnlab.engine.choice`.

choice.py     which way to run a cell, and why
reference.py  the plain loop; native.py, scan.py, fused.py: the other ways
traced.py     a step, traced once and compiled; verify.py compares it with the step itself
ir/           a step as data: traced, differentiated, printed as Python
cpu/          the same as C: formulas, loops, memory, threads; c/ holds the C that is not generated
gpu/          the same on a GPU
"""

from rnnlab.engine.choice import BACKENDS, Choice, backends_of, choose, identity, observed

__all__ = ["BACKENDS", "Choice", "backends_of", "choose", "identity", "observed"]
