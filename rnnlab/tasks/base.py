"""The contract of a task: all that training, evaluation and generation ask of it."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rnnlab.interface import Batch, Images, InputError, Mean, Metric, Tokens, Vectors, tensors_of
from rnnlab.text import Speaker

EVALUATION_SEED = 1_000_003
"""Valid and test sets come from this seed, so that they are the same for every cell and every run seed."""


class Task:
    """Data, loss, metrics and samples.

    The constructor receives ``(seed, data_root)``; a task's own options are keyword-only, and the same names stand in
    its file in ``conf/task``.

    input: what the inputs are: Tokens, Vectors or Images.
    output_size: how many features the loss expects of an output.
    splits: those of ``train``, ``valid`` and ``test`` that exist; ``train`` always does.
    metrics: every number that `loss` (``"loss"``), `measure` and `derive` report, with unit and direction.
    monitor: the metric by which the best checkpoint is chosen.
    default_prompt: what a `speaker` begins with where the user gives nothing.
    """

    input: Tokens | Vectors | Images
    output_size: int
    splits: tuple[str, ...] = ("train", "valid", "test")
    metrics: ClassVar[dict[str, Metric]] = {"loss": Metric("nats")}
    monitor: ClassVar[str] = "loss"
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

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """``means`` of a split together with numbers that follow from them (bits from nats, say)."""
        return means

    def sample(self, model: nn.Module) -> str | None:
        """A short text that shows what the model does, the same for the same model; None where there is none."""
        return None

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
        """SHA-256 that tells one set of data from another; by default of the first batch of every split."""
        digest = hashlib.sha256()
        for split in self.splits:
            batch = self.batch(split, 0)
            for tensor in tensors_of((batch.inputs, batch.targets)):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def generator(self, split: str, step: int) -> torch.Generator:
        """The source of randomness of one batch: for ``train`` it depends on the run's seed."""
        seed = self.seed if split == "train" else EVALUATION_SEED
        digest = hashlib.sha256(f"{seed}/{split}/{step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
