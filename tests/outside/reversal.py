"""A task and a model from outside of the shape "sequence in, sequence out": read a string, write it backwards."""

import torch
from torch import Tensor, nn

from rnnlab.heads import IGNORE, Categorical
from rnnlab.interface import Batch, Images, Mean, Metric, Tokens, Vectors
from rnnlab.layers import Stack
from rnnlab.models import CellFactory, Model
from rnnlab.tasks import Task
from rnnlab.trees import State

SYMBOLS, END, START = 8, 8, 9


class Reversal(Task):
    """Read a string whole, then write it backwards and end.

    source   c a b
    inputs   START b a c
    targets  b a c END
    """

    metrics = {
        "loss": Metric("nats per symbol"),
        "accuracy": Metric("share of symbols", better="higher"),
        "exact": Metric("share of strings written without a mistake", better="higher"),
    }
    monitor = "exact"
    source = Tokens(SYMBOLS)
    input = Tokens(SYMBOLS + 2)
    head = Categorical(SYMBOLS + 1)
    end = END

    def __init__(self, seed: int = 0, data_root: str = "data", *, longest: int = 6, batch_size: int = 64) -> None:
        super().__init__(seed, data_root)
        self.longest, self.batch_size = longest, batch_size

    def num_batches(self, split: str) -> int:
        return 2

    def batch(self, split: str, step: int) -> Batch:
        draw = self.generator(split, step)
        lengths = torch.randint(1, self.longest + 1, (self.batch_size,), generator=draw)
        source = torch.randint(SYMBOLS, (int(lengths.max()), self.batch_size), generator=draw)
        targets = torch.full((len(source) + 1, self.batch_size), IGNORE)
        for row, length in enumerate(lengths.tolist()):
            targets[:length, row] = source[:length, row].flip(0)
            targets[length, row] = END
        inputs = torch.cat([torch.full_like(targets[:1], START), targets[:-1].clamp(min=0)])
        return Batch(inputs, targets, lengths + 1, lengths + 1, source=source, source_lengths=lengths)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        scored = batch.targets != IGNORE
        right = (outputs.argmax(-1) == batch.targets) & scored
        return {"accuracy": Mean(right.sum(), scored.sum())}

    def steps_to_write(self, split: str) -> int:
        return self.longest + 2

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        wanted = []
        for step in range(self.num_batches(split)):
            batch = self.batch(split, step)
            rows = zip(batch.targets.t(), batch.source_lengths, strict=True)
            wanted += [row[:length].tolist() for row, length in rows]
        right = [said.tolist() == string for said, string in zip(written, wanted, strict=True)]
        return {"exact": sum(right) / len(right)}


class EncoderDecoder(Model):
    """One stack reads, another writes and at each step attends to what was read (Luong et al., 2015)."""

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        source: Tokens | Vectors | Images | None = None,
        *,
        hidden_size: int = 64,
        num_layers: int = 1,
    ) -> None:
        super().__init__(input, output_size, cell, backend, source)
        self.read = nn.Embedding(source.size, hidden_size)
        self.write = nn.Embedding(input.size, hidden_size)
        self.encoder = Stack.build(cell, hidden_size, hidden_size, num_layers, backend=backend)
        self.decoder = Stack.build(cell, hidden_size, hidden_size, num_layers, backend=backend)
        self.query = nn.Linear(self.decoder.output_size, self.encoder.output_size, bias=False)
        self.readout = nn.Linear(self.decoder.output_size + self.encoder.output_size, output_size)

    def begin(self, source: Tensor | None = None, source_lengths: Tensor | None = None, batch_size: int = 1) -> State:
        memory, state = self.encoder(self.read(source), None, source_lengths)
        if source_lengths is None:
            source_lengths = torch.full((batch_size,), len(source), device=memory.device)
        present = torch.arange(len(memory), device=memory.device) < source_lengths.unsqueeze(1)  # [B, S]
        return state, memory.transpose(0, 1), present

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            state = self.begin(batch.source, batch.source_lengths, batch.batch_size)
        decoder_state, memory, present = state
        hidden, decoder_state = self.decoder(self.write(batch.inputs), decoder_state, batch.lengths)
        scores = torch.einsum("tbh,bsh->tbs", self.query(hidden), memory)
        weights = scores.masked_fill(~present, -torch.inf).softmax(-1)
        context = torch.einsum("tbs,bsh->tbh", weights, memory)
        return self.readout(torch.cat([hidden, context], -1)), (decoder_state, memory, present)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, state = self(Batch(inputs.unsqueeze(0), inputs), state)
        return outputs[0], state
