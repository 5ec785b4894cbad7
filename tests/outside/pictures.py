"""A task of moving pictures and a model that takes them: inputs of more axes than the package's own have."""

import torch
from torch import Tensor, nn

from rnnlab.interface import Batch, Images, Mean, Tokens, Vectors
from rnnlab.layers import Stack
from rnnlab.models import CellFactory, Model
from rnnlab.tasks import Task
from rnnlab.trees import State

SHAPE = (2, 3, 5)


class Film(Task):
    """Random pictures; the target is their mean over all steps."""

    output_size = 1

    def __init__(self, seed: int = 0, data_root: str = "data", *, batch_size: int = 4, seq_len: int = 6) -> None:
        super().__init__(seed, data_root)
        self.input = Images(SHAPE)
        self.batch_size, self.seq_len = batch_size, seq_len

    def num_batches(self, split: str) -> int:
        return 1

    def batch(self, split: str, step: int) -> Batch:
        inputs = torch.rand(self.seq_len, self.batch_size, *SHAPE, generator=self.generator(split, step))
        return Batch(inputs, inputs.mean((0, 2, 3, 4)))

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        error = (outputs[-1, :, 0] - batch.targets) ** 2
        return Mean(error.sum(), error.numel())


class PictureModel(Model):
    """Each picture through one linear layer, then a stack and a readout."""

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        *,
        hidden_size: int = 8,
        num_layers: int = 1,
        features: int = 4,
    ) -> None:
        super().__init__(input, output_size, cell, backend)
        self.look = nn.Linear(torch.Size(input.shape).numel(), features)
        self.stack = Stack.build(cell, features, hidden_size, num_layers, backend=backend)
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        hidden, state = self.stack(self.look(batch.inputs.flatten(2)), state, batch.lengths)
        return self.readout(hidden), state
