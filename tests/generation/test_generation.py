"""Generation: greedy, sampled and by beam search, alone and in a batch, with any head."""

from itertools import product

import pytest
import torch
from outside.reversal import EncoderDecoder, Reversal

from rnnlab import cells
from rnnlab.generation import Stream, beam_search, generate, sequences, write
from rnnlab.heads import Bernoulli, Categorical, Gaussian, Mixture
from rnnlab.interface import InputError, Tokens, Vectors
from rnnlab.models.sequence_model import SequenceModel

END = 0


def language_model(size=6, seed=0, scale=3.0):
    """An untrained model with outputs that differ enough to have clear preferences."""
    torch.manual_seed(seed)
    model = SequenceModel(Tokens(size), size, cells.find("gru"), hidden_size=16).eval().double()
    with torch.no_grad():
        model.readout.weight.mul_(scale)
        model.stack.layers[0].cell.W.mul_(2)
    return model, Categorical(size)


def log_probability(model, prompt, tokens):
    """That of ``tokens`` after a prompt, by one forward pass."""
    from rnnlab.interface import Batch

    inputs = torch.tensor([*prompt, *tokens]).unsqueeze(1)
    outputs = model(Batch(inputs, inputs))[0][:, 0].log_softmax(-1)
    return float(sum(outputs[len(prompt) - 1 + i, token] for i, token in enumerate(tokens)).detach())


def tokens_of(found):
    return [sequence.tolist() for sequence in found]


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(end, seed):
    model, head = language_model(seed=seed)
    prompt = torch.randint(6, (3, 20), generator=torch.Generator().manual_seed(seed))
    greedy = write(model, head, prompt, steps=30, end=end)
    found = beam_search(model, head, prompt, steps=30, beam_size=1, end=end)
    assert tokens_of(greedy) == [one[0].tokens.tolist() for one in found]


def test_a_beam_of_one_is_greedy_where_classes_are_equal():
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def begin(self, source=None, source_lengths=None, batch_size=1):
            return (torch.zeros(batch_size),)

        def step(self, inputs, state):
            return torch.tensor([0.0, 1.0, 1.0, 1.0]).expand(len(inputs), -1), state

    prompt = torch.zeros(1, 2, dtype=torch.int64)
    greedy = tokens_of(write(Flat(), Categorical(4), prompt, steps=4))
    assert greedy == [[1] * 4] * 2
    assert tokens_of(write(Flat(), Categorical(4), prompt, steps=4, beam_size=3))[0] == [1] * 4
    found = beam_search(Flat(), Categorical(4), prompt, steps=4, beam_size=1)
    assert [one[0].tokens.tolist() for one in found] == greedy


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all_sequences(length_penalty, seed):
    """Of three classes, one of which ends, there are few enough sequences of up to four steps to score them all."""
    model, head = language_model(size=3, seed=seed, scale=1.5)
    steps, prompt = 4, [1, 2]
    every = [(*body, END) for length in range(steps) for body in product((1, 2), repeat=length)]
    scored = {tokens: log_probability(model, prompt, tokens) / len(tokens) ** length_penalty for tokens in every}
    best = max(scored, key=scored.get)
    found = beam_search(
        model,
        head,
        torch.tensor(prompt).unsqueeze(1),
        steps=steps,
        beam_size=100,
        end=END,
        length_penalty=length_penalty,
    )[0]
    assert len(found) == len(every)
    assert (*found[0].tokens.tolist(), END) == best
    assert found[0].score == pytest.approx(scored[best], abs=1e-6)
    for one in found:
        assert one.log_probability == pytest.approx(
            log_probability(model, prompt, (*one.tokens.tolist(), END)), abs=1e-5
        )


@pytest.mark.parametrize("way", ["greedy", "sampled", "beam"])
def test_a_batch_gives_each_member_what_it_gets_alone(way):
    model, head = language_model(size=9)
    prompt = torch.randint(9, (2, 64), generator=torch.Generator().manual_seed(0))

    def run(prompt, seeds):
        if way == "beam":
            return tokens_of(write(model, head, prompt, steps=25, end=END, beam_size=4))
        temperature = 0.0 if way == "greedy" else 0.8
        steps = generate(model, head, prompt, steps=25, temperature=temperature, top_k=5, seeds=seeds, end=END)
        return tokens_of(sequences(steps, prompt.shape[1], END))

    together = run(prompt, list(range(64)))
    assert together == [run(prompt[:, b : b + 1], [b])[0] for b in range(64)]
    assert len({tuple(one) for one in together}) > 20
    assert min(map(len, together)) < max(map(len, together))


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_source_is_read_once_and_its_padding_never(beam_size):
    torch.manual_seed(0)
    task = Reversal()
    model = EncoderDecoder(task.input, task.output_size, cells.find("gru"), "auto", task.source, hidden_size=16).eval()
    with torch.no_grad():
        model.readout.weight.mul_(4)
    batch = task.batch("valid", 0)
    given = {"steps": 8, "end": task.end, "beam_size": beam_size}

    def run(source, rows):
        return tokens_of(
            write(
                model,
                task.head,
                batch.inputs[:1, rows],
                source=source[:, rows],
                source_lengths=batch.source_lengths[rows],
                **given,
            )
        )

    together = run(batch.source, slice(None))
    other = batch.source.clone()
    other[torch.arange(len(other)).unsqueeze(1) >= batch.source_lengths] = 3
    assert run(other, slice(None)) == together
    assert [run(batch.source, slice(b, b + 1))[0] for b in range(10)] == together[:10]


@pytest.mark.parametrize("head", [Bernoulli(4), Gaussian(3), Mixture(2, 3, pen=True)], ids=lambda h: type(h).__name__)
def test_vectors_are_fed_back(head):
    torch.manual_seed(0)
    model = SequenceModel(Vectors(head.size), head.features, cells.find("lstm"), hidden_size=8).eval()
    prompt = torch.randn(3, 5, head.size)
    written = list(generate(model, head, prompt, steps=40, temperature=1.0, seeds=range(5)))
    assert [step.shape for step in written] == [(5, head.size)] * 40
    alone = list(generate(model, head, prompt[:, 2:3], steps=40, temperature=1.0, seeds=[2]))
    torch.testing.assert_close(torch.stack(alone)[:, 0], torch.stack(written)[:, 2])
    # What was drawn is what the model read: a forward pass over it gives the outputs from which the last was drawn.
    stream = Stream(model, head, model.begin(batch_size=5))
    stream.read(torch.cat([prompt, torch.stack(written)[:-1]]))
    mode = head.draw(stream.outputs, 0.0, 0, torch.Generator())
    greedy = next(generate(model, head, torch.cat([prompt, torch.stack(written)[:-1]]), steps=1))
    torch.testing.assert_close(mode, greedy)


def test_generation_stops_when_all_have_ended():
    model, head = language_model()
    prompt = torch.randint(6, (1, 30), generator=torch.Generator().manual_seed(0))
    written = list(generate(model, head, prompt, steps=2000, temperature=1.0, end=END))
    assert len(written) < 2000
    last = torch.stack(written)
    for sequence, whole in zip(sequences(written, 30, END), last.unbind(1), strict=True):
        assert END not in sequence
        assert set(whole[len(sequence) :].tolist()) <= {END}


def test_bad_input_is_named():
    model, head = language_model()
    nothing = torch.empty(0, 1, dtype=torch.int64)
    with pytest.raises(InputError, match="the prompt is empty"):
        list(generate(model, head, nothing, steps=3))
    with pytest.raises(InputError, match="the prompt is empty"):
        beam_search(model, head, nothing, steps=3, beam_size=2)
    with pytest.raises(InputError, match="beam_size=0 must be at least 1"):
        beam_search(model, head, nothing, steps=3, beam_size=0)
    with pytest.raises(InputError, match="requires a categorical head, got Gaussian"):
        beam_search(model, Gaussian(2), nothing, steps=3, beam_size=2)
