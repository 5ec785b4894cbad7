"""Stories with questions: the format of the bAbI tasks, their public archive, and generated stories."""

from __future__ import annotations

import hashlib
import random
import re
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

from rnnlab.interface import InputError
from rnnlab.tasks.base import EVALUATION_SEED

NAMES = (
    "single supporting fact",
    "two supporting facts",
    "three supporting facts",
    "two arg relations",
    "three arg relations",
    "yes no questions",
    "counting",
    "lists sets",
    "simple negation",
    "indefinite knowledge",
    "basic coreference",
    "conjunction",
    "compound coreference",
    "time reasoning",
    "basic deduction",
    "basic induction",
    "positional reasoning",
    "size reasoning",
    "path finding",
    "agents motivations",
)
"""The names of tasks 1 to 20."""
ARCHIVE = "babi/tasks_1-20_v1-2-en.tar.gz"
"""Path of the archive under the data root."""
ADDRESS = "https://github.com/siddk/entity-network/archive/b18fbb7c749e98192a77132af9e537e399ac24c7.tar.gz"
SHA256 = "50dcf8fd8d121e6b7a8be62060dc3f7a830a054276c25844895fe0c3c1c691d6"
"""Digest of the 40 files of the folder ``en`` in the order of tasks, training before test.

The digest covers the texts and not the archive, since archives of the same texts differ.
"""
GENERATED = (1, 6)
"""The numbers of the tasks that `generated` generates."""

_MEMBER = re.compile(r"(?:^|/)en/qa(\d+)_[\w-]+_(train|test)\.txt$")
_PEOPLE = ("Mary", "John", "Daniel", "Sandra")
_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_MOVES = ("moved to", "went to", "went back to", "journeyed to", "travelled to")


class Question(NamedTuple):
    """A question about a story.

    story: the sentences before the question.
    text: the question.
    answer: the answer; several words of a list are separated by commas.
    """

    story: tuple[str, ...]
    text: str
    answer: str


def read_stories(text: str) -> list[list[Question]]:
    """The questions of each story of a file.

    A line has a number, and a sentence, or a question, its answer and the numbers of its supporting facts, separated by
    tabs. A story starts at each number 1. The supporting facts are not used.
    """
    stories: list[list[Question]] = []
    story: list[str] = []
    for line in text.splitlines():
        number, content = line.split(" ", 1)
        if number == "1":
            story = []
            stories.append([])
        if "\t" in content:
            question, answer = content.split("\t")[:2]
            stories[-1].append(Question(tuple(story), question.strip(), answer.strip()))
        else:
            story.append(content.strip())
    return stories


def archived(root: str) -> dict[tuple[int, str], str]:
    """The texts of the archive, by task and part (``train`` or ``test``).

    Raises:
        InputError: the archive is missing, cannot be read, or has other texts.
    """
    path = Path(root).expanduser() / ARCHIVE
    if not path.exists():
        raise InputError(
            f"{path} does not exist; download {ADDRESS} and save it under this name, or set data.root to the folder "
            "that contains babi/"
        )
    texts = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if (found := _MEMBER.search(member.name)) and member.isfile():
                    texts[int(found[1]), found[2]] = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and download {ADDRESS}") from error
    parts = [(number, part) for number in range(1, 21) for part in ("train", "test")]
    digest = hashlib.sha256(b"".join(texts.get(part, b"") for part in parts)).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{path} does not contain the 20 bAbI tasks of version 1.2 in English with 1,000 questions each; delete it "
            f"and download {ADDRESS}"
        )
    return {part: texts[part].decode() for part in parts}


def generated() -> dict[tuple[int, str], str]:
    """Stories in the style of tasks 1 and 6, with the sizes of the archive: 200 stories of 5 questions in each part.

    1 Mary moved to the kitchen.
    2 John went to the garden.
    3 Where is Mary? <tab> kitchen <tab> 1         (task 6: Is Mary in the garden? <tab> no <tab> 1)
    """
    drawn = random.Random(EVALUATION_SEED)
    return {
        (number, part): "\n".join(line for _ in range(200) for line in _generated_story(number, drawn))
        for number in GENERATED
        for part in ("train", "test")
    }


def _generated_story(number: int, drawn: random.Random) -> list[str]:
    lines: list[str] = []
    seen: dict[str, tuple[str, int]] = {}
    for _ in range(5):
        for _ in range(2):
            person = drawn.choice(_PEOPLE)
            place = drawn.choice([place for place in _PLACES if place != seen.get(person, ("",))[0]])
            seen[person] = (place, len(lines) + 1)
            lines.append(f"{len(lines) + 1} {person} {drawn.choice(_MOVES)} the {place}.")
        person = drawn.choice(sorted(seen))
        place, fact = seen[person]
        question, answer = f"Where is {person}?", place
        if number == 6:
            wrong = drawn.choice([other for other in _PLACES if other != place])
            answer = drawn.choice(["yes", "no"])
            question = f"Is {person} in the {place if answer == 'yes' else wrong}?"
        lines.append(f"{len(lines) + 1} {question}\t{answer}\t{fact}")
    return lines


def held_out(stories: list[list[Question]], size: int) -> tuple[list[Question], list[Question]]:
    """Split stories into training and validation questions: whole stories, until validation has ``size`` questions.

    The order of the stories depends on their sentences only, and equal stories are in the same split.
    """
    groups: dict[tuple[str, ...], list[Question]] = {}
    for questions in stories:
        groups.setdefault(questions[-1].story, []).extend(questions)
    order = sorted(groups, key=lambda story: hashlib.sha256("\n".join(story).encode()).digest())
    chosen: set[tuple[str, ...]] = set()
    count = 0
    for story in order:
        if count >= size:
            break
        chosen.add(story)
        count += len(groups[story])
    train = [question for story, group in groups.items() if story not in chosen for question in group]
    return train, [question for story in order if story in chosen for question in groups[story]]
