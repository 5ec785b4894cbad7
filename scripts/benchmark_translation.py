"""Measure the training speed of the encoder-decoder against the same model built from torch.nn.

python scripts/benchmark_translation.py [corpus=random] [hidden_size=256] [batch_size=64] [rounds=20]
    [vocabulary=6000] [source=9] [target=9]

The other model has ``nn.Embedding``, a bidirectional ``nn.GRU`` as encoder, an ``nn.GRU`` as decoder and additive
attention written by hand, as in PyTorch's tutorials. Both have the same sizes; their training steps alternate in one
process. With ``corpus=random``, both train on the same random tokens, with the given vocabulary and lengths. With
``corpus=numbers`` or ``tatoeba``, each trains on its usual batches: rnnlab's task puts pairs of similar
length together, and the other model gets pairs in random order. rnnlab's model uses rnnlab's AdamW, the other torch's
with its defaults. Input feeding is measured as well: there, the other model is a loop over ``nn.GRUCell``.
"""

import os
import sys
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rnnlab.cells import find
from rnnlab.interface import Batch, Tokens
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.tasks.text.translation import Translation
from rnnlab.training.device import machine
from rnnlab.training.optimizers import adamw

WARM_UP = 3
"""Number of training steps that are not measured."""


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
    options = {"corpus": "random", "hidden_size": "256", "batch_size": "64", "rounds": "20"}
    options |= {"vocabulary": "6000", "source": "9", "target": "9"}
    given = dict(argument.split("=") for argument in arguments)
    if unknown := given.keys() - options.keys():
        sys.exit(f"unknown: {', '.join(unknown)}; options: {', '.join(options)}")
    options |= given
    torch.set_num_threads(1)
    corpus = options.pop("corpus")
    sizes = {name: int(value) for name, value in options.items()}
    batches = random_batches(sizes) if corpus == "random" else corpus_batches(corpus, sizes)
    print(f"{machine(torch.device('cpu'))}, one thread, corpus={corpus}, {sizes}")
    print("| GRU, additive attention | rnnlab, tokens/s | torch.nn, tokens/s | ratio |\n|---|---|---|---|")
    for input_feeding in (False, True):
        ours, others = measure(sizes, input_feeding, batches)
        name = "with input feeding" if input_feeding else "without input feeding"
        print(f"| {name} | {ours:,.0f} | {others:,.0f} | {ours / others:.2f} |", flush=True)


def measure(sizes: dict[str, int], input_feeding: bool, batches: list[tuple[Batch, Batch]]) -> tuple[float, float]:
    """Return the tokens per second of training of both models, without padding."""
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
    speeds: dict[str, list[float]] = {"ours": [], "other": []}
    for number, pair in enumerate(batches):
        for (name, model), batch in zip(models.items(), pair, strict=True):
            started = perf_counter()
            outputs = model(batch)
            loss = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten())
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            if number >= WARM_UP:
                speeds[name].append(batch.num_tokens / (perf_counter() - started))
    return median(speeds["ours"]), median(speeds["other"])


def random_batches(sizes: dict[str, int]) -> list[tuple[Batch, Batch]]:
    """Return batches of random tokens with sources of different lengths, the same for both models."""
    torch.manual_seed(0)
    found = []
    for _ in range(sizes["rounds"] + WARM_UP):
        source = torch.randint(sizes["vocabulary"], (sizes["source"], sizes["batch_size"]))
        lengths = torch.randint(max(1, sizes["source"] // 2), sizes["source"] + 1, (sizes["batch_size"],))
        lengths[0] = sizes["source"]
        inputs, targets = torch.randint(sizes["vocabulary"], (2, sizes["target"], sizes["batch_size"])).unbind()
        found.append((Batch(inputs, targets, source=source, source_lengths=lengths),) * 2)
    return found


def corpus_batches(corpus: str, sizes: dict[str, int]) -> list[tuple[Batch, Batch]]:
    """Return batches of a corpus of the task translation: for torch.nn's model, pairs in random order.

    rnnlab's model gets the batches of the task, which have pairs of similar length. ``vocabulary`` is set to the size
    of the larger vocabulary, and ``tatoeba`` is limited to eight words.
    """
    limit = {"max_length": 8, "min_count": 3} if corpus == "tatoeba" else {}
    task = Translation(data_root=os.environ.get("RNNLAB_DATA", "data"), corpus=corpus, **limit)
    task.batch_size = sizes["batch_size"]
    sizes["vocabulary"] = max(task.source.size, task.input.size)
    order = torch.randperm(task.count("train"), generator=torch.Generator().manual_seed(0))
    chosen = order.split(task.batch_size)
    steps = range(sizes["rounds"] + WARM_UP)
    return [(task.batch("train", step), task.together("train", chosen[step])) for step in steps]


if __name__ == "__main__":
    main(sys.argv[1:])
