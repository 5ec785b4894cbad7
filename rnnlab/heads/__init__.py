"""Heads: output distributions with their loss and sampling, one file per head.

To add a head, add a file here with a subclass of `Head`, and export the class below.
"""

from rnnlab.heads.base import Head
from rnnlab.heads.bernoulli import Bernoulli
from rnnlab.heads.categorical import IGNORE, Categorical
from rnnlab.heads.categoricals import Categoricals
from rnnlab.heads.ctc import CTC
from rnnlab.heads.gaussian import Gaussian
from rnnlab.heads.mixture import Mixture
from rnnlab.heads.squared_error import SquaredError

__all__ = ["CTC", "IGNORE", "Bernoulli", "Categorical", "Categoricals", "Gaussian", "Head", "Mixture", "SquaredError"]
