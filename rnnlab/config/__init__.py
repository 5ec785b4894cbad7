"""Compose and check configurations from command lines; only this package uses Hydra.

The schema of a group of options is the signature of the class or function that it configures; see
`rnnlab.training.settings`.
"""

from hydra.core.plugins import Plugins

from rnnlab.config.command import CurrentJob, Sweep, current_job, launch, plan
from rnnlab.config.compose import compose, resolve
from rnnlab.config.signatures import SearchPath, Signatures

Plugins.instance().register(Signatures)
Plugins.instance().register(SearchPath)

__all__ = ["CurrentJob", "Sweep", "compose", "current_job", "launch", "plan", "resolve"]
