"""The contract of a task: all that training, evaluation and generation ask of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnnlab.interface import Batch, Images, InputError, Mean, Metric, Tokens, Vectors, tensors_of
from rnnlab.outputs import absolute_error, categorical_accuracy, categorical_loss, squared_error
from rnnlab.text import Speaker

EVALUATION_SEED = 1_000_003
"""Valid and test sets come from this seed, so that they are the same for every cell and every run seed."""


def check_least(least: int, **sizes: int) -> None:
    """Nothing, if all of a task's options ``sizes`` are at least ``least``.

    Raises:
        InputError: one is not.
    """
    for name, size in sizes.items():
        if size < least:
            raise InputError(f"task.{name} is {size}; it must be at least {least}")


def check_shares(split: Sequence[float]) -> None:
    """Nothing, if ``split`` are the shares of train, valid and test, or of train and valid.

    Raises:
        InputError: they are not.
    """
    if len(split) not in (2, 3) or not (min(split) > 0 and abs(sum(split) - 1) <= 1e-6):
        raise InputError(f"task.split is {list(split)}; it must be two or three positive shares that sum to 1")


class Task:
    """Data, loss, metrics and samples.

    The constructor receives ``(seed, data_root)``; a task's own options are keyword-only, and the same names stand in
    its file in ``conf/task``.

    input: what the inputs are: Tokens, Vectors or Images.
    output_size: how many features the loss expects of an output.
    splits: those of ``train``, ``valid`` and ``test`` that exist; ``train`` always does.
    metrics: every number that `loss` (``"loss"``), `measure` and `derive` report, with unit and direction.
    monitor: the metric by which the best checkpoint is chosen.
    length_metric: the one that is shown against length, see `lengths`.
    default_prompt: what a `speaker` begins with where the user gives nothing.
    """

    input: Tokens | Vectors | Images
    output_size: int
    splits: tuple[str, ...] = ("train", "valid", "test")
    metrics: ClassVar[dict[str, Metric]] = {"loss": Metric("nats")}
    monitor: ClassVar[str] = "loss"
    length_metric: ClassVar[str | None] = None
    default_prompt: str = ""

    def __init__(self, seed: int = 0, data_root: str = "data") -> None:
        self.seed = seed
        self.data_root = data_root

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step`` of a split, a pure function of the task's seed, the split and the step.

        Training may ask for any step; evaluation asks for steps 0 to ``num_batches(split) - 1``.
        """
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """How many batches make one evaluation of a split."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """What training minimises, ``total / count``, from the model's ``outputs`` for ``batch``."""
        raise NotImplementedError

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """Further numbers, taken at evaluation only."""
        return {}

    def lengths(self, split: str, step: int) -> Tensor | None:
        """What the sequences of an evaluation's batch are sorted by, int64 ``[B]``; None where lengths do not differ.

        Where there are any, `measure` gives ``length_metric`` with a total and a count for each sequence.
        """
        return None

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Some of the metrics as they are for those who have learned nothing: by name, the chance level first."""
        return {}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """``means`` of a split together with numbers that follow from them (bits from nats, say)."""
        return means

    def sample(self, model: nn.Module) -> str | None:
        """A short text that shows what the model does, the same for the same model; None where there is none."""
        return None

    def describe(self) -> list[str]:
        """What was read of the user's data, lines for the log; empty where a task generates its data."""
        return []

    def spell(self, inputs: Tensor) -> list[str]:
        """How the inputs of one sequence, ``[T, ...]``, are written below a figure, a few letters a step.

        By default tokens as their numbers, and nothing, an empty list, for vectors and images.
        """
        return list(map(str, inputs.tolist())) if isinstance(self.input, Tokens) else []

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Speaker:
        """A trained model as something that reads and writes; see `Speaker`.

        Raises:
            InputError: this task has no words.
        """
        raise InputError(f"the task {type(self).__name__} generates nothing; rnnlab evaluate shows what the model does")

    def memory(self) -> dict[str, Any]:
        """What must travel with a trained model, in plain containers (a vocabulary, say)."""
        return {}

    def restore(self, memory: dict[str, Any]) -> None:
        """Take up what `memory` gave when the model was trained."""

    def data_digest(self) -> str:
        """SHA-256 that tells one set of data from another, whatever the seed.

        By default of the first batch of every split that is evaluated: training batches depend on the seed.
        """
        digest = hashlib.sha256()
        for split in [split for split in self.splits if split != "train"] or self.splits:
            batch = self.batch(split, 0)
            for tensor in tensors_of((batch.inputs, batch.targets)):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def generator(self, split: str, step: int) -> torch.Generator:
        """The source of randomness of one batch: for ``train`` it depends on the run's seed."""
        seed = self.seed if split == "train" else EVALUATION_SEED
        digest = hashlib.sha256(f"{seed}/{split}/{step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class Labelling(Task):
    """A task with a class to name at every step, or at some of them.

    Targets are int64 ``[T, B]``, `rnnlab.outputs.IGNORE` where a step is not scored; ``output_size`` classes.
    """

    metrics = {
        "loss": Metric("nats per symbol"),
        "accuracy": Metric("of a sequence right", "higher"),
    }
    length_metric = "accuracy"

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """Cross-entropy in nats per scored step."""
        return categorical_loss(outputs, batch.targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The mean over sequences of the share of scored steps where the most probable class is the right one."""
        return {"accuracy": categorical_accuracy(outputs, batch.targets)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``: every class is as probable as any other."""
        return {"chance": {"loss": log(self.output_size), "accuracy": 1 / self.output_size}}


class Regression(Task):
    """A task with numbers to name at every step, or at some of them.

    Targets are float ``[T, B, output_size]``, NaN where a number is not scored.
    """

    metrics = {"loss": Metric("mean squared error"), "mae": Metric("mean absolute error")}
    length_metric = "mae"

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """The squared error of a scored number."""
        return squared_error(outputs, batch.targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The absolute error of a scored number, by sequence."""
        return {"mae": absolute_error(outputs, batch.targets)}


class Finite(Task):
    """A task with so many examples and no more.

    Training shuffles them anew in every epoch, evaluations take them as they stand.

    batch_size: examples in a batch.
    """

    batch_size: int

    def count(self, split: str) -> int:
        """How many examples a split has."""
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """For training those of an epoch, which are full."""
        count = self.count(split)
        return max(1, count // self.batch_size) if split == "train" else -(-count // self.batch_size)

    def chosen(self, split: str, step: int) -> Tensor:
        """Which examples are in a batch, int64 ``[B]``; those that an epoch leaves over come in another."""
        order, place = torch.arange(self.count(split)), step
        if split == "train":
            epoch, place = divmod(step, self.num_batches(split))
            order = torch.randperm(len(order), generator=self.generator(split, epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]


class Generated(Task):
    """Sequences drawn anew for every batch; those of one batch have one length.

    What a sequence's length is each task says: not always its number of steps. ``ranges`` has the lengths of every
    split.

    Args:
        seed: of the training batches.
        data_root: not used, there are no files.
        lengths: the shortest and the longest length in training and validation; training draws one for each batch,
            validation has all of them.
        test_lengths: the shortest and the longest length of the test, and, if not all between them, their distance.
        curriculum: ``[longest, steps]``: training begins with lengths up to ``longest`` and goes one further every
            ``steps`` steps, as far as ``lengths``; null: all lengths from the beginning.
        batch_size: sequences in a batch.
        eval_batches: batches of each length in validation and test.

    Raises:
        InputError: a length or a size is not possible.
    """

    shortest: ClassVar[int] = 1
    """The shortest length that the task can have."""

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        lengths: list[int] = (1, 40),
        test_lengths: list[int] = (41, 500),
        curriculum: list[int] | None = None,
        batch_size: int = 64,
        eval_batches: int = 1,
    ) -> None:
        super().__init__(seed, data_root)
        for name, given, sizes in (("lengths", lengths, (2,)), ("test_lengths", test_lengths, (2, 3))):
            if len(given) not in sizes or given[0] > given[1] or given[-1] < 1:
                raise InputError(f"task.{name} is {list(given)}; give the shortest length and the longest, [1, 40] say")
            if given[0] < self.shortest:
                raise InputError(f"task.{name} is {list(given)}; the shortest length possible is {self.shortest}")
        if curriculum is not None and not (
            len(curriculum) == 2 and lengths[0] <= curriculum[0] <= lengths[1] and curriculum[1] >= 1
        ):
            raise InputError(
                f"task.curriculum is {list(curriculum)}; give the longest length to begin with, from {lengths[0]} to "
                f"{lengths[1]}, and after how many steps it grows by one"
            )
        check_least(1, batch_size=batch_size, eval_batches=eval_batches)
        first, last, *distance = test_lengths
        trained = range(lengths[0], lengths[1] + 1)
        self.ranges = {"train": trained, "valid": trained, "test": range(first, last + 1, *distance)}
        self._curriculum = curriculum
        self.batch_size, self.eval_batches = batch_size, eval_batches

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """A batch of ``batch_size`` sequences of ``length``, from ``generator`` alone."""
        raise NotImplementedError

    def num_batches(self, split: str) -> int:  # noqa: D102
        return len(self.ranges[split]) * self.eval_batches

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step``: see `draw`."""
        generator = self.generator(split, step)
        return self.draw(generator, self._length(split, step, generator))

    def lengths(self, split: str, step: int) -> Tensor | None:
        """The length of every sequence of a batch."""
        if len(self.ranges[split]) == 1:
            return None
        return torch.full((self.batch_size,), self._length(split, step, self.generator(split, step)))

    def _length(self, split: str, step: int, generator: torch.Generator) -> int:
        lengths = self.ranges[split]
        if split != "train":
            return lengths[step // self.eval_batches]
        first, last = lengths[0], lengths[-1]
        if self._curriculum is not None:
            longest, steps = self._curriculum
            last = min(last, longest + step // steps)
        return int(torch.randint(first, last + 1, (), generator=generator))
