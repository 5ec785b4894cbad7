"""Recurrent dropout: what is masked, and what is carried whole."""

import pytest
import tiers
import torch
from torch import nn
from torch.nn.functional import linear

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.cells.base import input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, VariationalDropout, WeightDrop, Zoneout, regularise
from rnnlab.layers.reads import MaskedReads
from rnnlab.layers.regularisers import _bernoulli
from rnnlab.trees import tensors_of

T, B, F, H = 7, 3, 5, 4
EXACT = {"rtol": 1e-11, "atol": 1e-11}
ELEMENTWISE = {"brc", "indrnn", "mingru", "minlstm", "qrnn", "rglru", "s4d", "sru", "sru_v1", "tgru", "tlstm"}
# Two have one in their readout; that of lif reads the spikes, which the second state makes.
NO_RECURRENT_MATRIX = ELEMENTWISE | tiers.MATRIX | {"trnn", "unicornn", "hgrn", "lru", "lif"}
MUST_KEEP_NORM = {"orthogonal"}


def make(name, **options):
    torch.manual_seed(1)
    cell = cells.create(name, input_size=F, hidden_size=H, **options).double()
    for parameter in cell.parameters():  # a bias or a peephole of zeros would hide a term that is missing
        nn.init.normal_(parameter, std=0.5)
    return cell


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def naive_rnn(p, x, m, h):
    h = torch.tanh(p["W"] @ x + p["U"] @ (m * h) + p["b"])
    return (h,)


def naive_lstm(p, x, m, h, c):
    i, f, g, o = (p["W"] @ x + p["U"] @ (m * h) + p["b"]).split(H)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def naive_peephole(p, x, m, h, c):
    i, f, g, o = (p["W"] @ x + p["U"] @ (m * h) + p["b"]).split(H)
    p_i, p_f, p_o = p["p"].split(H)
    c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


def naive_gru_after(p, x, m, h):
    (w_r, w_z, w_n), (u_r, u_z, u_n) = (p["W"] @ x + p["b"]).split(H), (p["U"] @ (m * h)).split(H)
    r, z = torch.sigmoid(w_r + u_r), torch.sigmoid(w_z + u_z)
    n = torch.tanh(w_n + r * (u_n + p["b_u"]))
    return ((1 - z) * n + z * h,)


def naive_gru_before(p, x, m, h):
    (w_r, w_z, w_n), (U_r, U_z, U_n) = (p["W"] @ x + p["b"]).split(H), p["U"].split(H)
    r, z = torch.sigmoid(w_r + U_r @ (m * h)), torch.sigmoid(w_z + U_z @ (m * h))
    n = torch.tanh(w_n + U_n @ (r * (m * h)))
    return ((1 - z) * n + z * h,)


def naive_mgu(p, x, m, h):
    (w_f, w_n), (U_f, U_n) = (p["W"] @ x + p["b"]).split(H), p["U"].split(H)
    f = torch.sigmoid(w_f + U_f @ (m * h))
    n = torch.tanh(w_n + U_n @ (f * (m * h)))
    return ((1 - f) * h + f * n,)


NAIVE = {
    "rnn": (naive_rnn, {}),
    "lstm": (naive_lstm, {}),
    "peephole": (naive_peephole, {}),
    "gru after": (naive_gru_after, {"reset": "after"}),
    "gru before": (naive_gru_before, {"reset": "before"}),
    "mgu": (naive_mgu, {}),
}


def by_hand(step, cell, inputs, masks, state, keeps=None):
    """Outputs ``[T, B, H]``, each sequence by itself; ``keeps``: zoneout's masks of h, ``[T, B, H]``."""
    parameters = dict(cell.named_parameters())
    rows = []
    for b in range(B):
        now, outputs = tuple(part[b] for part in state), []
        for t in range(T):
            before, now = now, step(parameters, inputs[t, b], masks[b], *now)
            if keeps is not None:
                now = (keeps[t, b] * before[0] + (1 - keeps[t, b]) * now[0], *now[1:])
            outputs.append(now[0])
        rows.append(torch.stack(outputs))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("name", NAIVE)
def test_weights_read_a_masked_state_and_what_is_carried_is_whole(name, backend, zoneout):
    step, options = NAIVE[name]
    cell = make(name.split()[0], **options)
    state = tuple(draw(B, H) for _ in cell.states)
    rates = [zoneout] + [0.0] * (len(state) - 1)
    layer = Recurrent(regularise(cell, recurrent_dropout=0.4, zoneout=rates), backend)
    inputs = draw(T, B, F).requires_grad_()
    torch.manual_seed(3)
    outputs, _ = layer(inputs, state)
    torch.manual_seed(3)  # the masks, drawn in this order
    ones = torch.ones(T * B * F, dtype=torch.float64)
    torch.nn.functional.dropout(ones[: B * F], 0.0)
    keeps = [_bernoulli(T, part, rate) for part, rate in zip(state, rates, strict=True)] if zoneout else None
    masks = torch.nn.functional.dropout(ones[: B * H].view(B, H), 0.4)
    expected = by_hand(step, cell, inputs, masks, state, keeps and keeps[0])
    assert 0 < (masks == 0).sum() < masks.numel()
    torch.testing.assert_close(outputs, expected, **EXACT)
    free = [inputs, *cell.parameters()]
    found, truth = (torch.autograd.grad(part.square().sum(), free) for part in (outputs, expected))
    torch.testing.assert_close(found, truth, **EXACT)


@pytest.mark.parametrize("name", tiers.every(9, cells.available()))
def test_no_regulariser_makes_a_state_explode(name):
    torch.manual_seed(0)
    cell = cells.create(name, input_size=F, hidden_size=16)
    inputs = torch.randn(200, 2, F)
    plain = Recurrent(cell, "reference")(inputs)[0].norm(dim=-1).max()  # compiling takes longer than 200 steps
    for options in (
        {"recurrent_dropout": 0.25},
        {"weight_drop": 0.25},
        {"zoneout": [0.25]},
        {"input_dropout": 0.25, "output_dropout": 0.25},
        {"recurrent_dropout": 0.25, "zoneout": [0.25]},
    ):
        try:
            regularised = regularise(cell, **options)
        except InputError as error:
            assert name in NO_RECURRENT_MATRIX | MUST_KEEP_NORM
            assert "no recurrent matrix" in str(error) or "preserve the norm" in str(error)  # noqa: PT017 - most are not refused
            continue
        assert Recurrent(regularised, "reference")(inputs)[0].norm(dim=-1).max() < 10 * plain, options


@pytest.mark.parametrize("name", sorted(NO_RECURRENT_MATRIX | MUST_KEEP_NORM))
def test_there_must_be_a_recurrent_matrix_that_may_be_dropped_from(name):
    cell = Zoneout(cells.create(name, input_size=F, hidden_size=H), [0.1])
    why = "would make the state of OrthogonalRNN explode" if name in MUST_KEEP_NORM else "has no recurrent matrix that"
    with pytest.raises(InputError, match=f"recurrent_dropout=0.25 .*{why}"):
        VariationalDropout(cell, recurrent=0.25)


def test_a_matrix_that_must_keep_the_norm_is_not_dropped_from():
    with pytest.raises(InputError, match=r"weight_drop=0\.25 would make the state of OrthogonalRNN explode"):
        WeightDrop(make("orthogonal"), 0.25)
    WeightDrop(make("orthogonal", activation="tanh"), 0.25)
    regularise(make("orthogonal", activation="tanh"), recurrent_dropout=0.25)


def test_zoneout_around_dropped_outputs_is_refused():
    with pytest.raises(InputError, match="put Zoneout inside"):
        Zoneout(VariationalDropout(make("rnn"), outputs=0.1), [0.1])


class Own(Cell):
    """h = tanh(x + U h) + h / 2, with U h computed in one of several ways."""

    def __init__(self, product):
        super().__init__(H, H)
        self.product, self.U = product, recurrent_weights(1, H)
        self.module = nn.Linear(H, H, bias=False)
        self.module.weight = self.U

    def prepare(self, inputs):
        return (self.U,), inputs

    def step(self, constants, x, state):
        (U,), (h,) = constants, state
        h = self.product(self, x, h, U).tanh() + h / 2
        return h, (h,)


def in_place(cell, x, h, U):
    read = torch.zeros_like(h)
    read[:, :2] = h[:, :2]
    read += torch.cat([read[:, :2] * 0, h[:, 2:]], dim=-1)
    return x + read.mul_(1) @ U.t()


PRODUCTS = {
    "linear": lambda cell, x, h, U: x + linear(h, U),
    "keyword": lambda cell, x, h, U: x + linear(weight=U, input=h),
    "at": lambda cell, x, h, U: x + h @ U.T,
    "from the right": lambda cell, x, h, U: x + (U @ h.t()).t(),
    "addmm": lambda cell, x, h, U: torch.addmm(x, h, U.t()),
    "einsum": lambda cell, x, h, U: x + torch.einsum("bh,gh->bg", h, U),
    "module": lambda cell, x, h, U: x + cell.module(h),
    "with the input": lambda cell, x, h, U: torch.cat([x, h], -1) @ torch.cat([torch.eye(H).to(U), U.t()]),
    "in parts": lambda cell, x, h, U: x + sum(linear(p, V) for p, V in zip(h.chunk(2, -1), U.chunk(2, 1), strict=True)),
    "by unit": lambda cell, x, h, U: x + torch.bmm(h.unsqueeze(1), U.t().expand(len(h), H, H)).squeeze(1),
    "in place": in_place,
}


@pytest.mark.parametrize("how", PRODUCTS)
def test_however_a_cell_writes_its_product(how):
    torch.manual_seed(0)
    cell = Own(PRODUCTS[how]).double()
    inputs, h = draw(T, B, H), draw(B, H)
    torch.manual_seed(3)
    outputs, _ = Recurrent(VariationalDropout(cell, recurrent=0.5), "reference")(inputs, (h,))
    torch.manual_seed(3)
    ones = torch.ones(B, H, dtype=torch.float64)
    mask = [torch.nn.functional.dropout(ones, share) for share in (0.0, 0.5)][1]
    for t in range(T):
        h = (inputs[t] + (mask * h) @ cell.U.t()).tanh() + h / 2
        torch.testing.assert_close(outputs[t], h, **EXACT)


def test_the_mean_over_masks_of_a_linear_step_is_the_step_without_masks():
    class Linear(Own):
        def step(self, constants, x, state):
            h = x + linear(state[0], constants[0]) + state[0]
            return h, (h,)

    torch.manual_seed(0)
    cell, rows = Linear(None).double(), 20000
    inputs, h = draw(1, 1, H).expand(1, rows, H), draw(1, H)
    outputs, _ = Recurrent(VariationalDropout(cell, recurrent=0.5))(inputs, (h.expand(rows, H),))
    error = 4 * outputs[0].std(0) / rows**0.5  # four standard errors
    assert ((outputs[0].mean(0) - (inputs[0, 0] + h @ cell.U.t() + h)[0]).abs() < error).all()


def test_a_readout_inside_a_cell_is_no_recurrent_matrix():
    class Readout(Own):
        def step(self, constants, x, state):
            h = 0.5 * state[0] + x
            return linear(h, constants[0]), (h,)

    with pytest.raises(InputError, match="Readout has no recurrent matrix that reads its state h"):
        VariationalDropout(Readout(None), recurrent=0.1)


def test_a_first_state_of_whole_numbers_has_nothing_to_drop():
    class Counting(Own):
        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, H, dtype=torch.int64),)

        def step(self, constants, x, state):
            return linear(state[0].to(x.dtype), constants[0]), (state[0] + 1,)

    with pytest.raises(InputError, match="has nothing to drop"):
        VariationalDropout(Counting(None), recurrent=0.1)


def test_other_states_are_read_whole():
    state = tuple(torch.randn(B, H) for _ in range(2))
    weight = input_weights(1, H, H)
    with MaskedReads(state[0], torch.zeros(B, H)):
        masked, whole = linear(state[0], weight), linear(state[1], weight)
    assert not masked.any()
    torch.testing.assert_close(whole, state[1] @ weight.t())
    assert len(tensors_of(state)) == 2
