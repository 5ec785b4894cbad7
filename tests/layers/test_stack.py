import pytest
import torch
from torch.nn.functional import dropout

from rnnlab import cells
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack
from rnnlab.trees import tensors_of

T, B, F, H = 5, 4, 3, 6


def lstm(input_size, hidden_size):
    return cells.create("lstm", input_size=input_size, hidden_size=hidden_size)


def gru(input_size, hidden_size):
    return cells.create("gru", input_size=input_size, hidden_size=hidden_size, reset="before")


def make_stack(share=0.0):
    """Layers of different cells and widths, so that a mixed-up order would not even run."""
    return Stack([Recurrent(lstm(F, H)), Recurrent(gru(H, 2)), Recurrent(lstm(2, 7))], share)


def by_hand(stack, inputs, state=(None, None, None), lengths=None, between=lambda outputs: outputs):
    low, middle, high = stack.layers
    outputs, first = low(inputs, state[0], lengths)
    outputs, second = middle(between(outputs), state[1], lengths)
    outputs, third = high(between(outputs), state[2], lengths)
    return outputs, (first, second, third)


def assert_same(actual, expected):
    for left, right in zip(tensors_of(actual), tensors_of(expected), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 1, 3])], ids=["full", "lengths"])
def test_a_stack_is_its_layers_one_after_the_other(lengths):
    stack = make_stack()
    inputs = torch.randn(T, B, F)
    assert_same(stack(inputs, None, lengths), by_hand(stack, inputs, lengths=lengths))
    state = ((torch.randn(B, H), torch.randn(B, H)), (torch.randn(B, 2),), (torch.randn(B, 7), torch.randn(B, 7)))
    with_state = stack(inputs, state, lengths)
    assert_same(with_state, by_hand(stack, inputs, state, lengths))
    assert not torch.equal(with_state[0], stack(inputs, None, lengths)[0])


def test_every_parameter_of_every_layer_gets_a_gradient():
    stack = make_stack()
    stack(torch.randn(T, B, F))[0].pow(2).sum().backward()
    for name, parameter in stack.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_state_is_one_per_layer():
    stack = make_stack()
    shapes = [[(B, H)] * 2, [(B, 2)], [(B, 7)] * 2]
    assert [[part.shape for part in state] for state in stack.initial_state(B)] == shapes
    _, final = stack(torch.randn(T, B, F))
    assert isinstance(final, tuple)
    assert [[part.shape for part in state] for state in final] == shapes


def test_a_sequence_may_be_split():
    stack = make_stack().double()
    inputs = torch.randn(T, B, F, dtype=torch.float64)
    whole, final = stack(inputs)
    first, state = stack(inputs[:2])
    rest, split_final = stack(inputs[2:], state)
    # float64: only the rounding of sums of another order, some 1e-16, may differ
    torch.testing.assert_close(torch.cat([first, rest]), whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(split_final, final, rtol=0, atol=1e-13)


def test_dropout_is_between_layers_and_in_training_only():
    stack = make_stack(0.5)
    inputs = torch.randn(T, B, F)
    torch.manual_seed(3)
    dropped = stack(inputs)
    torch.manual_seed(3)
    assert_same(dropped, by_hand(stack, inputs, between=lambda outputs: dropout(outputs, 0.5, training=True)))
    plain = by_hand(stack, inputs)
    assert not torch.equal(dropped[0], plain[0])
    assert_same(stack.eval()(inputs), plain)


def test_nothing_is_dropped_after_the_last_layer():
    stack = Stack([Recurrent(lstm(F, H))], 0.9)
    inputs = torch.randn(T, B, F)
    assert stack.training
    outputs, state = stack.layers[0](inputs)
    assert_same(stack(inputs), (outputs, (state,)))


def test_build_passes_widths_and_options_on():
    stack = Stack.build(lstm, F, H, 3, dropout=0.25, backend="reference", initial_state="learned")
    assert [(layer.cell.input_size, layer.cell.hidden_size) for layer in stack.layers] == [(F, H), (H, H), (H, H)]
    assert [layer.choice.name for layer in stack.layers] == ["reference"] * 3
    assert [len(layer.first) for layer in stack.layers] == [2, 2, 2]
    assert stack.dropout == 0.25
    assert stack.output_size == H
    assert make_stack().output_size == 7


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_dropout_must_be_a_share_below_one(share):
    with pytest.raises(InputError, match="at least 0 and below 1"):
        Stack.build(lstm, F, H, 2, dropout=share)


def test_a_stack_needs_a_layer():
    with pytest.raises(InputError, match="num_layers must be at least 1"):
        Stack.build(lstm, F, H, 0)
    with pytest.raises(InputError, match="at least one layer"):
        Stack([])


@pytest.mark.parametrize("num_layers", [0, 2, 4])
def test_a_state_for_another_number_of_layers_is_refused(num_layers):
    state = Stack.build(lstm, F, H, 4).initial_state(B)[:num_layers]
    with pytest.raises(InputError, match=f"the state is for {num_layers} layers, the stack has 3"):
        make_stack()(torch.randn(T, B, F), state)
