"""Imports within the package point only to lower layers, and training names no task or cell."""

import ast
from pathlib import Path

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
    {"tasks", "models", "nn", "weights"},
    {"diagnostics"},
    {"training"},
    {"config", "contracts", "benchmark", "analysis", "export"},
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
    {"prove", "readout"},
    {"traced"},
    {"plan", "mapped"},
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


def _upwards(folder, package, floor):
    """(file, the floor that it is on, a floor that it imports and that is not below) of every such import."""
    return [
        (str(path.relative_to(folder)), here, there)
        for path in sorted(folder.rglob("*.py"))
        for here in [path.relative_to(folder).parts[0].removesuffix(".py")]
        for there in _imports(path, package)
        if there not in ("__version__", here) and floor[there] >= floor[here]
    ]


def test_imports_point_down():
    assert not list(_imports(PACKAGE / "__init__.py")), "it imports nothing, so that the command starts at once"
    assert not _upwards(PACKAGE, "rnnlab", FLOOR)


def test_imports_within_the_engine_point_down():
    assert not _upwards(PACKAGE / "engine", "rnnlab.engine", ENGINE_FLOOR)


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
