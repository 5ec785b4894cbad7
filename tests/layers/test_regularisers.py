"""Regularisers around cells, and what stands between layers."""

import pytest
import torch
from torch import nn

from rnnlab import cells, config
from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.layers import (
    Bidirectional,
    Recurrent,
    Stack,
    VariationalDropout,
    WeightDrop,
    Zoneout,
    from_torch,
    regularise,
)
from rnnlab.layers.regularisers import _bernoulli
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.training.build import build

T, B, F, H = 5, 3, 4, 6
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, a few additions in another order


def make(name="lstm", input_size=F, hidden_size=H, **options):
    torch.manual_seed(1)
    return cells.create(name, input_size=input_size, hidden_size=hidden_size, **options).double()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_nothing_asked_for_is_the_cell_itself():
    cell = make()
    assert regularise(cell) is cell


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_variational_dropout_has_one_mask_for_all_steps(backend):
    cell = make("rnn")
    layer = Recurrent(VariationalDropout(cell, 0.4, 0.4, 0.4), backend)
    inputs, h = draw(T, B, F), draw(B, H)
    torch.manual_seed(3)
    outputs, (final,) = layer(inputs, (h,))
    torch.manual_seed(3)  # the masks, drawn in this order
    kept = [torch.nn.functional.dropout(torch.ones(B, n, dtype=torch.float64), 0.4) for n in (F, H, H)]
    for mask in kept:
        assert set(mask.unique().tolist()) == {0.0, 1 / 0.6}
    for t in range(T):
        h = torch.tanh((inputs[t] * kept[0]) @ cell.W.T + (h * kept[1]) @ cell.U.T + cell.b)
        torch.testing.assert_close(outputs[t], h * kept[2], **EXACT)
    torch.testing.assert_close(final, h, **EXACT)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_zoneout_keeps_units_by_chance(backend):
    cell = make()
    layer = Recurrent(Zoneout(cell, [0.1, 0.5]), backend)
    inputs, h, c = draw(T, B, F), draw(B, H), draw(B, H)
    torch.manual_seed(3)
    outputs, _ = layer(inputs, (h, c))
    torch.manual_seed(3)
    keep_h, keep_c = (_bernoulli(T, h, z) for z in (0.1, 0.5))
    for t in range(T):
        i, f, g, o = (inputs[t] @ cell.W.T + h @ cell.U.T + cell.b).chunk(4, 1)
        new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = torch.where(keep_h[t] == 1, h, o.sigmoid() * new_c.tanh())  # of the c before zoneout, as in equation 4
        c = torch.where(keep_c[t] == 1, c, new_c)
        torch.testing.assert_close(outputs[t], h, **EXACT)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9])
def test_masks_are_one_with_their_probability(rate):
    torch.manual_seed(0)
    mask = _bernoulli(50, torch.zeros(31, 67), rate)
    assert mask.shape == (50, 31, 67)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    # Four standard errors of a mean, and the nearest 1/65536.
    assert abs(float(mask.mean()) - rate) <= 4 * (rate * (1 - rate) / mask.numel()) ** 0.5 + 2**-16
    assert rate == 0 or not torch.equal(mask[0], mask[1])


def test_a_mask_of_nearly_nothing_but_ones():
    assert _bernoulli(50, torch.zeros(31, 67), 1 - 1e-7).mean() > 0.999


def test_zoneout_in_evaluation_takes_the_expected_update():
    cell = make("gru")
    layer, plain = Recurrent(Zoneout(cell, [0.25])).eval(), Recurrent(cell)
    inputs, h = draw(1, B, F), draw(B, H)
    expected = 0.25 * h + 0.75 * plain(inputs, (h,))[0][0]
    torch.testing.assert_close(layer(inputs, (h,))[0][0], expected, **EXACT)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_weight_drop_drops_weights_once_a_sequence(backend):
    cell = make("rnn")
    layer = Recurrent(WeightDrop(cell, 0.3), backend)
    inputs, h = draw(T, B, F), draw(B, H)
    torch.manual_seed(3)
    outputs, _ = layer(inputs, (h,))
    torch.manual_seed(3)
    U = torch.nn.functional.dropout(cell.U, 0.3)
    for t in range(T):
        h = torch.tanh(inputs[t] @ cell.W.T + h @ U.T + cell.b)
        torch.testing.assert_close(outputs[t], h, **EXACT)


def test_what_is_not_learned_is_not_dropped_from():
    cell = make("lmu")
    _, _, A, B, U, V = WeightDrop(cell, 0.5).prepare(draw(T, 1, F))[0]
    assert torch.equal(A, cell.A)
    assert torch.equal(B, cell.B)
    assert all((part == 0).any() for part in (U, V))


@pytest.mark.parametrize("wrap", [lambda c: VariationalDropout(c, 0.5, 0.5, 0.5), lambda c: WeightDrop(c, 0.5)])
def test_dropout_does_nothing_in_evaluation(wrap):
    cell = make()
    inputs = draw(T, B, F)
    torch.testing.assert_close(Recurrent(wrap(cell)).eval()(inputs)[0], Recurrent(cell)(inputs)[0], **EXACT)


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (
            lambda c: VariationalDropout(c, recurrent=1.0),
            "recurrent_dropout=1.0 must be at least 0 and below 1",
        ),
        (lambda c: WeightDrop(c, -0.1), "weight_drop=-0.1 must be"),
        (lambda c: WeightDrop(make("mingru"), 0.1), "nothing to drop: MinGRU has no recurrent matrix"),
        (lambda c: WeightDrop(make("s4d"), 0.1), "nothing to drop: S4D has no recurrent matrix"),
        (
            lambda c: Zoneout(c, [0.1, 0.2, 0.3]),
            r"zoneout=\[0.1, 0.2, 0.3\] must have one rate, or 2 for the states h, c",
        ),
        (lambda c: Stack([Recurrent(c)], norm="layer"), "needs num_layers >= 2"),
        (lambda c: Stack([Recurrent(c)] * 2, norm="batch"), "norm='batch' is not one of none, layer, rms"),
        (
            lambda c: Stack([Recurrent(c), Recurrent(make("rnn", H, 3))], connection="residual"),
            "joins 6 and 3 features; the numbers must be equal",
        ),
        (
            lambda c: Stack.build(lambda f, h: make("rnn", f, h), F, H, 1, bidirectional="both"),
            "is not one of none, con",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrap, says):
    with pytest.raises(InputError, match=says):
        wrap(make())


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_two_directions_are_torch_s(kind):
    torch.manual_seed(0)
    module = kind(F, H, num_layers=2, bidirectional=True).double()
    stack = from_torch(module)
    lengths, inputs = torch.tensor([2, 5, 3]), draw(T, B, F)
    packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False)
    expected, final = module(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected)
    outputs, state = stack(inputs, None, lengths)
    torch.testing.assert_close(outputs, expected, **EXACT)
    hidden = torch.stack([direction[0] for layer in state for direction in layer])
    torch.testing.assert_close(hidden, final[0] if kind is nn.LSTM else final, **EXACT)


def test_the_sum_of_two_directions():
    one, other = Recurrent(make("gru")), Recurrent(make("rnn"), reverse=True)
    inputs = draw(T, B, F)
    layer = Bidirectional(one, other, "sum")
    torch.testing.assert_close(layer(inputs)[0], one(inputs)[0] + other(inputs)[0])
    assert layer.output_size == H


def test_residual_highway_and_norm_by_hand():
    low, high = Recurrent(make("gru")), Recurrent(make("rnn", H, H))
    inputs = draw(T, B, F)
    x = low(inputs)[0]
    torch.testing.assert_close(Stack([low, high], connection="residual")(inputs)[0], x + high(x)[0], **EXACT)
    stack = Stack([low, high], connection="highway", norm="layer").double()
    gate = stack.connections[0].gate
    assert torch.equal(gate.bias, torch.full((H,), -1.0, dtype=torch.float64))
    g = (x @ gate.weight.T + gate.bias).sigmoid()
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(stack(inputs)[0], g * high(normed)[0] + (1 - g) * x, **EXACT)
    rms = Stack([low, high], norm="rms").double()
    normed = x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()
    torch.testing.assert_close(rms(inputs)[0], high(normed)[0], **EXACT)


ALL = {
    "num_layers": 2,
    "input_dropout": 0.1,
    "recurrent_dropout": 0.1,
    "output_dropout": 0.1,
    "zoneout": [0.1],
    "weight_drop": 0.1,
    "norm": "rms",
    "connection": "highway",
    "initial_state": "learned",
}


@pytest.mark.parametrize("bidirectional", ["none", "concatenate", "sum"])
def test_every_option_at_once(bidirectional):
    lstm = lambda f, h: make("lstm", f, h)  # noqa: E731
    model = SequenceModel(Vectors(F), 2, lstm, hidden_size=H, bidirectional=bidirectional, **ALL).double()
    batch = Batch(draw(T, B, F), torch.zeros(T, B), lengths=torch.tensor([5, 1, 3]))
    outputs, _ = model(batch)
    outputs.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert {layer.choice.name for layer in model.modules() if isinstance(layer, Recurrent)} == {"fused"}


def test_the_options_are_those_of_the_command_line():
    options = [f"model.{name}={value}" for name, value in ALL.items()]
    _, model = build(config.compose(["task=hello", "cell=lstm", "model.hidden_size=8", *options]))
    assert [type(layer.cell) for layer in model.stack.layers] == [VariationalDropout] * 2


def test_two_directions_do_not_carry_a_stream():
    task, model = build(config.compose(["model.bidirectional=sum", "model.hidden_size=8"]))
    batch = task.batch("train", 0)
    with pytest.raises(InputError, match="can neither continue a stream nor generate"):
        model(batch, model.begin(batch_size=batch.batch_size))
    with pytest.raises(InputError, match=r"use model\.bidirectional=none, or"):
        model.step(batch.inputs[0], model.begin(batch_size=batch.batch_size))
