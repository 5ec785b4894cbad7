"""The states that a layer returns for all steps are those of a layer that is called step by step."""

import pytest
import torch
from test_resets import FRESH, LENGTHS, QUICK, B, F, H, T, draw, leaves_of, loss_of, make, make_cell, randomized
from tiers import quick_if

from rnnlab import __main__, cells, engine
from rnnlab.layers import Block, Recurrent, Stack
from rnnlab.trees import map_state, tensors_of


def step_by_step(layer, inputs, state, fresh=None):
    """Outputs, final state and the states after every step, ``[T, B, ...]``, from calls with one step each."""
    outputs, states = [], []
    for t in range(T):
        if fresh is not None:
            state = map_state(
                lambda new, old, t=t: torch.where(fresh[t].view(-1, *[1] * (old.dim() - 1)), new, old),
                layer.initial_state(B),
                state,
            )
        output, state = layer(inputs[t : t + 1], state)
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs), state, map_state(lambda *column: torch.stack(column), *states)


def check(layer, truth, width=F, **options):
    """Compare values and all gradients of a loss of outputs, final state and states."""
    found = []
    for run in (layer.trajectory, lambda *arguments, **options: step_by_step(truth, *arguments, **options)):
        owner = layer if run == layer.trajectory else truth
        _, state = leaves_of(owner)
        inputs = draw(T, B, width, seed=2).requires_grad_()
        outputs, final, states = run(inputs, state, **options)
        loss = loss_of(outputs, (final, states))
        leaves = [leaf for leaf in (inputs, *tensors_of(state), *owner.parameters()) if leaf.requires_grad]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        zeros = [torch.zeros_like(leaf) for leaf in leaves]
        gradients = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        found.append([outputs, *tensors_of((final, states)), *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", quick_if(cells.available(), QUICK[:2].__contains__))
def test_every_backend_returns_the_states(name):
    truth = make(name, "reference", initial_state="learned")
    for backend in (*engine.backends_of(truth.cell), "auto"):
        layer = make(name, backend, initial_state="learned")
        check(layer, truth)
        check(layer, truth, fresh=FRESH)
        expected = layer(*leaves_of(layer))
        with torch.no_grad():
            found = layer.trajectory(*leaves_of(layer))
        torch.testing.assert_close(found[:2], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_states_are_zero_after_the_end_of_a_sequence(backend):
    layer, inputs = make("lstm", backend), draw(T, B, F, seed=2)
    outputs, final, states = layer.trajectory(inputs, None, LENGTHS)
    whole = layer.trajectory(inputs)
    for b, end in enumerate(LENGTHS.tolist()):
        for ours, last, theirs in zip(states, final, whole[2], strict=True):
            torch.testing.assert_close(ours[:end, b], theirs[:end, b])
            torch.testing.assert_close(ours[end - 1, b], last[b])
            assert not ours[end:, b].any()
    torch.testing.assert_close(outputs, layer(inputs, None, LENGTHS)[0])


def test_a_stack_of_two_directions_returns_the_states_of_every_layer():
    options = {"bidirectional": "concatenate", "norm": "layer", "connection": "residual"}
    stack = randomized(Stack.build(lambda width, _: make_cell("lstm", width), F, H, 2, **options))
    inputs = draw(T, B, F, seed=2)
    outputs, final, states = stack.trajectory(inputs, None, LENGTHS, fresh=FRESH)
    torch.testing.assert_close((outputs, final), stack(inputs, None, LENGTHS, fresh=FRESH))
    for (ahead, back), (of_ahead, of_back) in zip(final, states, strict=True):
        for last, steps in zip(ahead, of_ahead, strict=True):
            torch.testing.assert_close(steps[LENGTHS - 1, range(B)], last)
        for last, steps in zip(back, of_back, strict=True):  # the backward layer ends at the first step
            torch.testing.assert_close(steps[0], last)
    for depth, (of_ahead, of_back) in enumerate(states[:1]):  # h is the output of each direction
        layer = stack.layers[depth]
        torch.testing.assert_close(
            torch.cat([of_ahead[0], of_back[0]], -1), layer(inputs, None, LENGTHS, fresh=FRESH)[0]
        )


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_block_returns_the_tail_of_its_convolution(backend):
    block = randomized(Block(make_cell("gru", H), backend, convolution=3))
    check(block, block, H)
    _, _, ((x1, x2), _) = block.trajectory(draw(T, B, H, seed=2))
    torch.testing.assert_close(x2[1:], x1[:-1])


def test_states_in_half_precision_keep_the_digits_of_the_state():
    layer, inputs = make("lstm", "fused").float(), draw(T, B, F, seed=2).float()
    for backend in ("reference", "fused"):
        other = Recurrent(layer.cell, backend)
        with torch.autocast("cpu", torch.bfloat16):
            outputs, final, (h, c) = other.trajectory(inputs)
        assert {tensor.dtype for tensor in (outputs, *final, h, c)} == {torch.float32}
        torch.testing.assert_close((h[-1], c[-1]), final, rtol=0, atol=0)


def test_explain_prints_the_steps_with_resets_and_states(capsys):
    assert __main__.main(["explain", "cell=rnn", "resets=true", "states=true"]) == 0
    said = capsys.readouterr().out
    assert "torch.where(x4, c2, s5)" in said
    assert "torch.cat([v11, v11], -1)" in said
    assert __main__.main(["explain", "cell=rnn", "resets=yes"]) == 2
    assert "resets='yes' is not one of true, false" in capsys.readouterr().err


@pytest.mark.slow
def test_explain_says_why_states_are_not_compiled(capsys):
    assert __main__.main(["explain", "cell=mlstm", "states=true"]) == 0
    assert "No C code: the step uses cat in a step with heads" in capsys.readouterr().out
