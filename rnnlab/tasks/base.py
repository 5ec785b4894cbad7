"""The contract of a task: what training, evaluation and generation use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnnlab.heads import Categorical, Head, SquaredError
from rnnlab.heads.categorical import categorical_accuracy
from rnnlab.heads.squared_error import absolute_error
from rnnlab.interface import Batch, Images, InputError, Mean, Metric, Sample, Tokens, Vectors
from rnnlab.text import Speaker
from rnnlab.trees import tensors_of

EVALUATION_SEED = 1_000_003
"""Valid and test sets come from this seed, so that they are the same for every cell and every run seed."""


def check_least(least: int, **sizes: int) -> None:
    """Raise an InputError unless all of a task's options ``sizes`` are at least ``least``.

    Raises:
        InputError: one is not.
    """
    for name, size in sizes.items():
        if size < least:
            raise InputError(f"task.{name} is {size}; it must be at least {least}")


def check_shares(split: Sequence[float]) -> None:
    """Raise an InputError unless ``split`` are the shares of train, valid and test, or of train and valid.

    Raises:
        InputError: they are not.
    """
    if len(split) not in (2, 3) or not (min(split) > 0 and abs(sum(split) - 1) <= 1e-6):
        raise InputError(f"task.split is {list(split)}; it must be two or three positive shares that sum to 1")


class _FromHead:
    """The width of a task's head; a task without a head sets ``output_size`` itself, which overrides this."""

    def __get__(self, task: Task | None, kind: type) -> Any:
        return self if task is None else task.head.features


class Task:
    """Data, loss, metrics and samples.

    The constructor receives ``(seed, data_root)``; a task's own options are keyword-only.

    input: what the inputs are: Tokens, Vectors or Images.
    source: what a model reads whole before the first step, such as a sentence to translate; None for most tasks.
    head: the distribution of the targets, see `rnnlab.heads`. None for a task that has a loss of its own; it then sets
        ``output_size``, the number of features of an output.
    splits: those of ``train``, ``valid`` and ``test`` that exist; ``train`` always does.
    metrics: each number that `loss` (``"loss"``), `measure`, `derive` and `judge` report, with unit and direction.
    monitor: the metric by which the best checkpoint is chosen.
    length_metric: the metric that is reported for each length, see `lengths`.
    default_prompt: what a `speaker` begins with where the user gives nothing.
    end: the token that ends a sequence that a model writes, see `steps_to_write`; None where there is none.
    beam_size: the width of the beam with which an evaluation writes; 1 is greedy.
    """

    input: Tokens | Vectors | Images
    source: Tokens | Vectors | Images | None = None
    head: Head | None = None
    output_size: Any = _FromHead()
    splits: tuple[str, ...] = ("train", "valid", "test")
    metrics: ClassVar[dict[str, Metric]] = {"loss": Metric("nats")}
    monitor: ClassVar[str] = "loss"
    length_metric: ClassVar[str | None] = None
    default_prompt: str = ""
    end: int | None = None
    beam_size: int = 1

    def __init__(self, seed: int = 0, data_root: str = "data") -> None:
        self.seed = seed
        self.data_root = data_root

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step`` of a split, a pure function of the task's seed, the split and the step.

        Training may ask for any step; evaluation asks for steps 0 to ``num_batches(split) - 1``. The trainer asks for
        the next batch in another thread while it trains on the current one.
        """
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """The number of batches of one evaluation of a split."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """The training loss, ``total / count``, from the model's ``outputs`` for ``batch``: that of the head."""
        return self.head.loss(outputs, batch.targets, batch.lengths, batch.target_lengths)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """Further metrics of an evaluation, from outputs under teacher forcing."""
        return {}

    def steps_to_write(self, split: str) -> int:
        """The largest number of steps that a model writes in an evaluation of a split; 0 where it writes nothing.

        Where it is positive, an evaluation lets the model write after the first input of each sequence, given its
        source, and hands what it wrote to `judge`.
        """
        return 0

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """Metrics of what a model wrote for a split, BLEU or exact match say.

        Args:
            split: the split.
            written: ``[length, ...]`` for each sequence of the split, in the order of its batches, without `end`.
        """
        return {}

    def lengths(self, split: str, step: int) -> Tensor | None:
        """The length under which each sequence of an evaluation batch is reported, int64 ``[B]``; None for no lengths.

        Where there are any, `measure` gives ``length_metric`` with a total and a count for each sequence.
        """
        return None

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of trivial baselines by name, chance level first."""
        return {}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """``means`` of a split together with metrics computed from them, such as bits from nats."""
        return means

    def sample(self, model: nn.Module) -> Sample | list[Sample] | str | None:
        """Something that the model makes, the same for the same model; None where there is nothing to show.

        A text alone stands for ``Sample(text, ".txt")``. Several samples have different suffixes.
        """
        return None

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """What ``rnnlab generate out=FOLDER`` writes: by default the text of a `speaker`.

        Args:
            model: in evaluation mode.
            prompt: what the user gave; empty for none.
            length: number of steps to write.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: see there too.
            seed: of the draws.

        Raises:
            InputError: the task has nothing to generate, or the prompt cannot be used.
        """
        speaker = self.speaker(model, temperature, top_k, seed)
        return [Sample("".join(speaker.generate(prompt or self.default_prompt, length)))]

    def describe(self) -> list[str]:
        """What was read of the user's data, lines for the log; empty where a task generates its data."""
        return []

    def spell(self, inputs: Tensor) -> list[str]:
        """Labels of the inputs of one sequence, ``[T, ...]``, for the axis of a figure, a few letters a step.

        By default tokens as their numbers, and an empty list for vectors and images.
        """
        return list(map(str, inputs.tolist())) if isinstance(self.input, Tokens) else []

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Speaker:
        """A trained model that reads and writes text; see `Speaker`.

        Raises:
            InputError: this task has no text.
        """
        raise InputError(f"the task {type(self).__name__} generates no text; use rnnlab evaluate to measure the model")

    def memory(self) -> dict[str, Any]:
        """What a checkpoint must contain beside the model, in plain containers: a vocabulary, for example."""
        return {}

    def restore(self, memory: dict[str, Any]) -> None:
        """Restore what `memory` returned when the model was trained."""

    def data_digest(self) -> str:
        """SHA-256 of the data, the same for all seeds.

        By default of the first batch of each evaluation split: training batches depend on the seed.
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
    """A task with a class to name at each step, or at some of them: `rnnlab.heads.Categorical`.

    Targets are int64 ``[T, B]``, `rnnlab.heads.IGNORE` where a step is not scored.

    output_size: number of classes.
    """

    metrics = {
        "loss": Metric("nats per symbol"),
        "accuracy": Metric("of a sequence right", "higher"),
    }
    length_metric = "accuracy"
    output_size: int = 0

    @property
    def head(self) -> Categorical:  # noqa: D102
        return Categorical(self.output_size)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The mean over sequences of the share of scored steps where the most probable class is the right one."""
        return {"accuracy": categorical_accuracy(outputs, batch.targets)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``: all classes are equally probable."""
        return {"chance": {"loss": log(self.output_size), "accuracy": 1 / self.output_size}}


class Regression(Task):
    """A task with numbers to name at each step, or at some of them: `rnnlab.heads.SquaredError`.

    Targets are float ``[T, B, output_size]``, NaN where a number is not scored.

    output_size: numbers of a step.
    """

    metrics = {"loss": Metric("mean squared error"), "mae": Metric("mean absolute error")}
    length_metric = "mae"
    output_size: int = 0

    @property
    def head(self) -> SquaredError:  # noqa: D102
        return SquaredError(self.output_size)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The absolute error of a scored number, by sequence."""
        return {"mae": absolute_error(outputs, batch.targets)}


class Finite(Task):
    """A task with a finite number of examples.

    Training shuffles them in each epoch; evaluations take them in order.

    batch_size: examples in a batch.
    """

    batch_size: int

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """Number of batches of an epoch; training batches are full."""
        count = self.count(split)
        return max(1, count // self.batch_size) if split == "train" else -(-count // self.batch_size)

    def chosen(self, split: str, step: int) -> Tensor:
        """Indices of the examples of a batch, int64 ``[B]``; an epoch leaves the last incomplete batch out."""
        order, place = torch.arange(self.count(split)), step
        if split == "train":
            epoch, place = divmod(step, self.num_batches(split))
            order = torch.randperm(len(order), generator=self.generator(split, epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]


class Generated(Task):
    """A task whose sequences are drawn for each batch; all sequences of a batch have one length.

    Each task defines what its length is, which is not always the number of steps. ``ranges`` has the lengths of each
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
