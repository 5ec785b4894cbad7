"""Read each configuration file of rnnlab and Hydra once in a process, however many runs are composed from it."""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource

UNCHANGING = ("pkg://rnnlab.conf", "pkg://hydra.conf", "structured://")
"""Places of Hydra's search path that are kept; those of the user may change between two compositions."""

_HAS: dict[tuple[str, str, ObjectType], bool] = {}
"""Whether there is such a file or group, by place, path and kind."""

_READ: dict[tuple[str, str, str], ConfigResult] = {}
"""What the files hold, by provider, place and path."""


def remember(loader: ConfigLoaderImpl) -> None:
    """Make Hydra's ``loader`` keep the files of rnnlab and Hydra; it reads others anew for every composition."""
    loader.repository = Repository(loader.config_search_path)


class Repository(ConfigRepository):
    """Hydra's repository, except that it parses the files of `UNCHANGING` once: a third of a composition's time."""

    def load_config(self, config_path: str) -> ConfigResult | None:  # noqa: D102
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.full_path() not in UNCHANGING:
            return super().load_config(config_path)
        key = (source.provider, source.full_path(), config_path)
        if key not in _READ:
            _READ[key] = super().load_config(config_path)
        return copy.deepcopy(_READ[key])  # Hydra changes it while it composes

    def _find_object_source(self, config_path: str, object_type: ObjectType) -> ConfigSource | None:
        return next((source for source in self.sources if _has(source, config_path, object_type)), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Repository:
        """A copy with its own list of sources: all that Hydra changes in a copy."""
        other = copy.copy(self)
        other.sources = list(self.sources)
        return other


def _has(source: ConfigSource, path: str, kind: ObjectType) -> bool:
    has = source.is_config if kind == ObjectType.CONFIG else source.is_group
    if source.full_path() not in UNCHANGING:
        return has(path)
    key = (source.full_path(), path, kind)
    if key not in _HAS:
        _HAS[key] = has(path)
    return _HAS[key]
