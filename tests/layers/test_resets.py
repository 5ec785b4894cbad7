"""A packed sequence with resets computes what its pieces compute as separate sequences."""

import copy
from itertools import pairwise

import pytest
import torch
from tiers import quick_if

from rnnlab import cells, engine
from rnnlab.interface import InputError
from rnnlab.layers import Block, Recurrent, Stack, Zoneout, regularise
from rnnlab.trees import map_state, tensors_of

T, B, F, H = 9, 4, 3, 8
LENGTHS = torch.tensor([9, 4, 1, 7])
# A step of columns, one of heads, linear ones with states of one and of more axes, one with a clock.
QUICK = ("gru", "mlstm", "mingru", "s4d", "clockwork")
FRESH = torch.zeros(T, B, dtype=torch.bool)
# At the first step, at the last, twice in a row, after the end of a sequence; one sequence has no reset.
for steps, row in (((0, 4), 0), ((2, 3, 8), 1), ((6, 7), 3)):
    FRESH[list(steps), row] = True


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomized(module):
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter += 0.2 * draw(*parameter.shape, seed=seed)
    return module.double()


def make_cell(name, width=F, **options):
    torch.manual_seed(0)
    return cells.create(name, input_size=width, hidden_size=H, **options)


def make(name, backend, **options):
    return randomized(Recurrent(make_cell(name), backend, **options))


def is_real(tensor):
    return tensor.is_floating_point() or tensor.is_complex()


def leaves_of(layer):
    """Inputs and a state before the first step, which require gradients."""
    inputs = draw(T, B, F, seed=2).requires_grad_()
    state = map_state(
        lambda t: (t.detach() + 0.3 * draw(*t.shape, seed=3)).requires_grad_() if is_real(t) else t.clone(),
        layer.initial_state(B),
    )
    return inputs, state


def loss_of(outputs, final):
    parts = [part for part in (outputs, *tensors_of(final)) if is_real(part)]
    parts = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    return sum((part * draw(*part.shape, seed=20 + i)).sum() for i, part in enumerate(parts))


def everything(run, layer):
    """Outputs, final state, and the gradients of inputs, state and parameters."""
    inputs, state = leaves_of(layer)
    outputs, final = run(inputs, state)
    leaves = [inputs, *(t for t in tensors_of(state) if is_real(t)), *layer.parameters()]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad(loss_of(outputs, final), leaves, allow_unused=True)
    zeros = map(torch.zeros_like, leaves)
    return [outputs, *tensors_of(final), *(z if g is None else g for g, z in zip(found, zeros, strict=True))]


def separately(layer, lengths=None, reverse=False):
    """Run every piece of every sequence alone, without resets."""

    def run(inputs, state):
        outputs, finals = torch.zeros(T, B, layer.output_size, dtype=torch.float64), []
        rows = []
        for b in range(B):
            end = T if lengths is None else int(lengths[b])
            cuts = [0, *(t for t in range(1, end) if FRESH[t, b]), end]
            pieces = list(pairwise(cuts))
            given = map_state(lambda t, b=b: t[b : b + 1], state)
            row = {}
            for first, last in reversed(pieces) if reverse else pieces:
                starts_anew = (last != end) if reverse else (first > 0 or bool(FRESH[0, b]))
                part, final = layer(inputs[first:last, b : b + 1], None if starts_anew else given)
                row[first] = part[:, 0]
            row = torch.cat([row[first] for first, _ in pieces])
            rows.append(torch.cat([row, outputs[end:, b]]))
            finals.append(final)
        return torch.stack(rows, 1), map_state(lambda *parts: torch.cat(parts), *finals)

    return run


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def check(layer, truth, *, reverse=False):
    for lengths in (None, LENGTHS):
        expected = everything(separately(truth, lengths, reverse), truth)
        found = everything(lambda x, s, n=lengths: layer(x, s, n, fresh=FRESH), layer)
        assert_same(found, expected)
        outputs = layer(*leaves_of(layer), lengths, fresh=FRESH)[0]
        with torch.no_grad():
            torch.testing.assert_close(layer(*leaves_of(layer), lengths, fresh=FRESH)[0], outputs)


@pytest.mark.parametrize("name", quick_if(cells.available(), QUICK.__contains__))
def test_every_backend_computes_the_pieces(name):
    truth = make(name, "reference", initial_state="learned")
    for backend in (*engine.backends_of(truth.cell), "auto"):
        layer = make(name, backend, initial_state="learned")
        check(layer, truth)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_layer_in_reverse_starts_again_at_the_ends_of_pieces(backend):
    truth = make("gru", "reference", reverse=True)
    check(make("gru", backend, reverse=True), truth, reverse=True)


def alone(layer, inputs):
    """The outputs of every piece, read from the initial state."""
    rows = []
    for b in range(B):
        cuts = [0, *(t for t in range(1, T) if FRESH[t, b]), T]
        rows.append(torch.cat([layer(inputs[i:j, b : b + 1])[0][:, 0] for i, j in pairwise(cuts)]))
    return torch.stack(rows, 1)


def check_alone(layer, width=F):
    """Compare outputs and gradients of a layer that need not be able to continue a sequence."""
    found = []
    for run in (lambda inputs: layer(inputs, fresh=FRESH)[0], lambda inputs: alone(layer, inputs)):
        inputs = draw(T, B, width, seed=2).requires_grad_()
        outputs = run(inputs)
        leaves = [inputs, *layer.parameters()]
        gradients = torch.autograd.grad(loss_of(outputs, ()), leaves, allow_unused=True)
        found.append([outputs, *(g for g in gradients if g is not None)])
    assert_same(*found)


@pytest.mark.parametrize("bidirectional", quick_if(["none", "concatenate", "sum"], "sum".__ne__))
def test_a_stack_computes_the_pieces(bidirectional):
    torch.manual_seed(0)
    options = {"norm": "layer", "initial_state": "learned", "bidirectional": bidirectional}
    check_alone(randomized(Stack.build(lambda width, _: make_cell("lstm", width), F, H, 2, **options)))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_block_forgets_the_tail_of_its_convolution(backend):
    check_alone(randomized(Block(make_cell("mingru", H), backend, convolution=4)), H)


def test_expected_zoneout_starts_from_the_initial_state():
    truth, layer = (
        randomized(Recurrent(Zoneout(make_cell("lstm"), [0.1, 0.4]), backend, "learned")).eval()
        for backend in ("reference", "fused")
    )
    check(layer, truth)


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_masks_are_drawn_once_for_a_sequence(backend):
    torch.manual_seed(0)
    cell = regularise(make_cell("gru"), zoneout=[0.3], input_dropout=0.2, recurrent_dropout=0.3, output_dropout=0.1)
    layer = randomized(Recurrent(cell, backend)).train()
    inputs = draw(T, B, F, seed=2)
    torch.manual_seed(5)
    found, final = layer(inputs, fresh=FRESH)
    torch.manual_seed(5)
    constants, prepared = cell(inputs)
    state, first, outputs = cell.initial_state(B), cell.initial_state(B), []
    for t in range(T):
        state = map_state(lambda new, old, t=t: torch.where(FRESH[t].unsqueeze(1), new, old), first, state)
        output, state = cell.step(constants, map_state(lambda tensor, t=t: tensor[t], prepared), state)
        outputs.append(output)
    assert_same([found, *final], [torch.stack(outputs), *state])


def test_bfloat16_by_autocast_computes_the_pieces():
    torch.manual_seed(0)
    layer = randomized(Recurrent(make_cell("lstm"), "fused")).float()
    inputs = draw(T, B, F, seed=2).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(inputs, fresh=FRESH)[0]
        torch.testing.assert_close(found, alone(layer, inputs), rtol=0.01, atol=0.002)
    assert not torch.allclose(found, layer(inputs, fresh=FRESH)[0], rtol=1e-5, atol=1e-6)


def test_second_derivatives_stop_at_a_reset_too():
    found = []
    for backend in ("reference", "fused"):
        layer = make("gru", backend, initial_state="learned")
        inputs = draw(T, B, F, seed=2).requires_grad_()
        outputs, _ = layer(inputs, fresh=FRESH)
        leaves = [inputs, *layer.parameters()]
        gradients = torch.autograd.grad(outputs.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves, retain_graph=True)
        found.append([*gradients, *second])
        (of_last,) = torch.autograd.grad(gradients[0][8, 1].sum(), inputs)
        assert of_last[8, 1].any()
        assert not of_last[:8].any()
    assert_same(*found)


def test_resets_leave_no_trace_in_a_layer():
    layer, inputs = make("lstm", "auto"), draw(T, B, F, seed=2)
    keys, before = layer.state_dict().keys(), layer(inputs)[0]
    with_resets = layer(inputs, fresh=FRESH)[0]
    assert layer.state_dict().keys() == keys
    assert [type(module).__name__ for module in layer.modules()] == ["Recurrent", "LSTM", "ParameterList"]
    torch.testing.assert_close(layer(inputs)[0], before)
    torch.testing.assert_close(copy.deepcopy(layer)(inputs, fresh=FRESH)[0], with_resets)


def test_a_step_that_cannot_be_compiled_runs_in_the_plain_loop():
    class Sorted(cells.find("rnn")):
        """The vanilla network, with an operation that no compiled step has."""

        def step(self, constants, x, state):
            output, (h,) = super().step(constants, x, state)
            return output, (h.sort(-1).values,)

    torch.manual_seed(0)
    layer = randomized(Recurrent(Sorted(F, H)))
    assert layer.choice.name == "reference"
    check(layer, layer)


@pytest.mark.parametrize(
    ("fresh", "given"),
    [
        (FRESH[:-1], r"torch.bool \[8, 4\]"),
        (FRESH[0], r"torch.bool \[4\]"),
        (FRESH.long(), r"torch.int64 \[9, 4\]"),
        ([True] * T, "list"),
    ],
)
def test_a_mask_of_another_form_is_refused(fresh, given):
    with pytest.raises(InputError, match=rf"fresh is {given}; it must be a bool tensor \[9, 4\], \[T, B\]"):
        make("rnn", "auto")(draw(T, B, F, seed=2), fresh=fresh)
