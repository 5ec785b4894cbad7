"""Detect changes of everything that a step depends on, except tensors.

A trace is valid as long as `fingerprint` stays the same. The fingerprint covers the attributes of the cell and of every
module in it, containers and objects included. It also covers the functions that a step runs: their code, defaults,
closures, class attributes, and the module-level names that they use. Functions of rnnlab and of installed packages are
assumed not to change.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rnnlab.cells import Cell
from rnnlab.engine.ir.program import Unsupported

LARGEST = 10_000
"""Largest number of values in a fingerprint; checking more at every call would take too long."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()).keys() - {"training"})
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_EXACT = (int, bool, str, bytes, type(None), complex, torch.dtype, torch.device, range)


class _Same:
    """An object compared by identity, and kept alive so that its id is not reused."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def modules_of(cell: Cell) -> list[nn.Module]:
    """Return a cell and the modules in it, as ``cell.modules()`` does, faster for a cell without any."""
    return list(cell.modules()) if cell._modules else [cell]


def fingerprint(cell: Cell, prepare: bool = False) -> tuple[Any, ...]:
    """Return a hashable value that changes with everything that ``cell.step`` may depend on, except tensors.

    Args:
        cell: the cell.
        prepare: whether the value also changes with what ``cell.prepare`` may depend on.

    Raises:
        Unsupported: the attributes of the cell hold too many values to check at every call.
    """
    return _Fingerprint(modules_of(cell)).of_cell(prepare)


@contextmanager
def without_hooks() -> Iterator[None]:
    """Refuse calls of modules with hooks in this context: hooks must run at every time step, but a trace runs once.

    Raises:
        Unsupported: a module with hooks is called.
    """

    def check(module: nn.Module, inputs: Any) -> None:
        if any(getattr(module, name) for name in HOOKS):
            raise Unsupported("a module with hooks")

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


class _Fingerprint:
    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.kinds = [kind for kind in dict.fromkeys(map(type, modules)) if _is_own(kind)]
        self.seen = {id(module): place for place, module in enumerate(modules)}
        self.left = LARGEST

    def of_cell(self, prepare: bool) -> tuple[Any, ...]:
        found: list[Any] = []
        for module in self.modules:
            if not isinstance(module, Cell):
                found.extend(name for name in HOOKS if getattr(module, name))
            for key, value in vars(module).items():
                if key not in _OF_EVERY_MODULE:
                    found.append(key)
                    found.append(value if value.__class__ in _EXACT else self.of(value))
            kind = type(module)
            functions = [kind.step if isinstance(module, Cell) else kind.forward]
            if isinstance(module, Cell) and kind.activate is not Cell.activate:
                functions.append(kind.activate)
            if prepare and isinstance(module, Cell):
                functions.append(kind.prepare)
            for function in functions:
                found.append(self.of_function(function) if isinstance(function, FunctionType) else _Same(function))
        return tuple(found)

    def of(self, value: Any) -> Any:
        """Represent a value: mutable values by their content, types and modules by their identity."""
        kind = value.__class__
        if kind in _EXACT:
            return (kind, value)
        if kind is float or isinstance(value, np.generic):  # NaN equals itself here, and -0.0 is not 0.0
            return (kind, repr(value))
        if id(value) in self.seen:
            return ("seen", self.seen[id(value)])
        self.left -= 1
        if self.left < 0:
            raise Unsupported(f"a cell with more than {LARGEST} values in its attributes")
        if isinstance(value, Tensor):
            return kind  # a step that reads a tensor of the cell directly is refused anyway
        if isinstance(value, FunctionType):
            return self.of_function(value)
        if isinstance(value, ModuleType | type | BuiltinFunctionType | enum.Enum):
            return _Same(value)
        self.seen[id(value)] = len(self.seen)
        return (kind, *self.content(value))

    def content(self, value: Any) -> Iterator[Any]:
        """Yield representations of the parts of a mutable or composite value."""
        if isinstance(value, MethodType):
            yield self.of(value.__self__)
            yield self.of(value.__func__)
        elif isinstance(value, partial):
            yield from (self.of(part) for part in (value.func, value.args, value.keywords))
        elif isinstance(value, np.ndarray):
            self.left -= value.size
            yield (value.shape, value.tobytes()) if value.dtype != object else self.of(value.tolist())
        elif isinstance(value, dict):
            for key, item in list(value.items()):
                yield self.of(key)
                yield self.of(item)
        elif isinstance(value, list | tuple):
            yield from map(self.of, value)
        elif isinstance(value, set | frozenset):
            yield frozenset(map(self.of, value))
        if hasattr(value, "__dict__"):
            for key, item in list(vars(value).items()):
                if not (isinstance(value, nn.Module) and key in _OF_EVERY_MODULE):
                    yield key
                    yield self.of(item)
        elif not isinstance(value, list | tuple | dict | set | frozenset | np.ndarray | MethodType):
            slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
            parts = [getattr(value, name, None) for name in slots if isinstance(name, str)]
            yield tuple(map(self.of, parts)) if parts else _Same(value)

    def of_function(self, function: FunctionType) -> Any:
        """Represent a function by its code, and a user's function also by defaults, closure and the names it uses."""
        if id(function) in self.seen:
            return ("seen", self.seen[id(function)])
        self.seen[id(function)] = len(self.seen)
        found: list[Any] = [function.__code__]
        if is_library(function.__module__):
            return tuple(found)
        found.append(self.of(function.__defaults__))
        found.append(self.of(function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                found.append(self.of(cell.cell_contents))
            except ValueError:  # the name has no value yet
                found.append(None)
        names, home = _names(function.__code__), function.__globals__
        for name in names:
            if name in home:
                found.append(self.of_global(home[name], names))
            found += [self.of_class_attribute(kind, name) for kind in self.kinds]
        return tuple(found)

    def of_global(self, value: Any, names: tuple[str, ...]) -> Any:
        """Represent a module-level value that code uses; of a user's module, only the names that are used."""
        if isinstance(value, ModuleType) and not is_library(value.__name__):
            return tuple(self.of(vars(value)[name]) for name in names if name in vars(value))
        if isinstance(value, type) and not is_library(value.__module__):
            return (_Same(value), *(self.of_class_attribute(value, name) for name in names))
        return self.of(value)

    def of_class_attribute(self, kind: type, name: str) -> Any:
        # As inspect.getattr_static does, but this runs at every call of a user's cell, for every name in its code.
        value = next((vars(base)[name] for base in (*kind.__mro__, *type(kind).__mro__) if name in vars(base)), None)
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if value is None or (isinstance(value, FunctionType) and is_library(value.__module__)):
            return None
        return self.of(value)


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    """List the names that code refers to, including those in functions defined within it."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return tuple(dict.fromkeys([*code.co_names, *(name for names in inner for name in names)]))


@lru_cache(maxsize=4096)
def _is_own(kind: type) -> bool:
    """Whether a class or one of its bases is user code; for a parametrized module torch creates a subclass."""
    return any(not is_library(base.__module__) for base in kind.__mro__)


@lru_cache(maxsize=4096)
def is_library(module: str | None) -> bool:
    """Whether a module belongs to rnnlab, Python or an installed package, whose functions do not change."""
    root, _, rest = (module or "").partition(".")
    if root == "rnnlab":
        return not rest.startswith("contracts")  # the fuzzer's cells count as user code
    if root in sys.stdlib_module_names:
        return root != "__main__"
    file = getattr(sys.modules.get(root), "__file__", None)
    return file is not None and bool({"site-packages", "dist-packages"} & {*Path(file).parts})
