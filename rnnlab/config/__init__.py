"""From a command line to resolved configurations; Hydra is used in this package only.

The schema of every option is the signature of what it configures; see `rnnlab.training.settings`.
"""

from hydra.core.plugins import Plugins

from rnnlab.config.command import CurrentJob, Sweep, current_job, launch, plan
from rnnlab.config.compose import compose, resolve
from rnnlab.config.signatures import SearchPath, Signatures

Plugins.instance().register(Signatures)
Plugins.instance().register(SearchPath)

__all__ = ["CurrentJob", "Sweep", "compose", "current_job", "launch", "plan", "resolve"]
