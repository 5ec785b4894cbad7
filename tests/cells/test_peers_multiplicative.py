"""The cells with a product of states against other implementations of them."""

import pytest
import torch

from rnnlab import cells, engine
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4
CLOSE = {"rtol": 0, "atol": 1e-12}


def _make(name, **options):
    """A cell in float64 with random parameters."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=INPUT, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def _inputs():
    return torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)


@torch.no_grad()
def _compare(cell, step, inputs=None):
    """Every backend against ``step``, a function ``(x, state) -> new state``, from a random state."""
    inputs = _inputs() if inputs is None else inputs
    state = start = tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))
    outputs = []
    for x in inputs:
        state = step(x, state)
        outputs.append(state[0])
    for backend in engine.backends_of(cell):
        torch.testing.assert_close(Recurrent(cell, backend)(inputs, start), (torch.stack(outputs), state), **CLOSE)


@torch.no_grad()
def _lstm(cell):
    """``torch.nn``'s cell with the W, U and b of an LSTM among our cells."""
    peer = torch.nn.LSTMCell(INPUT, HIDDEN).double()
    for theirs, ours in zip(peer.parameters(), (cell.W, cell.U, cell.b, torch.zeros_like(cell.b)), strict=True):
        theirs.copy_(ours)
    return peer


@pytest.mark.parametrize("depth", [1, 3])
def test_highway_as_the_authors_wrote_it(depth):
    cell = _make("highway", depth=depth)
    U, b = (part.detach().chunk(2 * depth) for part in (cell.U, cell.b))

    def step(x, state):
        (current,) = state
        for i in range(depth):
            seen = torch.cat([x, current], 1) if i == 0 else current
            h, t = (
                seen @ (torch.cat([cell.W.chunk(2)[k], U[2 * i + k]], 1) if i == 0 else U[2 * i + k]).t() + b[2 * i + k]
                for k in range(2)
            )
            current = (h.tanh() - current) * t.sigmoid() + current
        return (current,)

    _compare(cell, step)


def test_torchrecurrent_has_the_same_multiplicative_lstm():
    cell = _make("multiplicative_lstm")
    peer = pytest.importorskip("torchrecurrent").MultiplicativeLSTMCell(INPUT, HIDDEN).double()
    weights = {
        "weight_ih": torch.cat([cell.W_m, cell.W]),
        "bias_ih": torch.cat([cell.b_m, cell.b]),
        "weight_hh": cell.U_m,
        "bias_hh": torch.zeros(HIDDEN),
        "weight_mh": cell.U,
        "bias_mh": torch.zeros(4 * HIDDEN),
    }
    assert set(weights) == {key for key, _ in peer.named_parameters()}
    with torch.no_grad():
        for key, tensor in weights.items():
            getattr(peer, key).copy_(tensor)
    _compare(cell, peer)


def test_a_multiplicative_rnn_has_other_recurrent_weights_for_every_symbol():
    # What it was made for: a matrix of its own for every character, all of them from the same factors.
    cell = _make("multiplicative_rnn", factors=3)
    matrices = [cell.U @ torch.diag(cell.W_m[:, symbol]) @ cell.U_m for symbol in range(INPUT)]
    symbols = torch.randint(INPUT, (STEPS, BATCH))

    def step(x, state):
        rows = zip(x.argmax(-1), x, state[0], strict=True)
        return (torch.stack([torch.tanh(cell.W @ one + matrices[k] @ h + cell.b) for k, one, h in rows]),)

    _compare(cell, step, torch.nn.functional.one_hot(symbols, INPUT).double())


@pytest.mark.parametrize(
    ("name", "classic", "options"),
    [("mi_rnn", "rnn", {}), ("mi_lstm", "lstm", {}), ("mi_gru", "gru", {"reset": "before"})],
)
def test_multiplicative_integration_without_products_is_the_classic_cell(name, classic, options):
    cell, expected = _make(name), _make(classic, **options)
    with torch.no_grad():
        cell.alpha.zero_()
        cell.beta_1.fill_(1)
        cell.beta_2.fill_(1)
        for ours, theirs in ((cell.W, expected.W), (cell.U, expected.U), (cell.b, expected.b)):
            ours.copy_(theirs)
        inputs = _inputs()
        for backend in engine.backends_of(cell):
            ours, theirs = Recurrent(cell, backend)(inputs), Recurrent(expected, "reference")(inputs)
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_the_parts_of_multiplicative_integration_begin_where_they_are_told():
    cell = cells.create("mi_lstm", input_size=INPUT, hidden_size=HIDDEN, alpha=2.0, beta=0.25)
    assert cell.alpha.tolist() == [2.0] * 4 * HIDDEN
    assert cell.beta_1.tolist() == cell.beta_2.tolist() == [0.25] * 4 * HIDDEN


def test_a_mogrifier_without_rounds_is_the_lstm():
    cell = _make("mogrifier", rounds=0)
    _compare(cell, _lstm(cell))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("rounds", [1, 4, 5])
def test_mogrifier_as_the_authors_wrote_it(rounds, rank):
    # Of their lamb repository: the feature masking of TiledLSTMCell, and its LSTM with one kernel for x and h together,
    # its columns in the order j, o, f, i. Their cap on the input gate is an option there, and off here.
    cell = _make("mogrifier", rounds=rounds, rank=rank)
    starts = [0, INPUT, INPUT + HIDDEN, 2 * INPUT + HIDDEN, 2 * (INPUT + HIDDEN)]
    i, f, g, o = torch.cat([cell.W, cell.U, cell.b.unsqueeze(1)], dim=1).chunk(4)
    kernel, bias = torch.cat([g, o, f, i]).t().split([INPUT + HIDDEN, 1])

    def masked(x, y, number):
        factors = (cell.Q,) if rank is None else (cell.Q_right, cell.Q_left)
        product = y
        for matrices in factors:
            product = product @ matrices[number].t()
        return x * 2 * torch.sigmoid(product + cell.b_Q[starts[number] :][: x.shape[1]])

    def step(x, state):
        y, c = state
        for number in range(rounds):
            if number % 2 == 0:
                x = masked(x, y, number)
            else:
                y = masked(y, x, number)
        j, o, f, i = (torch.cat([x, y], dim=1) @ kernel + bias).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(j)
        return torch.sigmoid(o) * torch.tanh(c), c

    _compare(cell, step)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_mogrifier_of_the_same_weights_in_every_round_is_the_one_of_the_package(rank):
    # The package mogrifier has one Q and one R for all rounds. The paper and the authors' code have others in every
    # round, as here. Of low rank, its inner products have biases, too; the authors' have none.
    cell = _make("mogrifier", rank=rank)
    mogrify = pytest.importorskip("mogrifier").Mogrifier(INPUT, 5, rank, HIDDEN).double()
    b_Q = cell.b_Q.split([INPUT, HIDDEN, INPUT, HIDDEN, INPUT])
    with torch.no_grad():
        for first, (theirs, _) in enumerate((mogrify.Q, mogrify.R)):
            inner, outer = (None, theirs) if rank is None else theirs
            for number in range(first, 5, 2):
                if rank is None:
                    cell.Q[number].copy_(outer.weight)
                else:
                    cell.Q_right[number].copy_(inner.weight)
                    cell.Q_left[number].copy_(outer.weight)
                    inner.bias.zero_()
                b_Q[number].copy_(outer.bias)
    lstm = _lstm(cell)

    def step(x, state):
        x, h = mogrify(x, state[0])
        return lstm(x, (h, state[1]))

    _compare(cell, step)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("multiplicative_rnn", "factors", 0), ("mogrifier", "rounds", -1), ("mogrifier", "rank", 0)],
)
def test_a_number_that_is_too_small_is_refused(name, option, value):
    with pytest.raises(InputError, match=f"{option}={value}"):
        cells.create(name, input_size=INPUT, hidden_size=HIDDEN, **{option: value})
