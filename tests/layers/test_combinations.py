"""Any cell with any of the options that it can take: a sample, drawn by hypothesis, of all combinations."""

import pytest
import tiers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab import cells, contracts
from rnnlab.interface import InputError, Vectors
from rnnlab.layers import initialise, regularise
from rnnlab.layers.wrapped import Wrapped
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.trees import map_state, tensors_of

T, B, F, H = 6, 3, 5, 4
EXACT = {"rtol": 0, "atol": 1e-10}  # as in the contract of a cell
REGULARISERS = {
    "weight_drop": [0.0, 0.25],
    "input_dropout": [0.0, 0.25],
    "recurrent_dropout": [0.0, 0.25],
    "output_dropout": [0.0, 0.25],
    "zoneout": [[0.0], [0.25], None],  # None: another rate for each state
}
BEGINNINGS = {
    "recurrent_init": ["", "orthogonal", "identity", "glorot", "uniform"],
    "gate_init": ["", "chrono", "uniform"],
}
AROUND = {
    "dropout": [0.0, 0.25],
    "norm": ["none", "layer", "rms"],
    "connection": ["none", "residual", "highway"],
    "bidirectional": ["none", "concatenate", "sum"],
    "initial_state": ["zero", "learned"],
}
ALL = {**REGULARISERS, **BEGINNINGS, **AROUND}


def possible(name, options):
    """The options as far as the cell can take them; what it refuses is said to be so elsewhere."""
    cell = cells.create(name, input_size=F, hidden_size=H)
    count = len(tensors_of(cell.initial_state(1)))
    options = {**options, "zoneout": options["zoneout"] or [0.25 / (1 + number) for number in range(count)]}
    for option, nothing, apply in (
        ("weight_drop", 0.0, lambda share: regularise(cell, weight_drop=share)),
        ("recurrent_dropout", 0.0, lambda share: regularise(cell, recurrent_dropout=share)),
        ("recurrent_init", "", lambda kind: initialise(cell, recurrent=kind)),
        ("gate_init", "", lambda kind: initialise(cell, gates=kind)),
    ):
        try:
            apply(options.get(option, nothing))
        except InputError:
            options[option] = nothing
    return options


def combinations(options):
    """A cell's name and a value for each of the options."""
    drawn = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in options.items()})
    smooth = [name for name in cells.available() if not cells.find(name).has_surrogate]
    return st.tuples(st.sampled_from(smooth), drawn)


def a_sample_of(size, options):
    """Runs a test with so many combinations, the same every time."""

    def decorate(test):
        return settings(max_examples=size, deadline=None, derandomize=True, database=None)(
            given(combinations(options))(test)
        )

    return decorate


def keeps_the_contract(drawn):
    """A cell with regularisers passes the contract of a cell."""
    name, options = drawn
    options = possible(name, options)

    class Regularised(Wrapped):
        """A cell with regularisers."""

        def __init__(self, input_size, hidden_size):
            cell = cells.create(name, input_size=input_size, hidden_size=hidden_size)
            super().__init__(regularise(cell, **{option: options[option] for option in REGULARISERS}))

    contracts.check_cell(Regularised)


test_a_regularised_cell_keeps_the_contract = a_sample_of(2, REGULARISERS)(keeps_the_contract)
test_many_regularised_cells_keep_the_contract = pytest.mark.slow(a_sample_of(80, REGULARISERS)(keeps_the_contract))


def stack_of(name, options, backend):
    """Two layers in float64, as a model makes them, nothing in them zero."""
    torch.manual_seed(0)

    def cell(input_size, hidden_size):
        return cells.create(name, input_size=input_size, hidden_size=hidden_size)

    model = SequenceModel(Vectors(F), 2, cell, backend, hidden_size=H, num_layers=2, memory_length=20, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.stack.double()


def results(stack, inputs, training=False):
    """Outputs, final states, and the gradients of inputs and parameters, every one of which has to have one."""
    torch.manual_seed(1)
    found = tensors_of(stack.train(training)(inputs))
    weights = [torch.linspace(0.5, 1.5, part.numel(), dtype=part.dtype).view_as(part) for part in found]
    loss = sum((weight * part).sum() for weight, part in zip(weights, found, strict=True))
    return [*found, *torch.autograd.grad(loss, [inputs, *stack.parameters()])]


def close(found, expected):
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def check_stack(name, options, backend):
    """The contract of a layer, for two of them with all that stands in, around and between them."""
    options = possible(name, options)
    stack = stack_of(name, options, "reference")
    inputs = torch.randn(T, B, F, dtype=torch.float64, requires_grad=True)
    parameters = list(stack.parameters())

    for training in (False, True):

        def run(*_, training=training):
            torch.manual_seed(1)  # the same masks each time
            return tuple(tensors_of(stack.train(training)(inputs)))

        has_surrogate = cells.find(name).has_surrogate
        assert has_surrogate or torch.autograd.gradcheck(run, (inputs, *parameters), fast_mode=True)

    expected = stack.eval()(inputs)
    lengths = torch.tensor([2, T, 1])
    outputs, final = stack(inputs, None, lengths)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        mine = map_state(lambda tensor, one=one: tensor[one], final)
        close((outputs[:length, one], mine), stack(inputs[:length, one]))
        assert not outputs[length:, row].any()
    if options["bidirectional"] == "none":
        first, state = stack(inputs[:2])
        rest, final = stack(inputs[2:], state)
        close((torch.cat([first, rest]), final), expected)

    if backend != "reference":
        other = stack_of(name, options, backend)
        other.load_state_dict(stack.state_dict())
        for training in (False, True):
            close(tuple(results(other, inputs, training)), tuple(results(stack, inputs, training)))


def keep_the_contract(drawn):
    """Layers with all options, on the backend that is picked, beside the plain loop."""
    check_stack(*drawn, "auto")


test_layers_with_options_keep_the_contract = a_sample_of(3, ALL)(keep_the_contract)
test_many_layers_with_options_keep_the_contract = pytest.mark.slow(a_sample_of(120, ALL)(keep_the_contract))


@pytest.mark.parametrize("name", tiers.quick_if(cells.available(), {"lstm"}.__contains__))
def test_every_cell_takes_every_option_at_once(name):
    check_stack(name, {option: values[1] for option, values in ALL.items()}, "reference")
