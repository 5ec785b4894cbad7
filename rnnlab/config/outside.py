"""Find configurations outside the package: classes from other modules, and the folder ``conf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rnnlab.config.schema import schema
from rnnlab.training.settings import NAMED, find


class Outside(ConfigSource):
    """A config source for ``cell=package.module:Class``, and likewise for the other groups in `NAMED`.

    Its configuration has the options in the signature of the class, as a YAML file for the class would have.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme of the entry in Hydra's search path."""
        return "outside"

    def available(self) -> bool:  # noqa: D102
        return True

    def is_group(self, config_path: str) -> bool:  # noqa: D102
        return False

    def is_config(self, config_path: str) -> bool:  # noqa: D102
        group, _, name = config_path.rpartition("/")
        return group in NAMED and ":" in name

    def list(self, config_path: str, results_filter: Any) -> list[str]:  # noqa: D102
        return []

    def load_config(self, config_path: str) -> ConfigResult:  # noqa: D102
        group, _, name = config_path.rpartition("/")
        options = OmegaConf.to_container(schema(find(group, name)))
        return ConfigResult(
            config=OmegaConf.create({"name": name, **options}),
            path=f"{self.scheme()}://{config_path}",
            provider=self.provider,
            header={"package": None},
        )


class SearchPath(SearchPathPlugin):
    """Adds classes from other modules, and the folder ``conf`` in the working directory, to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:  # noqa: D102
        search_path.append("outside", f"{Outside.scheme()}://")
        if Path("conf").is_dir():
            search_path.append("here", f"file://{Path('conf').absolute()}")
