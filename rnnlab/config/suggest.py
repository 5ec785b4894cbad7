"""Suggestions for unknown names, appended to error messages."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from rnnlab import lookup
from rnnlab.training.settings import GROUPS, NAMED, available, find

WORDS = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "max_epochs", "iterations", "max_steps"), ("trainer.steps",)),
    **dict.fromkeys(("learning_rate", "rate"), ("optimizer.lr",)),
    **dict.fromkeys(("gpu", "cuda", "accelerator"), ("trainer.device",)),
    **dict.fromkeys(("hidden", "units", "width"), ("model.hidden_size",)),
    **dict.fromkeys(("layers", "depth"), ("model.num_layers",)),
    **dict.fromkeys(("data", "dataset", "path", "filename", "csv"), ("task.file", "task.corpus")),
    "decay": ("optimizer.weight_decay",),
    "batch": ("task.batch_size",),
}
"""Common names of options in other programs, with the options of rnnlab that each may mean."""


def option_hint(name: str, here: Sequence[str], known: Sequence[str]) -> str:
    """The suggestion in the error message for an unknown option.

    Args:
        name: name of the option, as given.
        here: full names of the options in the same group.
        known: full names of all options of the run.
    """
    group, _, word = name.rpartition(".")
    if same := [other for other in known if other != name and _last(other) == word]:
        return f"; did you mean {' or '.join(map(repr, same))}?"
    meant = next((option for option in WORDS.get(word.lower(), ()) if option in known), None)
    # Without a group, a common name is meant, even if a cell has an option of that name.
    if (group or not meant) and (owners := _owners(group, word)):
        return f"; this option exists for {' and '.join(owners)}"
    if meant:
        counted = "the length of a run is counted in training steps; " if meant == "trainer.steps" else ""
        return f"; {counted}did you mean {meant!r}?"
    if not group and not get_close_matches(name, here, n=1):
        words = get_close_matches(word, {_last(other) for other in known if other != name}, n=1)
        here = [other for other in known if _last(other) in words] or here
        if words:
            return f"; did you mean {' or '.join(map(repr, here))}?"
    others = [other for other in known if other != name]
    return lookup.nearest(name, others if get_close_matches(name, others, n=1) else list(here))


def choice_hint(group: str, name: str, choices: Sequence[str]) -> str:
    """The suggestion in the error message for an unknown choice of a group."""
    if alike := _alike(name, _choices(group) or choices):
        return f"; did you mean {' or '.join(map(repr, alike))}?"
    others = _groups_with(name)
    return f"; did you mean {' or '.join(others)}?" if others else lookup.nearest(name, list(choices))


def word_hint(word: str) -> str:
    """The suggestion in the error message for an argument that is not of the form ``key=value``."""
    others = _groups_with(word)
    return f"; did you mean {' or '.join(others)}?" if others else ""


def _groups_with(name: str) -> list[str]:
    """``group=choice`` for each choice called ``name`` in any group."""
    return [f"{group}={choice}" for group in (*GROUPS, "experiment") for choice in _alike(name, _choices(group))]


def _alike(name: str, choices: Sequence[str]) -> list[str]:
    """The choices called ``name``, ignoring case and folders."""
    return [choice for choice in choices if name.lower() in (choice.lower(), choice.rpartition("/")[2].lower())]


def _choices(group: str) -> list[str]:
    """The choices of a group, including subfolders."""
    if not group or not GlobalHydra.instance().is_initialized():
        return []
    loader = GlobalHydra.instance().config_loader()
    folders = loader.get_group_options(group, ObjectType.GROUP)
    nested = [f"{folder}/{choice}" for folder in folders for choice in loader.get_group_options(f"{group}/{folder}")]
    return [*loader.get_group_options(group), *nested]


def _owners(group: str, option: str) -> list[str]:
    """``group=choices`` for the built-in choices that have ``option``; ``group=""`` searches all groups."""
    found = []
    for other in NAMED:
        if group in ("", other):
            names = [name for name in available(other) if option in lookup.options(find(other, name))]
            if names:
                shown = names if len(names) <= 4 else [*names[:3], "..."]
                found.append(f"{other}={','.join(shown)}")
    return found


def _last(option: str) -> str:
    return option.rpartition(".")[2]
