"""Question answering: read a question and a story, write the answer. The twenty bAbI tasks."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import Any

from torch import Tensor

from rnnlab.interface import InputError, Metric
from rnnlab.report.figures import INK, MUTED, SERIES, figure, render
from rnnlab.tasks.base import check_least
from rnnlab.tasks.text._stories import GENERATED, NAMES, Question, archived, generated, held_out, read_stories
from rnnlab.tasks.text.base import LONGEST, Pair, TextToText
from rnnlab.vocabulary import tidy

SOURCES = {"generated": GENERATED, "babi": tuple(range(1, 21))}
"""The tasks of each source."""
VALID = 0.1
"""Fraction of the training questions of each task that is used for validation."""
LSTM = (50, 20, 20, 61, 70, 48, 49, 45, 64, 44, 72, 74, 94, 27, 21, 23, 51, 52, 8, 91)
"""Test accuracy in percent of the LSTM of Weston et al. (2015, table 3); see `Babi`."""


class Babi(TextToText):
    """Answer questions about short stories: the bAbI tasks (Weston et al., 2015, arXiv:1502.05698).

        source   mary moved to the bathroom . john went to the hallway . where is mary ? END
        target   bathroom END

    ``babi`` is the English text of version 1.2 with 1,000 training and 1,000 test questions for each of 20 tasks.
    Validation takes whole stories, about 100 questions of each task. ``generated`` has stories in the style of task 1
    (a single supporting fact) and task 6 (yes or no) in the same numbers, and needs no download.

    One model is trained on all chosen tasks: joint training with several tasks, single-task training with one. The
    text is in lower case. Earlier questions and answers of a story are not read, and the supporting facts are not used.

    An answer is correct if it equals the target exactly; a list such as "milk,football" or a path such as "s,e" is one
    answer. ``accuracy`` is the mean of the accuracies of the tasks, ``task_01`` to ``task_20``.

    Published: the LSTM of Weston et al. (table 3, weakly supervised, a model for each task, 1,000 training questions)
    has a mean test accuracy of 49 %. `LSTM` has the 20 values as the examples of Keras (babi_rnn.py) and neon
    (babi/train.py) copied them from the paper; other copies have 62 instead of 72 for task 11.

    Args:
        seed, data_root, vocabulary, vocabulary_size, min_count, batch_size, beam_size, longest_output: see
            `TextToText`.
        source: ``generated``, or ``babi`` for the public archive.
        tasks: numbers of the tasks, 1 to 20 for ``babi``, 1 and 6 for ``generated``; empty for all.
        max_sentences: largest number of sentences of a story that the model reads, the most recent ones. All supporting
            facts of the archive are among the 40 most recent sentences. Sukhbaatar et al. (2015, arXiv:1503.08895) use
            50.
        question: where the model reads the question: ``first`` (before the story), ``last`` or ``both``. With ``last``,
            the backward direction of the encoder reads the question, then the most recent sentence, and ends with the
            oldest one.

    Raises:
        InputError: the archive cannot be read, or an option is not valid.
    """

    monitor = "accuracy"
    shares_vocabulary = True
    usage = 'generate run={run} prompt="STORY QUESTION?"'

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        source: str = "generated",
        tasks: list[int] = (),
        max_sentences: int = 50,
        question: str = "last",
        longest_output: int = 8,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, longest_output=longest_output, **shared)
        check_least(1, max_sentences=max_sentences)
        if source not in SOURCES:
            raise InputError(f"task.source={source!r} is not one of {', '.join(SOURCES)}")
        unknown = [number for number in tasks if number not in SOURCES[source]]
        if unknown or len(set(tasks)) < len(tasks):
            known = "1 to 20" if source == "babi" else " and ".join(map(str, GENERATED))
            raise InputError(
                f"task.tasks={list(tasks)} must be different numbers; the tasks of task.source={source} are {known}"
            )
        if question not in ("first", "last", "both"):
            raise InputError(f"task.question={question!r} is not one of first, last, both")
        self.files, self.max_sentences, self.question = source, max_sentences, question
        self.tasks = tuple(sorted(tasks)) or SOURCES[source]
        self.metrics = {
            "loss": Metric("nats per token"),
            "accuracy": Metric("of the answers right, mean of the tasks", "higher"),
            **{_metric(number): Metric("right", "higher") for number in self.tasks},
        }

    @cached_property
    def questions(self) -> dict[str, list[tuple[int, Question]]]:
        """The task and the question of each example, by split."""
        texts = archived(self.data_root) if self.files == "babi" else generated()
        found: dict[str, list[tuple[int, Question]]] = {"train": [], "valid": [], "test": []}
        for number in self.tasks:
            stories = read_stories(texts[number, "train"])
            train, valid = held_out(stories, round(VALID * sum(map(len, stories))))
            test = [question for story in read_stories(texts[number, "test"]) for question in story]
            for split, questions in zip(found, (train, valid, test), strict=True):
                found[split] += [(number, question) for question in questions]
        return found

    def read(self) -> dict[str, list[Pair]]:  # noqa: D102
        return {
            split: [Pair(self._source(one.text, one.story), one.answer.lower()) for _, one in questions]
            for split, questions in self.questions.items()
        }

    def _source(self, question: str, story: tuple[str, ...] | list[str]) -> str:
        before, after = [question] * (self.question != "last"), [question] * (self.question != "first")
        return " ".join([*before, *story[-self.max_sentences :], *after]).lower()

    def encode_source(self, text: str) -> Tensor:
        """The tokens of a story with a question anywhere in it, int64 ``[S]``, with END.

        The last question is the one to answer; other questions are left out.

        Raises:
            InputError: there is no question, the text is too long, or all of its tokens are unknown.
        """
        sentences = [one.strip() for one in re.findall(r"[^.?]+[.?]*", tidy(text))]
        questions = [one for one in sentences if one.endswith("?")]
        if sentences and not questions:
            raise InputError(
                f"the text {tidy(text)[:40]!r} has no question; end one sentence with a question mark, for example "
                "'Mary went to the kitchen. Where is Mary?'"
            )
        story = [one for one in sentences if not one.endswith("?")]
        return super().encode_source(self._source(questions[-1] if questions else "", story))

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """The fraction of correct answers of each task, and the mean of the tasks."""
        return self._accuracies(split, self.texts(written))

    def _accuracies(self, split: str, answers: list[str]) -> dict[str, float]:
        right: dict[int, list[bool]] = {number: [] for number in self.tasks}
        for (number, _), pair, answer in zip(self.questions[split], self.pairs[split], answers, strict=True):
            right[number].append(answer == tidy(pair.target))
        by_task = {_metric(number): sum(found) / len(found) for number, found in right.items()}
        return {"accuracy": sum(by_task.values()) / len(by_task), **by_task}

    @cached_property
    def majority(self) -> dict[int, str]:
        """The most frequent training answer of each task, the first in alphabetical order of several."""
        counts: dict[int, Counter[str]] = {number: Counter() for number in self.tasks}
        for (number, _), pair in zip(self.questions["train"], self.pairs["train"], strict=True):
            counts[number][pair.target] += 1
        return {number: min(found, key=lambda answer: (-found[answer], answer)) for number, found in counts.items()}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baseline ``majority``: the most frequent training answer of the task."""
        return {"majority": self._accuracies(split, [self.majority[number] for number, _ in self.questions[split]])}

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """The texts, and the accuracy of each task as a table and, if matplotlib is installed, as a figure."""
        rows = self._rows(split, self.judge(split, written))
        made = {**super().transcripts(split, written), "tasks.txt": self._table(split, rows)}
        with suppress(InputError):  # matplotlib is not installed
            made["tasks.svg"] = self._figure(split, rows)
        return made

    def _rows(self, split: str, accuracies: dict[str, float]) -> list[tuple[float, float, float]]:
        """For each task, the accuracy of the model, of the published LSTM (NaN if unknown) and of the majority."""
        majority = self.baselines(split)["majority"]
        return [
            (
                accuracies[_metric(number)],
                LSTM[number - 1] / 100 if self.files == "babi" else float("nan"),
                majority[_metric(number)],
            )
            for number in self.tasks
        ]

    def _table(self, split: str, rows: list[tuple[float, float, float]]) -> str:
        counts = Counter(number for number, _ in self.questions[split])
        lines = [f"{self._training()}; accuracy on the {split} questions of task.source={self.files}"]
        if self.files == "babi":
            lines.append("LSTM: test accuracy published by Weston et al. (2015), a model for each task")
        lines += ["", f"{'task':>4}  {'name':<22}  {'questions':>9}  {'accuracy':>8}  {'LSTM':>5}  {'majority':>8}"]
        means = tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
        named = [(str(number), NAMES[number - 1], counts[number]) for number in self.tasks]
        for (number, name, count), row in zip([*named, ("mean", "", counts.total())], [*rows, means], strict=True):
            ours, published, majority = (f"{value:.3f}" if value == value else "-" for value in row)
            lines.append(f"{number:>4}  {name:<22}  {count:>9}  {ours:>8}  {published:>5}  {majority:>8}")
        return "\n".join(lines) + "\n"

    def _figure(self, split: str, rows: list[tuple[float, float, float]]) -> str:
        made, axes = figure(
            max(5.0, 2.5 + 0.32 * len(rows)), 3.1, title=f"{self._training()}, {split}", ylabel="accuracy"
        )
        labels = ("this model", "LSTM (Weston et al., 2015)", "majority answer")
        for place, (label, column) in enumerate(zip(labels, zip(*rows, strict=True), strict=True)):
            if column[0] == column[0]:
                centres = [index + 0.28 * (place - 1) for index in range(len(rows))]
                colour = (SERIES[0], SERIES[1], MUTED)[place]
                axes.bar(centres, column, width=0.28, label=label, color=colour)
        axes.set_xticks(range(len(rows)), [str(number) for number in self.tasks])
        axes.set(xlabel="task", ylim=(0, 1.2), yticks=[0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper center", ncols=3)
        return render(made, "tasks")

    def _training(self) -> str:
        if len(self.tasks) == 1:
            return f"single-task training: one model for task {self.tasks[0]}"
        return f"joint training: one model for {len(self.tasks)} tasks"

    def examples(self) -> list[Pair]:
        """The pairs of the validation set that `sample` shows, of different tasks, the shortest story first."""
        short = [number for number, (source, _) in enumerate(self.encoded["valid"]) if len(source) <= LONGEST]
        chosen = short[:: -(-len(short) // 5)]
        return sorted((self.pairs["valid"][number] for number in chosen), key=lambda pair: len(pair.source))

    def describe(self) -> list[str]:
        """The kind of training, the sizes, and the number of test questions that are also in training."""
        trained = set(self.pairs["train"])
        both = sum(pair in trained for pair in self.pairs["test"])
        return [
            *super().describe(),
            f"data: {self._training()}",
            f"data: {both:,} of the {self.count('test'):,} test questions and stories are also in the training set",
        ]


def _metric(number: int) -> str:
    return f"task_{number:02}"
