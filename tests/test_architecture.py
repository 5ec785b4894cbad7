"""Imports within the package point only to lower layers, and training names no task or cell."""

import ast
from pathlib import Path

import pytest

import rnnlab
from rnnlab import cells, lookup, tasks

PACKAGE = Path(rnnlab.__file__).parent
FLOORS = [  # from the ground up; modules of one floor do not import each other
    {"trees"},
    {"interface", "streams"},
    {"files", "lookup"},
    {"report", "formats"},
    {"data", "heads", "cells", "vocabulary"},
    {"outputs", "generation", "engine"},
    {"text"},
    {"layers"},
    {"tasks", "models"},
    {"diagnostics"},
    {"training"},
    {"config", "contracts", "benchmark", "analysis"},
    {"command"},
    {"__main__"},
]
ENGINE = [  # the same within the engine, where the modules of one floor do not import each other either
    {"once", "cache"},
    {"reference"},
    {"ir"},
    {"loops"},
    {"cpu", "gpu"},
    {"arrays"},
    {"prove"},
    {"traced"},
    {"plan"},
    {"fused", "native"},
    {"scan"},
    {"choose"},
    {"__init__"},
]
FLOOR = {name: height for height, floor in enumerate(FLOORS) for name in floor}
ENGINE_FLOOR = {name: height for height, floor in enumerate(ENGINE) for name in floor}
FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(path, package="rnnlab"):
    """The parts of a package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == package else [node.module]
        else:
            continue
        for name in names:
            if name.startswith(f"{package}."):
                yield name.removeprefix(f"{package}.").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        assert not list(_imports(path)), "the package itself imports nothing, so that the command starts at once"
        return
    for there in _imports(path):
        if there not in ("__version__", here):
            assert FLOOR[there] < FLOOR[here], f"{here} imports {there}, which is not below it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_within_the_engine_point_down(path):
    here = path.relative_to(PACKAGE / "engine").parts[0].removesuffix(".py")
    for there in _imports(path, "rnnlab.engine"):
        if there != here:
            assert ENGINE_FLOOR[there] < ENGINE_FLOOR[here], f"{here} imports {there}, which is not below it"


def test_only_the_configuration_uses_hydra():
    def knows(path):
        text = path.read_text()
        return "import hydra" in text or "from hydra" in text or "omegaconf" in text

    assert {path.relative_to(PACKAGE).parts[0] for path in FILES if knows(path)} == {"config"}


def test_the_training_floor_knows_no_name_of_a_task_or_cell():
    names = {*lookup.available(tasks), *cells.available()}
    for path in (PACKAGE / "training").glob("*.py"):
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)} & names
        assert not words, f"{path.name} speaks of {words}"
