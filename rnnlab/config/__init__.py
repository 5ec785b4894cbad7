"""From a command line to resolved configurations: what besides ``__main__`` knows Hydra is in here.

The schema of every option is the signature of what it configures; see `rnnlab.training.settings`.
"""

from hydra.core.plugins import Plugins

from rnnlab.config.command import Sweep, launch, plan
from rnnlab.config.compose import compose, resolve
from rnnlab.config.outside import Outside, SearchPath

Plugins.instance().register(Outside)
Plugins.instance().register(SearchPath)

__all__ = ["Sweep", "compose", "launch", "plan", "resolve"]
