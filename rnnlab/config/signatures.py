"""Choices without a YAML file: built-in classes and classes from other modules, with their signatures as options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rnnlab.config.schema import schema
from rnnlab.training.settings import NAMED, available, find


class Signatures(ConfigSource):
    """Provides ``GROUP=NAME`` for every group in `NAMED`: built-in names, and ``package.module:Class``.

    The options and their defaults are those of the signature. A YAML file of the same name takes precedence.
    """

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the entry in Hydra's search path."""
        return "signature"

    def available(self) -> bool:  # noqa: D102
        return True

    def is_group(self, config_path: str) -> bool:  # noqa: D102
        return config_path in NAMED

    def is_config(self, config_path: str) -> bool:  # noqa: D102
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return group in NAMED and (":" in name or name in available(group))

    def list(self, config_path: str, results_filter: Any) -> list[str]:  # noqa: D102
        is_listed = config_path in NAMED and results_filter in (None, ObjectType.CONFIG)
        return available(config_path) if is_listed else []

    def load_config(self, config_path: str) -> ConfigResult:  # noqa: D102
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        options = OmegaConf.to_container(schema(find(group, name)))
        return ConfigResult(
            config=OmegaConf.create({"name": name, **options}),
            path=f"{self.scheme()}://{config_path}",
            provider=self.provider,
            header={"package": None},
        )


class SearchPath(SearchPathPlugin):
    """Adds the directory ``conf`` of the working directory, and signatures, to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:  # noqa: D102
        if Path("conf").is_dir():
            search_path.append("here", f"file://{Path('conf').absolute()}")
        search_path.append("signatures", f"{Signatures.scheme()}://")
