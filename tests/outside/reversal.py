"""A task and a model from outside of the shape "many to many, unaligned": reverse a token string with attention."""

import torch
from torch import Tensor, nn

from rnnlab.interface import Batch, Images, Mean, Metric, State, Tokens, Vectors
from rnnlab.layers import Stack
from rnnlab.models import CellFactory, Model
from rnnlab.outputs import IGNORE, categorical_loss
from rnnlab.tasks import Task

SYMBOLS, END = 8, 8


class Reversal(Task):
    """Read a string, write it backwards and then an end mark.

    inputs   c a b
    targets  b a c END
    """

    metrics = {"loss": Metric("nats per symbol"), "accuracy": Metric("share of symbols", better="higher")}
    monitor = "accuracy"

    def __init__(self, seed: int = 0, data_root: str = "data", *, longest: int = 6, batch_size: int = 64) -> None:
        super().__init__(seed, data_root)
        self.longest, self.batch_size = longest, batch_size
        self.input = Tokens(SYMBOLS)
        self.output_size = SYMBOLS + 1

    def num_batches(self, split: str) -> int:
        return 2

    def batch(self, split: str, step: int) -> Batch:
        draw = self.generator(split, step)
        lengths = torch.randint(1, self.longest + 1, (self.batch_size,), generator=draw)
        inputs = torch.randint(SYMBOLS, (int(lengths.max()), self.batch_size), generator=draw)
        targets = torch.full((len(inputs) + 1, self.batch_size), IGNORE)
        for row, length in enumerate(lengths.tolist()):
            targets[:length, row] = inputs[:length, row].flip(0)
            targets[length, row] = END
        return Batch(inputs, targets, lengths, target_lengths=lengths + 1)

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        return categorical_loss(outputs, batch.targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        scored = batch.targets != IGNORE
        right = (outputs.argmax(-1) == batch.targets) & scored
        return {"accuracy": Mean(right.sum(), scored.sum())}


class EncoderDecoder(Model):
    """One stack reads, another writes and at each step attends to what was read (Luong et al., 2015)."""

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        *,
        hidden_size: int = 64,
        num_layers: int = 1,
    ) -> None:
        super().__init__(input, output_size, cell, backend)
        self.read = nn.Embedding(input.size, hidden_size)
        self.write = nn.Embedding(output_size + 1, hidden_size)  # one more: the mark that begins a string
        self.encoder = Stack.build(cell, hidden_size, hidden_size, num_layers, backend=backend)
        self.decoder = Stack.build(cell, hidden_size, hidden_size, num_layers, backend=backend)
        self.query = nn.Linear(self.decoder.output_size, self.encoder.output_size, bias=False)
        self.readout = nn.Linear(self.decoder.output_size + self.encoder.output_size, output_size)

    def encode(self, batch: Batch) -> State:
        memory, state = self.encoder(self.read(batch.inputs), None, batch.lengths)
        steps = torch.arange(len(memory), device=memory.device)
        present = steps < batch.lengths.unsqueeze(1)  # [B, S]
        return state, memory.transpose(0, 1), present

    def initial_state(self, batch_size: int) -> State:
        raise NotImplementedError("a string is written only after one was read")

    def decode(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Tokens ``[T, B]``, each the symbol before the one to write."""
        decoder_state, memory, present = state
        hidden, decoder_state = self.decoder(self.write(tokens), decoder_state)
        scores = torch.einsum("tbh,bsh->tbs", self.query(hidden), memory)
        weights = scores.masked_fill(~present, -torch.inf).softmax(-1)
        context = torch.einsum("tbs,bsh->tbh", weights, memory)
        return self.readout(torch.cat([hidden, context], -1)), (decoder_state, memory, present)

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        start = torch.full_like(batch.targets[:1], self.output_size)
        before = torch.cat([start, batch.targets[:-1].clamp(min=0)])
        return self.decode(before, self.encode(batch))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, state = self.decode(inputs.unsqueeze(0), state)
        return outputs[0], state
