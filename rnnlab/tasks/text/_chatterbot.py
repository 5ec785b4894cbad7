"""The conversations of the package chatterbot-corpus."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rnnlab.interface import InputError
from rnnlab.tasks.text._exchange import Exchange, exchanges
from rnnlab.vocabulary import tidy


class Found(NamedTuple):
    """The exchanges of a corpus, and the number of entries that are not lists of at least two texts."""

    exchanges: list[Exchange]
    broken: int


def read_chatterbot(languages: Sequence[str]) -> Found:
    """Read the YAML files of each language.

    Raises:
        InputError: the package is not installed, or it does not have a language.
    """
    package = find_spec("chatterbot_corpus")
    if package is None:
        raise InputError(
            "task.corpus=chatterbot needs the package chatterbot-corpus, which is not installed; pip install "
            "'rnnlab[text]', or use task.corpus=small_talk"
        )
    root = Path(package.submodule_search_locations[0]) / "data"
    known = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    found, broken = [], 0
    for language in languages:
        if language not in known:
            raise InputError(f"task.languages has {language!r}; the corpus chatterbot has {', '.join(known)}")
        for file in sorted((root / language).glob("*.yml")):
            more = read_file(file)
            found += more.exchanges
            broken += more.broken
    return Found(found, broken)


def read_file(path: Path) -> Found:
    """Read a YAML file with a list ``conversations`` of lists of utterances; a file that is not YAML is one entry."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return Found([], 1)
    entries = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return Found([], 1)
    found, broken = [], 0
    for entry in entries:
        utterances = _utterances(entry)
        broken += not utterances
        found += exchanges(utterances)
    return Found(found, broken)


def _utterances(entry: Any) -> list[str]:
    """The utterances of an entry; empty if the entry is not a list of at least two texts."""
    if not (isinstance(entry, list) and len(entry) > 1 and all(isinstance(one, str) for one in entry)):
        return []
    utterances = [tidy(one) for one in entry]
    return utterances if all(utterances) else []
