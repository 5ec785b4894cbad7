"""The contract of a task: the interface that training, evaluation and generation use."""

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
"""The seed of the validation and test sets, which are thus the same for every cell and every run seed."""


def check_least(least: int, **sizes: int) -> None:
    """Check that each of the task's options ``sizes`` is at least ``least``.

    Raises:
        InputError: an option is smaller.
    """
    for name, size in sizes.items():
        if size < least:
            raise InputError(f"task.{name}={size} must be at least {least}")


def check_shares(split: Sequence[float]) -> None:
    """Check that ``split`` has the fractions of train, valid and test, or of train and valid.

    Raises:
        InputError: the fractions are not two or three positive numbers that sum to 1.
    """
    if len(split) not in (2, 3) or not (min(split) > 0 and abs(sum(split) - 1) <= 1e-6):
        raise InputError(f"task.split={list(split)} must be two or three positive fractions that sum to 1")


class _FromHead:
    """The width of a task's head; a task without a head sets ``output_size`` itself, which overrides this."""

    def __get__(self, task: Task | None, kind: type) -> Any:
        return self if task is None else task.head.features


class Task:
    """Data, loss, metrics and samples.

    The constructor receives ``(seed, data_root)``; a task's own options are keyword-only.

    input: type of the inputs: Tokens, Vectors or Images.
    source: type of the source, which the model reads completely before the first step, such as a sentence to
        translate; None for most tasks.
    head: distribution of the targets, see `rnnlab.heads`. None for a task that defines its own loss; such a task sets
        ``output_size``, the number of features of an output.
    splits: the available splits: ``train``, and optionally ``valid`` and ``test``.
    metrics: unit and direction of each number that `loss` (``"loss"``), `measure`, `derive` and `judge` report.
    monitor: metric that selects the best checkpoint.
    length_metric, length_name: metric that is reported for each length, see `lengths`, and what the lengths count.
    default_prompt: prompt of a `speaker` if the user gives none.
    end: token that ends a generated sequence, see `steps_to_write`; None if sequences have no end token.
    beam_size: beam size of generation during evaluation; 1 is greedy.
    prompt_steps: number of true inputs that a model reads before it generates in an evaluation, see `steps_to_write`.
    has_elapsed: whether batches have elapsed times, see `rnnlab.interface.Batch`.
    usage: command that uses a trained model of a task with a `speaker` or its own `generate`, shown after training.
    """

    input: Tokens | Vectors | Images
    source: Tokens | Vectors | Images | None = None
    head: Head | None = None
    output_size: Any = _FromHead()
    splits: tuple[str, ...] = ("train", "valid", "test")
    metrics: ClassVar[dict[str, Metric]] = {"loss": Metric("nats")}
    monitor: ClassVar[str] = "loss"
    length_metric: ClassVar[str | None] = None
    length_name: str = "length"
    default_prompt: str = ""
    end: int | None = None
    beam_size: int = 1
    prompt_steps: int = 1
    has_elapsed: bool = False
    usage: ClassVar[str] = "generate run={run} length=1000"

    def __init__(self, seed: int = 0, data_root: str = "data") -> None:
        self.seed, self.data_root = seed, data_root

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step`` of a split, a pure function of the task's seed, the split and the step.

        Training calls this with any step, evaluation with steps 0 to ``num_batches(split) - 1``. The trainer loads
        the next batch in a second thread while it trains on the current one.
        """
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """The number of batches of one evaluation of a split."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """The training loss of the model's ``outputs`` for ``batch``, ``total / count``; by default the head's loss."""
        return self.head.loss(outputs, batch.targets, batch.lengths, batch.target_lengths)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """Further evaluation metrics, computed from outputs under teacher forcing."""
        return {}

    def steps_to_write(self, split: str) -> int:
        """The maximum number of steps that the model generates in an evaluation of a split; 0 for no generation.

        If positive, an evaluation generates a continuation of the first ``prompt_steps`` inputs of each sequence,
        conditioned on its source, and passes the generated sequences to `judge`.
        """
        return 0

    def advance(self, inputs: Tensor, drawn: Tensor) -> Tensor:
        """The inputs of the next step; by default the drawn values. Tasks whose targets are differences override it.

        Args:
            inputs: inputs of the current step, ``[B]`` or ``[B, F]``.
            drawn: values drawn from the head, ``[B]`` or ``[B, F']``.
        """
        return drawn

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """Metrics of the sequences that the model generated for a split, such as BLEU or exact match.

        Args:
            split: name of the split.
            written: one tensor ``[length, ...]`` for each sequence of the split, in batch order, without `end`.
        """
        return {}

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """Text files about the sequences ``written`` for a split (see `judge`), such as hypotheses and references.

        Returns:
            the contents by file name; a run stores them as ``written/SPLIT/NAME``.
        """
        return {}

    def lengths(self, split: str, step: int) -> Tensor | None:
        """The length under which each sequence of an evaluation batch is reported, int64 ``[B]``; None for no lengths.

        If the task reports lengths, `measure` returns ``length_metric`` with a total and a count for each sequence.
        """
        return None

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of trivial baselines by name, chance level first."""
        return {}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """The ``means`` of a split, extended by metrics derived from them, such as bits from nats."""
        return means

    def details(self, split: str, means: dict[str, float]) -> dict[str, str]:
        """Text files about the ``means`` of a split before `derive`, stored like `transcripts`, by file name."""
        return {}

    def sample(self, model: nn.Module) -> Sample | list[Sample] | str | None:
        """A deterministic sample of the model's output; None if the task has no samples.

        A string stands for ``Sample(text, ".txt")``. Several samples have different suffixes.
        """
        return None

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """The samples that ``rnnlab generate out=FOLDER`` writes: by default the text of a `speaker`.

        Args:
            model: model in evaluation mode.
            prompt: the user's prompt; empty for the default prompt.
            length: number of steps to generate.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: see `rnnlab.heads.Head.draw`.
            seed: seed for sampling.

        Raises:
            InputError: the task does not support generation, or the prompt is not valid.
        """
        speaker = self.speaker(model, temperature, top_k, seed)
        return [Sample("".join(speaker.generate(prompt or self.default_prompt, length)))]

    def describe(self) -> list[str]:
        """A summary of the user's data as lines for the log; empty if the task generates its data."""
        return []

    def spell(self, inputs: Tensor) -> list[str]:
        """Short axis labels for the inputs of one sequence ``[T, ...]``, one label per step.

        By default, tokens are labelled with their index; vectors and images have no labels (an empty list).
        """
        return list(map(str, inputs.tolist())) if isinstance(self.input, Tokens) else []

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Speaker:
        """A `Speaker` that generates text with a trained model.

        Raises:
            InputError: the task does not generate text.
        """
        writes = type(self).generate is not Task.generate
        instead = "generate out=FOLDER for the files that it generates" if writes else "evaluate to measure the model"
        raise InputError(f"the task {type(self).__name__} generates no text; use rnnlab {instead}")

    def memory(self) -> dict[str, Any]:
        """The task's part of a checkpoint, such as a vocabulary, in plain containers."""
        return {}

    def restore(self, memory: dict[str, Any]) -> None:
        """Restore the values that `memory` returned for the trained model."""

    def data_digest(self) -> str:
        """SHA-256 of the data, the same for all seeds.

        By default, the digest covers the first batch of each evaluation split, since training batches depend on the
        seed.
        """
        digest = hashlib.sha256()
        for split in [split for split in self.splits if split != "train"] or self.splits:
            batch = self.batch(split, 0)
            for tensor in tensors_of((batch.inputs, batch.targets)):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def generator(self, split: str, step: int) -> torch.Generator:
        """The random number generator of one batch; for ``train`` it depends on the run's seed."""
        seed = self.seed if split == "train" else EVALUATION_SEED
        digest = hashlib.sha256(f"{seed}/{split}/{step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class Labelling(Task):
    """A classification task, with a class as the target of every step or of some steps: `rnnlab.heads.Categorical`.

    Targets are int64 ``[T, B]``, with `rnnlab.heads.IGNORE` at steps that are not scored.

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
        """The fraction of scored steps at which the most probable class is the target, averaged over sequences."""
        return {"accuracy": categorical_accuracy(outputs, batch.targets)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baseline ``chance``: all classes are equally probable."""
        return {"chance": {"loss": log(self.output_size), "accuracy": 1 / self.output_size}}


class Regression(Task):
    """A regression task, with real-valued targets at every step or at some steps: `rnnlab.heads.SquaredError`.

    Targets are float ``[T, B, output_size]``, with NaN for values that are not scored.

    output_size: number of target values per step.
    """

    metrics = {"loss": Metric("mean squared error"), "mae": Metric("mean absolute error")}
    length_metric = "mae"
    output_size: int = 0

    @property
    def head(self) -> SquaredError:  # noqa: D102
        return SquaredError(self.output_size)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The mean absolute error of the scored values of each sequence."""
        return {"mae": absolute_error(outputs, batch.targets)}


class Finite(Task):
    """A task with a finite number of examples.

    Training shuffles the examples in each epoch; evaluation takes them in order.

    batch_size: number of examples per batch.
    """

    batch_size: int

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        raise NotImplementedError

    def num_batches(self, split: str) -> int:
        """Number of batches per epoch; training drops the last incomplete batch."""
        count = self.count(split)
        return max(1, count // self.batch_size) if split == "train" else -(-count // self.batch_size)

    def chosen(self, split: str, step: int) -> Tensor:
        """Indices of the examples of a batch, int64 ``[B]``."""
        order, place = torch.arange(self.count(split)), step
        if split == "train":
            epoch, place = divmod(step, self.num_batches(split))
            order = torch.randperm(len(order), generator=self.generator(split, epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]


class Generated(Task):
    """A task that generates random sequences for each batch; all sequences of a batch have the same length.

    Each task defines its own length, which is not always the number of steps; ``ranges`` has those of each split.

    Args:
        seed: seed of the training batches.
        data_root: not used.
        lengths: shortest and longest length in training and validation; training draws a random length for each
            batch, validation covers every length.
        test_lengths: shortest and longest length of the test set, optionally followed by the stride between lengths.
        curriculum: ``[longest, steps]``: training starts with lengths up to ``longest``, and increases this limit by 1
            every ``steps`` training steps until it reaches the longest of ``lengths``; null: all lengths from the
            start.
        batch_size: number of sequences per batch.
        eval_batches: number of batches of each length in validation and test.

    Raises:
        InputError: a length or a size is not valid.
    """

    shortest: ClassVar[int] = 1
    """The minimum length of the task."""

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
                raise InputError(
                    f"task.{name} is {list(given)}; give the shortest and the longest length, for example [1, 40]"
                )
            if given[0] < self.shortest:
                raise InputError(f"task.{name} is {list(given)}; the shortest length must be at least {self.shortest}")
        if curriculum is not None and not (
            len(curriculum) == 2 and lengths[0] <= curriculum[0] <= lengths[1] and curriculum[1] >= 1
        ):
            raise InputError(
                f"task.curriculum is {list(curriculum)}; give [longest, steps]: the initial longest length, from "
                f"{lengths[0]} to {lengths[1]}, and the number of training steps between increases, at least 1"
            )
        check_least(1, batch_size=batch_size, eval_batches=eval_batches)
        first, last, *distance = test_lengths
        trained = range(lengths[0], lengths[1] + 1)
        self.ranges = {"train": trained, "valid": trained, "test": range(first, last + 1, *distance)}
        self._curriculum = curriculum
        self.batch_size, self.eval_batches = batch_size, eval_batches

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """A batch of ``batch_size`` sequences of length ``length``; ``generator`` is the only source of randomness."""
        raise NotImplementedError

    def num_batches(self, split: str) -> int:  # noqa: D102
        return len(self.ranges[split]) * self.eval_batches

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step``, see `draw`."""
        generator = self.generator(split, step)
        return self.draw(generator, self._length(split, step, generator))

    def lengths(self, split: str, step: int) -> Tensor | None:
        """The length of each sequence of a batch; None if the split has a single length."""
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
