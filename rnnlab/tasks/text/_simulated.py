"""Simulated dialogues about cinema tickets (Shah et al., 2018, arXiv:1801.04871), and the scores of dialogue acts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rnnlab.data import PublicFile, read_public
from rnnlab.tasks.text._exchange import Exchange

_URL = (
    "https://raw.githubusercontent.com/google-research-datasets/simulated-dialogue/"
    "9c5752ffa60d00c58efe52ce2ec6a29f2c2bb47b/sim-M"
)
_DIGESTS = {
    "train": "241086da5a732de470a7b7f899cd27a84648fd31d9d33159ef00ef3c3c831ea9",
    "dev": "5afd669f6049c658f5abcc2e1c192d54565dfb2f639a16196e0176e0af28b2c8",
    "test": "ec663a1f94b005d4f0a83fd7b83b242785b976bf9613a3eea2b6e10ac1a6b894",
}
SAYS = "||"
"""What separates the acts of a reply from its text."""
_ACT = re.compile(r"(\w+)(?:\(\s*(\w+)\s*(?:=\s*([^()]*?)\s*)?\))?")
_PIECES = re.compile(r"\d+[.:]\d+|\w+|[^\w\s]")


class Act(NamedTuple):
    """A dialogue act, such as ``CONFIRM(time=6:00 pm)``; slot and value may be empty."""

    kind: str
    slot: str = ""
    value: str = ""

    def __str__(self) -> str:
        value = f"={self.value}" if self.value else ""
        return self.kind + (f"({self.slot}{value})" if self.slot else "")


def read_simulated(data_root: str) -> dict[str, list[Exchange]]:
    """The exchanges of each split: the user's and the system's utterances, and the system's acts and reply."""
    names = {"train": "train", "valid": "dev", "test": "test"}
    return {split: dialogues(_content(name, data_root)) for split, name in names.items()}


def _content(name: str, data_root: str) -> list[dict[str, Any]]:
    """The dialogues of a file."""
    file = PublicFile(f"simulated-dialogue/sim-M/{name}.json", f"{_URL}/{name}.json", _DIGESTS[name])
    return json.loads(read_public(file, data_root))


def dialogues(content: Iterable[dict[str, Any]]) -> list[Exchange]:
    """The exchanges of dialogues in the format of the data set.

    Each turn has the system's acts and utterance, except the first, and then the user's utterance.
    """
    found = []
    for dialogue in content:
        history: list[str] = []
        for turn in dialogue["turns"]:
            if "system_utterance" in turn:
                text = turn["system_utterance"]["text"]
                acts = [Act(act["type"], act.get("slot", ""), act.get("value", "")) for act in turn["system_acts"]]
                found.append(Exchange(tuple(history), f"{spelled(acts)} {SAYS} {text}"))
                history.append(text)
            history.append(turn["user_utterance"]["text"])
    return found


def spelled(acts: Iterable[Act]) -> str:
    """The text of acts, sorted: the data set has them in no particular order."""
    return " ".join(str(act) for act in sorted(acts))


def parse(text: str) -> list[Act]:
    """The acts of a reply; the inverse of `spelled`, for the part of ``text`` before `SAYS`."""
    return [Act(*(part or "" for part in match.groups())) for match in _ACT.finditer(text.partition(SAYS)[0])]


def spoken(text: str) -> str:
    """The utterance of a reply, without the acts."""
    return text.partition(SAYS)[2].strip()


def spaced(text: str) -> str:
    """A user's line as the data set writes it: in lower case, with spaces around punctuation marks."""
    return " ".join(_PIECES.findall(text.lower()))


def score_acts(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Scores of the acts of replies.

    Returns:
        ``act_f1``: F1 of the kinds of acts, micro-averaged; ``slot_f1``: F1 of the triples of act, slot and value,
        micro-averaged; ``joint``: fraction of the replies whose acts are all right.
    """
    pairs = [
        (Counter(parse(text)), Counter(parse(reference))) for text, reference in zip(written, references, strict=True)
    ]
    kinds = [tuple(Counter(act.kind for act in acts.elements()) for acts in pair) for pair in pairs]
    slots = [tuple(Counter({act: n for act, n in acts.items() if act.slot}) for acts in pair) for pair in pairs]
    return {
        "act_f1": _micro_f1(kinds),
        "slot_f1": _micro_f1(slots),
        "joint": sum(found == wanted for found, wanted in pairs) / len(pairs),
    }


def _micro_f1(pairs: Iterable[tuple[Counter, Counter]]) -> float:
    """F1 over all pairs of found and wanted items; 0 if nothing is right."""
    right = found = wanted = 0
    for one, other in pairs:
        right += (one & other).total()
        found += one.total()
        wanted += other.total()
    return 2 * right / (found + wanted) if right else 0.0
