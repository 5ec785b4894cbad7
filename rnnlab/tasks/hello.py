"""Minimal example: a character model that learns to spell "hello"."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from rnnlab.heads import Categorical
from rnnlab.interface import Batch, Mean, Metric, Sample, Tokens
from rnnlab.tasks.base import Task
from rnnlab.text import Alphabet, Speaker


class Hello(Task):
    """Predict e, l, l, o from h, e, l, l; the loss is the sum of the four cross-entropies.

    The input l has the target l once and the target o once, so the prediction needs the hidden state.

        inputs   h e l l
        targets  e l l o

    The data is a single training sequence; there is no validation or test split.
    """

    splits = ("train",)
    default_prompt = "h"
    metrics = {"loss": Metric("nats, summed over the four characters")}

    def __init__(self, seed: int = 0, data_root: str = "data") -> None:
        super().__init__(seed, data_root)
        self.vocabulary = Alphabet("helo")
        self.input = Tokens(len(self.vocabulary))
        self.head = Categorical(len(self.vocabulary))

    def num_batches(self, split: str) -> int:  # noqa: D102
        return 1

    def batch(self, split: str, step: int) -> Batch:
        """Inputs and targets ``[4, 1]``, the same at every training step."""
        hello = self.vocabulary.encode("hello").unsqueeze(1)
        return Batch(inputs=hello[:-1], targets=hello[1:])

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """The sum of the cross-entropies of a sequence, in nats; the count is sequences, not characters."""
        return Mean(super().loss(outputs, batch).total, batch.batch_size)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baseline ``chance``: all characters are equally probable."""
        return {"chance": {"loss": 4 * log(self.output_size)}}

    @torch.inference_mode()
    def sample(self, model: nn.Module) -> Sample:
        """A table with the input, target and predicted character of each step, and the probability of the target."""
        device = next(model.parameters()).device
        batch = self.batch("train", 0).to(device)
        probabilities = model(batch)[0][:, 0].softmax(-1).cpu()
        rows = ["step  input  target  predicted  P(target)"]
        for t, (given, wanted) in enumerate(
            zip(batch.inputs[:, 0].tolist(), batch.targets[:, 0].tolist(), strict=True)
        ):
            character = self.vocabulary.characters
            predicted = int(probabilities[t].argmax())
            rows.append(
                f"{t + 1:>4}  {character[given]:^5}  {character[wanted]:^6}  {character[predicted]:^9}"
                f"  {float(probabilities[t, wanted]):9.3f}"
            )
        return Sample("\n".join(rows))

    def spell(self, inputs: Tensor) -> list[str]:
        """The characters of the tokens."""
        return [self.vocabulary.characters[token] for token in inputs.tolist()]

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Speaker:  # noqa: D102
        return Speaker(model, self.vocabulary, temperature, top_k, seed)
