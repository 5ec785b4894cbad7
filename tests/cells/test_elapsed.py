"""Cells that take the time since the previous input, against their equations and against solutions of the equations."""

import copy

import pytest
import torch
from test_naive import BATCH, CASES, HIDDEN, INPUT, STEPS, by_hand, make
from tiers import quick_if

from rnnlab import cells, engine
from rnnlab.interface import InputError
from rnnlab.layers import Bidirectional, Block, Recurrent, Stack, regularise
from rnnlab.trees import map_state, tensors_of

STEP = {"cornn": "dt", "unicornn": "dt", "lem": "dt", "lipschitz": "eps", "ltc": "elapsed", "cfc": "elapsed"}
"""The option of each cell that is its time step."""
NAMED = [name for name, (kind, _, _) in CASES.items() if kind in STEP]


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_cell_with_elapsed_times_is_tested():
    assert {name for name in cells.available() if "elapsed" in cells.find(name).context_per_step} == set(STEP)


@pytest.mark.parametrize("name", quick_if(NAMED, ("ltc", "cfc", "lem").__contains__))
def test_the_time_step_of_the_equations_varies(name):
    cell, option = make(name), STEP[CASES[name][0]]
    inputs, elapsed = draw(STEPS, BATCH, INPUT) - 0.5, 2 * draw(STEPS, BATCH, seed=1)
    elapsed[2, 0] = 0.0  # two inputs at the same time
    first = map_state(lambda tensor: tensor + draw(*tensor.shape, seed=2), cell.initial_state(BATCH))
    state, outputs = first, []
    for x, times in zip(inputs, elapsed, strict=True):
        after = []
        for b in range(BATCH):  # the equations of one step, with the cell's time step set for it
            one = copy.copy(cell)
            setattr(one, option, getattr(cell, option) * float(times[b]))
            output, new = by_hand(name, one, x.expand(1, -1, -1), state)
            after.append((output[0, b], *(part[b] for part in new)))
        output, *state = (torch.stack(part) for part in zip(*after, strict=True))
        outputs.append(output)
    for backend in engine.backends_of(cell):
        found, final = Recurrent(cell, backend)(inputs, first, elapsed=elapsed)
        torch.testing.assert_close(found, torch.stack(outputs), rtol=0, atol=1e-12)
        torch.testing.assert_close(tensors_of(final), list(state), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", quick_if(sorted(STEP), ("lem",).__contains__))
def test_compiled_gradients_reach_the_times(name):
    found = []
    for backend in ("reference", "fused"):
        layer = Recurrent(cells.create(name, input_size=INPUT, hidden_size=HIDDEN), backend).double()
        for seed, parameter in enumerate(layer.parameters()):
            parameter.data = draw(*parameter.shape, seed=seed) - 0.5
        inputs, elapsed = draw(STEPS, BATCH, INPUT).requires_grad_(), draw(STEPS, BATCH, seed=1).requires_grad_()
        outputs, _ = layer(inputs, elapsed=elapsed)
        leaves = [inputs, elapsed, *layer.parameters()]
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), leaves)])
        torch.testing.assert_close(layer(inputs, elapsed=torch.ones_like(elapsed)), layer(inputs))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_step_of_ltc_is_two_steps_of_half_the_time():
    # With a constant input: 6 sub-steps over T are 3 over T/2 and 3 more. Exact, for any times.
    torch.manual_seed(0)
    whole, half = (
        Recurrent(cells.create("ltc", input_size=INPUT, hidden_size=HIDDEN, unfolds=unfolds), "reference").double()
        for unfolds in (6, 3)
    )
    half.load_state_dict(whole.state_dict())
    inputs, elapsed = draw(STEPS, BATCH, INPUT), 3 * draw(STEPS, BATCH, seed=1)
    outputs, final = whole(inputs, elapsed=elapsed)
    twice, last = half(inputs.repeat_interleave(2, 0), elapsed=(elapsed / 2).repeat_interleave(2, 0))
    torch.testing.assert_close(twice[1::2], outputs, rtol=0, atol=1e-13)
    torch.testing.assert_close(last, final, rtol=0, atol=1e-13)


def test_ltc_solves_its_differential_equation():
    # Without recurrent weights f is constant while the input is, and the equation has a closed form.
    torch.manual_seed(0)
    inputs, elapsed = draw(STEPS, BATCH, INPUT), 2 * draw(STEPS, BATCH, seed=1)
    errors = []
    for unfolds in (100, 200):
        layer = Recurrent(
            cells.create("ltc", input_size=INPUT, hidden_size=HIDDEN, unfolds=unfolds), "reference"
        ).double()
        cell = layer.cell
        with torch.no_grad():
            for seed, parameter in enumerate((cell.W, cell.b, cell.A, cell.rho)):
                parameter.copy_(2 * draw(*parameter.shape, seed=seed) - 1)
            cell.U.zero_()
            h = torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
            for x, time in zip(inputs, elapsed, strict=True):
                f = (x @ cell.W.t() + cell.b).sigmoid()
                rate = 1 / torch.nn.functional.softplus(cell.rho) + f
                rest = f * cell.A / rate
                h = rest + (h - rest) * (-rate * time.unsqueeze(1)).exp()
            errors.append((Recurrent(cell, "reference")(inputs, elapsed=elapsed)[0][-1] - h).abs().max())
    assert errors[0] < 4e-3
    assert errors[1] == pytest.approx(float(errors[0]) / 2, rel=0.05)  # the solver is of first order


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 6])])
def test_a_layer_in_reverse_takes_the_times_between_its_inputs(lengths):
    cell = make("ltc")
    ahead, back = Recurrent(cell, "reference"), Recurrent(cell, "fused", reverse=True)
    inputs, elapsed = draw(STEPS, BATCH, INPUT), draw(STEPS, BATCH, seed=1)
    outputs, final = back(inputs, None, lengths, elapsed=elapsed)
    for b in range(BATCH):
        end = STEPS if lengths is None else int(lengths[b])
        gaps = elapsed[:end, b]
        reading = torch.cat([gaps[:1], gaps[1:].flip(0)])  # e.g. gaps 1 2 3 of three inputs: read 1 3 2
        alone, last = ahead(inputs[:end, b : b + 1].flip(0), elapsed=reading.unsqueeze(1))
        torch.testing.assert_close(outputs[:end, b : b + 1], alone.flip(0))
        torch.testing.assert_close(final[0][b : b + 1], last[0])


@pytest.mark.parametrize("reverse", [False, True])
def test_pieces_of_a_sequence_keep_their_times(reverse):
    layer = Recurrent(make("cfc"), reverse=reverse)
    inputs, elapsed = draw(STEPS, BATCH, INPUT), draw(STEPS, BATCH, seed=1)
    fresh = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    fresh[[2, 3], 0] = True
    outputs, _ = layer(inputs, fresh=fresh, elapsed=elapsed)
    for start, end in ((0, 2), (2, 3), (3, STEPS)):
        alone, _ = layer(inputs[start:end, :1], elapsed=elapsed[start:end, :1])
        torch.testing.assert_close(outputs[start:end, :1], alone)


def test_times_reach_the_cells_of_stacks_blocks_and_regularisers():
    inputs, elapsed = draw(STEPS, BATCH, HIDDEN), draw(STEPS, BATCH, seed=1)

    def cell():
        return cells.create("cfc", input_size=HIDDEN, hidden_size=HIDDEN).double()

    around = regularise(cell(), zoneout=[0.2], recurrent_dropout=0.1).eval()
    plain, block = Recurrent(cell()), Block(cell(), convolution=2).double()
    for layer in (Stack([plain, Recurrent(around)]).eval(), block):
        found, _ = layer(inputs, elapsed=elapsed)
        assert (found - layer(inputs)[0]).abs().max() > 1e-3
        torch.testing.assert_close(layer(inputs, elapsed=torch.ones_like(elapsed))[0], layer(inputs)[0])
    both = Bidirectional(plain, Recurrent(plain.cell, reverse=True))
    assert both(inputs, elapsed=elapsed)[0].shape == (STEPS, BATCH, 2 * HIDDEN)


def test_other_cells_and_shapes_are_refused():
    inputs, elapsed = draw(STEPS, BATCH, INPUT), draw(STEPS, BATCH, seed=1)
    timed = "cfc, cornn, lem, lipschitz, ltc, unicornn"
    layer = Recurrent(cells.create("gru", input_size=INPUT, hidden_size=HIDDEN).double())
    with pytest.raises(InputError, match=f"GRU takes no elapsed times; the cells that do are {timed}"):
        layer(inputs, elapsed=elapsed)
    with pytest.raises(InputError, match=r"elapsed has the shape \[6, 2, 1\], expected \[6, 2\], \[T, B\]"):
        Recurrent(make("ltc"))(inputs, elapsed=elapsed.unsqueeze(-1))
    with pytest.raises(InputError, match='offset=True is for mode="default"'):
        cells.create("cfc", input_size=INPUT, hidden_size=HIDDEN, mode="pure", offset=True)
