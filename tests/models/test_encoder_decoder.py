"""The encoder-decoder against its equations, written out for one sequence, and what a user may ask of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiers
import torch
from outside.reversal import END, START, Reversal

from rnnlab import cells
from rnnlab.config import compose
from rnnlab.contracts import check_model
from rnnlab.generation import beam_search, write
from rnnlab.interface import Batch, Images, InputError, Tokens, Vectors
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.tasks.memory.adding import Adding
from rnnlab.training.build import build_model

READ, WRITE, H, E = 7, 5, 6, 4
TOKENS = Tokens(READ)
KINDS = ("none", "additive", "dot", "general")


def build(source=TOKENS, cell="rnn", **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": H, "embedding_size": E} | options
    return EncoderDecoder(Tokens(WRITE), WRITE, partial(cells.find(cell)), "auto", source, **sizes).double()


def batch_of(lengths, source_lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lengths, source_lengths = torch.tensor(lengths), torch.tensor(source_lengths)
    source = torch.randint(READ, (int(source_lengths.max()), len(lengths)), generator=draw)
    inputs = torch.randint(WRITE, (int(lengths.max()), len(lengths)), generator=draw)
    return Batch(inputs, inputs, lengths, lengths, source=source, source_lengths=source_lengths)


def naive(model, source, inputs, attention, input_feeding=False):
    """Outputs ``[T, WRITE]`` and attention weights of one sequence, by the equations, with NumPy and tanh cells."""
    p = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}

    def tanh_cell(name, x, h):
        return np.tanh(p[f"{name}.cell.W"] @ x + p[f"{name}.cell.U"] @ h + p[f"{name}.cell.b"])

    embedded = [p["read.weight"][token] for token in source]
    ahead, back, h = [], [], np.zeros(H)
    for x in embedded:
        h = tanh_cell("encoder.layers.0.forward_layer", x, h)
        ahead.append(h)
    h = np.zeros(H)
    for x in reversed(embedded):
        h = tanh_cell("encoder.layers.0.backward_layer", x, h)
        back.insert(0, h)
    memory = [np.concatenate(pair) for pair in zip(ahead, back, strict=True)]
    outputs, weights, vector = [], [], np.zeros(H)
    for token in inputs:
        x = p["write.weight"][token]
        h = tanh_cell("decoder.layers.0", np.concatenate([x, vector]) if input_feeding else x, h)
        vector = h
        a = np.ones(len(memory))
        if attention == "additive":
            W, b = p["attention.project_query.weight"], p["attention.project_query.bias"]
            U, v = p["attention.project_memory.weight"], p["attention.score"]
            a = np.exp([v @ np.tanh(W @ h + b + U @ m) for m in memory])
        elif attention == "general":
            a = np.exp([h @ p["attention.project_memory.weight"] @ m for m in memory])
        elif attention == "dot":
            a = np.exp([h @ (m[:H] + m[H:]) for m in memory])
        a /= a.sum()
        weights.append(a)
        context = sum(share * m for share, m in zip(a, memory, strict=True))
        vector = np.tanh(p["combine.weight"] @ np.concatenate([h, context]))
        outputs.append(p["readout.weight"] @ vector + p["readout.bias"])
    return np.array(outputs), np.array(weights)


@pytest.mark.parametrize("input_feeding", [False, True])
@pytest.mark.parametrize("attention", KINDS)
def test_outputs_follow_the_equations(attention, input_feeding):
    if attention == "none" and input_feeding:
        return
    model = build(attention=attention, input_feeding=input_feeding).eval()
    lengths, source_lengths = [31, 1, 12, 40], [1, 53, 9, 22]
    batch = batch_of(lengths, source_lengths)
    outputs, _ = model(batch)
    looked = model.attention_weights(batch)
    for row, (length, source_length) in enumerate(zip(lengths, source_lengths, strict=True)):
        source, inputs = batch.source[:source_length, row].tolist(), batch.inputs[:length, row].tolist()
        expected, weights = naive(model, source, inputs, attention, input_feeding)
        np.testing.assert_allclose(outputs[:length, row].detach(), expected, atol=1e-12)
        if attention != "none":
            np.testing.assert_allclose(looked[:length, row, :source_length].detach(), weights, atol=1e-12)
            assert not looked[:, row, source_length:].any()
    assert (looked is None) == (attention == "none")


@pytest.mark.parametrize("attention", KINDS)
def test_gradients_follow_the_equations(attention):
    """Finite differences of the naive loss, for one weight of each tensor."""
    model = build(attention=attention)
    batch = batch_of([9], [11])
    model(batch)[0].square().sum().backward()
    source, inputs = batch.source[:, 0].tolist(), batch.inputs[:, 0].tolist()
    for name, parameter in model.named_parameters():
        place = int(parameter.grad.abs().flatten().argmax())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * 1e-6
                values.append(np.square(naive(model, source, inputs, attention)[0]).sum())
                parameter.view(-1)[place] -= sign * 1e-6
        found = float(parameter.grad.flatten()[place])
        assert found == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(
    "options",
    tiers.every(
        3,
        [
            {},
            {"attention": "dot"},
            {"attention": "general", "num_layers": 2, "connection": "residual", "norm": "layer"},
            {"attention": "none"},
            {"attention": "none", "bidirectional": "none"},
            {"input_feeding": True, "num_layers": 2},
            {"input_feeding": True, "attention": "dot", "bidirectional": "sum"},
            {"bridge": "input", "bidirectional": "none"},
            {"bridge": "both"},
            {"scheduled_sampling": 0.5, "input_feeding": True},
        ],
    ),
    ids=str,
)
def test_the_contract_holds(options):
    check_model("encoder_decoder", task=Reversal, embedding_size=E, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("cell", tiers.quick_if(cells.available(), {"gru", "lstm", "mlstm", "qrnn"}.__contains__))
def test_every_cell_encodes_and_decodes(cell):
    check_model("encoder_decoder", task=Reversal, cell=cell, embedding_size=E)
    check_model("encoder_decoder", task=Reversal, cell=cell, embedding_size=E, input_feeding=True)


def test_padding_of_source_and_inputs_changes_nothing():
    model = build(num_layers=2, input_feeding=True)
    batch = batch_of([3, 8], [2, 10])
    first = model(batch)[0]
    other = replace(batch, source=batch.source.clone(), inputs=batch.inputs.clone())
    other.source[2:, 0] = (other.source[2:, 0] + 1) % READ
    other.inputs[3:, 0] = (other.inputs[3:, 0] + 1) % WRITE
    second = model(other)[0]
    torch.testing.assert_close(second[:3, 0], first[:3, 0], rtol=0, atol=0)
    torch.testing.assert_close(second[:, 1], first[:, 1], rtol=0, atol=0)


@pytest.mark.parametrize("input_feeding", [False, True])
def test_the_final_state_is_that_at_the_end_of_each_sequence(input_feeding):
    model = build(input_feeding=input_feeding).eval()
    batch = batch_of([3, 8], [4, 10])
    _, (state, fed, _) = model(batch)
    alone = Batch(batch.inputs[:3, :1], batch.inputs, source=batch.source[:4, :1])
    _, (expected, expected_fed, _) = model(alone)
    torch.testing.assert_close(state[0][0][0], expected[0][0][0])
    for found, wanted in zip(fed, expected_fed, strict=True):
        torch.testing.assert_close(found[0], wanted[0])


def test_a_source_of_vectors():
    model = build(Vectors(3))
    source = torch.randn(20, 2, 3, dtype=torch.float64)
    inputs = torch.zeros(5, 2, dtype=torch.int64)
    whole, _ = model(Batch(inputs, inputs, source=source, source_lengths=torch.tensor([20, 6])))
    alone, _ = model(Batch(inputs[:, 1:], inputs, source=source[:6, 1:]))
    torch.testing.assert_close(whole[:, 1:], alone)


@pytest.mark.parametrize("attention", ["none", "additive", "dot", "general"])
def test_a_single_image_keeps_a_grid(attention):
    model = build(Images((3, 16, 24), single=True), attention=attention, channels=[8, H])
    source = torch.rand(1, 2, 3, 16, 24, dtype=torch.float64)
    inputs = torch.zeros(5, 2, dtype=torch.int64)
    batch = Batch(inputs, inputs, source=source)
    outputs, _ = model(batch)
    assert outputs.shape == (5, 2, WRITE)
    weights = model.attention_weights(batch)
    if attention == "none":
        assert weights is None
    else:
        assert weights.shape == (5, 2, 4, 6)
        torch.testing.assert_close(weights.sum((2, 3)), torch.ones(5, 2, dtype=torch.float64))
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    other = source.clone()
    other[0, 0] = 0
    changed, _ = model(replace(batch, source=other))
    assert not torch.allclose(changed[:, 0], outputs[:, 0])
    torch.testing.assert_close(changed[:, 1], outputs[:, 1])


def test_a_video_is_read_frame_by_frame_up_to_its_length():
    model = build(Images((3, 16, 16)), channels=[4, 8])
    source = torch.rand(9, 2, 3, 16, 16, dtype=torch.float64)
    inputs = torch.zeros(4, 2, dtype=torch.int64)
    batch = Batch(inputs, inputs, source=source, source_lengths=torch.tensor([9, 5]))
    outputs, _ = model(batch)
    weights = model.attention_weights(batch)
    assert weights.shape == (4, 2, 9)
    assert not weights[:, 1, 5:].any()
    past = source.clone()
    past[5:, 1] = 7.0
    torch.testing.assert_close(model(replace(batch, source=past))[0], outputs, rtol=0, atol=0)
    reordered = source.clone()
    reordered[:5, 1] = source[:5, 1].flip(0)
    assert not torch.allclose(model(replace(batch, source=reordered))[0][:, 1], outputs[:, 1])


def test_scheduled_sampling_reads_own_tokens_at_the_scheduled_rate():
    """With a readout that always writes token 4, the number of 4s among inputs of 0 is the sampling rate."""
    model = build(scheduled_sampling=0.5, sampling_steps=40).train()
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 50.0]))
    read = []
    model.write.register_forward_hook(lambda module, args, result: read.append(args[0]))
    batch = batch_of([30] * 100, [3] * 100)
    batch = replace(batch, inputs=torch.zeros_like(batch.inputs))
    shares = []
    for _ in range(60):
        read.clear()
        model(batch)
        whole = read[-1]
        assert not whole[0].any(), "the first input is never replaced"
        shares.append(float((whole[1:] == 4).double().mean()))
    assert shares[0] == 0
    assert shares[20] == pytest.approx(0.25, abs=0.05)
    assert np.mean(shares[40:]) == pytest.approx(0.5, abs=0.01)
    assert int(model.state_dict()["updates"]) == 60
    read.clear()
    model.eval()(batch)
    assert not read[-1].any(), "evaluation uses teacher forcing"


def test_without_scheduled_sampling_training_is_teacher_forcing():
    batch = batch_of([8, 3], [5, 6])
    plain, none = build().train(), build(scheduled_sampling=1.0, sampling_steps=10**9).train()
    missing = none.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["updates"]
    torch.testing.assert_close(none(batch)[0], plain(batch)[0])


@pytest.mark.parametrize("beam_size", [1, 5])
def test_what_is_written_does_not_depend_on_the_batch(beam_size):
    model = build(cell="lstm").eval()
    batch = batch_of([1] * 64, [1 + row % 23 for row in range(64)])
    head = Reversal.head.__class__(WRITE)
    options = {"steps": 40, "end": 0, "beam_size": beam_size}
    together = write(model, head, batch.inputs[:1], source=batch.source, source_lengths=batch.source_lengths, **options)
    for row in range(0, 64, 7):
        source = batch.source[: batch.source_lengths[row], row : row + 1]
        alone = write(model, head, batch.inputs[:1, row : row + 1], source=source, **options)
        assert alone[0].tolist() == together[row].tolist()


def test_beam_search_finds_a_more_probable_sequence_than_greedy():
    model = build(cell="gru").eval()
    batch = batch_of([1] * 16, [9] * 16)
    head = Reversal.head.__class__(WRITE)
    scores = []
    for size in (1, 5):
        found = beam_search(
            model, head, batch.inputs[:1], steps=12, beam_size=size, source=batch.source, end=0, length_penalty=0.0
        )
        scores.append(sum(best[0].log_probability for best in found))
    assert scores[1] >= scores[0]


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_attention_learns_to_look_where_it_must(cell):
    """Reversing a string: when writing symbol t, attention looks at symbol S - 1 - t or next to it."""
    torch.manual_seed(0)
    task = Reversal(longest=9)
    model = EncoderDecoder(task.input, task.output_size, cells.find(cell), "auto", task.source, hidden_size=48)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 1500)
        batch = task.batch("train", step)
        total, count = task.loss(model(batch)[0], batch)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    batch = task.batch("valid", 0)
    written = write(
        model, task.head, batch.inputs[:1], steps=12, source=batch.source, source_lengths=batch.source_lengths, end=END
    )
    right = [
        said.tolist() == batch.targets[:length, row].tolist()
        for row, (said, length) in enumerate(zip(written, batch.source_lengths.tolist(), strict=True))
    ]
    assert sum(right) >= 0.95 * len(right)
    places = model.attention_weights(batch).argmax(-1)
    mirrored = batch.source_lengths - 1 - torch.arange(len(places)).unsqueeze(1)
    near = ((places - mirrored).abs() <= 1)[mirrored >= 0].double().mean()
    assert near >= 0.9, "attention looks elsewhere"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attention": "multiplicative"}, "'multiplicative' is not one of additive, dot, general, none"),
        ({"bridge": "copy"}, "'copy' is not one of auto, state"),
        ({"attention": "none", "input_feeding": True}, "set model.attention"),
        ({"input_feeding": True, "recurrent_dropout": 0.2}, "step by step"),
        ({"scheduled_sampling": 1.5}, "must be a probability"),
        ({"embedding_size": 0}, "must be at least 1"),
        ({"channels": []}, "at least one positive number"),
        ({"channels": [4] * 6}, "too small for the 6 layers"),
        ({"bidirectional": "both"}, "not one of none, concatenate, sum"),
    ],
)
def test_a_bad_option_gets_one_sentence(options, sentence):
    kind = Images((3, 16, 16), single=True) if "channels" in options else Tokens(READ)
    with pytest.raises(InputError, match=sentence) as caught:
        build(kind, **options)
    assert "\n" not in str(caught.value)


def test_dot_attention_needs_equal_widths_and_a_bridge_needs_a_state():
    with pytest.raises(InputError, match="got 8 and 6; use model"):
        build(Images((3, 16, 16), single=True), attention="dot", channels=[8])
    with pytest.raises(InputError, match="use model"):
        build(Images((3, 16, 16), single=True), bridge="state")


def test_a_task_without_a_source_is_refused():
    with pytest.raises(InputError, match="needs a task with a source"):
        build_model(compose(["task=adding", "model=encoder_decoder"]), Adding())
    with pytest.raises(InputError, match="use model=encoder_decoder"):
        build_model(compose(["task=outside.reversal:Reversal", "model=gru"]), Reversal())


def test_start_and_end_of_the_outside_task_are_what_the_model_reads():
    assert Reversal.end == END
    assert Reversal.input.size > START


def test_resets_and_elapsed_times_are_refused():
    model, batch = build(), batch_of([3, 2], [4, 1])
    for given in ({"fresh": torch.zeros(3, 2, dtype=torch.bool)}, {"elapsed": torch.ones(3, 2)}):
        with pytest.raises(InputError, match="takes neither elapsed times nor resets inside a sequence"):
            model(replace(batch, **given))
    model(replace(batch, fresh=torch.ones(2, dtype=torch.bool)))
