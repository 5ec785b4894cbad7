"""Measure the training speed of the encoder-decoder against the same model built from torch.nn.

python scripts/benchmark_translation.py [hidden_size=256] [batch_size=64] [vocabulary=6000] [source=9] [target=9]
    [rounds=20]

The other model has ``nn.Embedding``, a bidirectional ``nn.GRU`` as encoder, an ``nn.GRU`` as decoder and additive
attention written by hand, as in PyTorch's tutorials. Both have the same sizes and train on the same random batches;
their training steps alternate in one process. rnnlab's model uses rnnlab's AdamW, the other torch's with its defaults.
Input feeding is measured as well: there, the other model is a loop over ``nn.GRUCell``.
"""

import sys
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rnnlab.cells import find
from rnnlab.interface import Batch, Tokens
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.training.device import machine
from rnnlab.training.optimizers import adamw


class Handwritten(nn.Module):
    """The model of the class `EncoderDecoder` from the layers of torch.nn, without lengths of the target."""

    def __init__(self, vocabulary: int, hidden_size: int, embedding_size: int, input_feeding: bool) -> None:
        super().__init__()
        self.read = nn.Embedding(vocabulary, embedding_size)
        self.write = nn.Embedding(vocabulary, embedding_size)
        self.encoder = nn.GRU(embedding_size, hidden_size, bidirectional=True)
        self.input_feeding = input_feeding
        width = embedding_size + hidden_size * input_feeding
        self.decoder = nn.GRUCell(width, hidden_size) if input_feeding else nn.GRU(width, hidden_size)
        self.W, self.U = nn.Linear(hidden_size, hidden_size), nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.v = nn.Linear(hidden_size, 1, bias=False)
        self.combine = nn.Linear(3 * hidden_size, hidden_size, bias=False)
        self.readout = nn.Linear(hidden_size, vocabulary)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits ``[T, B, vocabulary]``."""
        lengths = batch.source_lengths
        packed = nn.utils.rnn.pack_padded_sequence(self.read(batch.source), lengths, enforce_sorted=False)
        hidden, final = self.encoder(packed)
        memory = nn.utils.rnn.pad_packed_sequence(hidden)[0].transpose(0, 1)
        keys, present = self.U(memory), torch.arange(memory.shape[1]) < lengths.unsqueeze(1)
        inputs = self.write(batch.inputs)
        if not self.input_feeding:
            hidden, _ = self.decoder(inputs, final[1:])
            return self.readout(self.attend(hidden, memory, keys, present))
        state, vector, vectors = final[1], memory.new_zeros(final[1].shape), []
        for one in inputs:
            state = self.decoder(torch.cat([one, vector], -1), state)
            vector = self.attend(state.unsqueeze(0), memory, keys, present)[0]
            vectors.append(vector)
        return self.readout(torch.stack(vectors))

    def attend(self, hidden: Tensor, memory: Tensor, keys: Tensor, present: Tensor) -> Tensor:
        """Return the attentional vectors of decoder outputs ``[T, B, H]``."""
        by_sequence = hidden.transpose(0, 1)
        scores = self.v((self.W(by_sequence).unsqueeze(2) + keys.unsqueeze(1)).tanh()).squeeze(-1)
        weights = scores.masked_fill(~present.unsqueeze(1), -torch.inf).softmax(-1)
        context = (weights @ memory).transpose(0, 1)
        return self.combine(torch.cat([hidden, context], -1)).tanh()


def main(arguments: list[str]) -> None:
    """Print the times of a training step."""
    sizes = {"hidden_size": 256, "batch_size": 64, "vocabulary": 6000, "source": 9, "target": 9, "rounds": 20}
    given = dict(argument.split("=") for argument in arguments)
    if unknown := given.keys() - sizes.keys():
        sys.exit(f"unknown: {', '.join(unknown)}; options: {', '.join(sizes)}")
    sizes |= {name: int(value) for name, value in given.items()}
    torch.set_num_threads(1)
    print(f"{machine(torch.device('cpu'))}, one thread, {sizes}")
    print("| model | rnnlab, ms | torch.nn, ms | ratio |\n|---|---|---|---|")
    for input_feeding in (False, True):
        ours, others = measure(sizes, input_feeding)
        name = "with input feeding" if input_feeding else "without input feeding"
        print(f"| GRU, additive attention, {name} | {1e3 * ours:.1f} | {1e3 * others:.1f} | {others / ours:.2f} |")


def measure(sizes: dict[str, int], input_feeding: bool) -> tuple[float, float]:
    """Return the median seconds of a training step of both models."""
    torch.manual_seed(0)
    vocabulary, hidden_size = sizes["vocabulary"], sizes["hidden_size"]
    ours = EncoderDecoder(
        Tokens(vocabulary),
        vocabulary,
        find("gru"),
        "auto",
        Tokens(vocabulary),
        hidden_size=hidden_size,
        embedding_size=128,
        input_feeding=input_feeding,
    )
    other = Handwritten(vocabulary, hidden_size, 128, input_feeding)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, other)]
    assert abs(counts[0] / counts[1] - 1) < 0.01, f"the models have {counts} parameters"
    models = {"ours": lambda batch: ours(batch)[0], "other": other}
    optimizers = {"ours": adamw(ours.parameters(), lr=1e-3), "other": torch.optim.AdamW(other.parameters(), 1e-3)}
    times: dict[str, list[float]] = {"ours": [], "other": []}
    for round_number in range(sizes["rounds"] + 3):
        batch = draw(sizes)
        for name, model in models.items():
            started = perf_counter()
            outputs = model(batch)
            loss = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten())
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            if round_number >= 3:
                times[name].append(perf_counter() - started)
    return median(times["ours"]), median(times["other"])


def draw(sizes: dict[str, int]) -> Batch:
    """Return a random batch with sources of different lengths."""
    shape = (sizes["target"], sizes["batch_size"])
    source = torch.randint(sizes["vocabulary"], (sizes["source"], sizes["batch_size"]))
    lengths = torch.randint(max(1, sizes["source"] // 2), sizes["source"] + 1, (sizes["batch_size"],))
    lengths[0] = sizes["source"]
    inputs, targets = torch.randint(sizes["vocabulary"], (2, *shape)).unbind()
    return Batch(inputs, targets, torch.full((shape[1],), shape[0]), source=source, source_lengths=lengths)


if __name__ == "__main__":
    main(sys.argv[1:])
