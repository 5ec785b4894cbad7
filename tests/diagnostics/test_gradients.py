"""Norms of dL/dh_t compared with analytic cases, finite differences, and autograd on every backend."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rnnlab import cells
from rnnlab.diagnostics import gates, gradient_flow
from rnnlab.engine import backends_of
from rnnlab.interface import Batch, InputError, Mean, Vectors
from rnnlab.layers import Recurrent
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.outputs import squared_error
from rnnlab.trees import map_state, tensors_of, unstack

F, H, B, T = 3, 4, 2, 7


@pytest.fixture(autouse=True)
def precise():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def a_model(name="lstm", backend="auto", **options):
    def cell(input_size, hidden_size):
        return cells.create(name, input_size=input_size, hidden_size=hidden_size)

    return SequenceModel(Vectors(F), 1, cell, backend, hidden_size=H, **options).eval()


def a_batch(lengths=None, every_step=False):
    targets = torch.full((T, B, 1), torch.nan)
    ends = torch.full((B,), T) if lengths is None else lengths
    targets[ends - 1, torch.arange(B)] = torch.randn(B, 1)
    if every_step:
        targets = torch.randn(T, B, 1)
    return Batch(torch.randn(T, B, F), targets, lengths=lengths)


def loss(outputs, batch):
    return squared_error(outputs, batch.targets)


@torch.no_grad()
def by_hand(model, batch, t):
    """Compute the norms of dL/ds_t by finite differences: change the state at step t and run the remaining steps."""
    cell, size = model.stack.layers[0].cell, 1e-6
    constants, prepared = cell.prepare(batch.inputs)
    state = cell.initial_state(B)
    for step in range(t + 1):
        _, state = cell.step(constants, unstack(prepared)[step], state)

    def rest(state):
        hidden = []
        for step in range(t + 1, T):
            h, state = cell.step(constants, unstack(prepared)[step], state)
            hidden.append(h)
        total, count = loss(model.readout(torch.stack(hidden)), Batch(None, batch.targets[t + 1 :]))
        return total / count

    norms = {}
    for name, place in zip(cell.states, range(len(state)), strict=True):
        grads = torch.zeros(B, H)
        for b in range(B):
            for unit in range(H):
                change = [torch.zeros_like(tensor) for tensor in tensors_of(state)]
                change[place][b, unit] = size
                up, down = (map_state(lambda s, c, sign=sign: s + sign * c, state, tuple(change)) for sign in (1, -1))
                grads[b, unit] = (rest(up) - rest(down)) / (2 * size)
        norms[name] = grads.norm(dim=1)
    return norms


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "ran"])
def test_norms_equal_finite_differences(name):
    model, batch = a_model(name), a_batch()
    flows, _ = gradient_flow(model, batch, loss)
    found = flows["stack.layers.0"].whole.states
    for t in (0, 3):
        torch.testing.assert_close(found["h"][t], by_hand(model, batch, t)["h"], rtol=1e-5, atol=1e-9)


def test_norms_of_the_lstm_equal_its_backward_equations():
    """δc_t = δh_t ⊙ o_t ⊙ (1 - tanh² c_t) + f_{t+1} ⊙ δc_{t+1};  δh_t = Uᵀ δ(i, f, g, o)_{t+1}."""
    model, batch = a_model(), a_batch()
    flows, trajectories = gradient_flow(model, batch, loss)
    found, cell = trajectories["stack.layers.0"], model.stack.layers[0].cell
    c = found.states()["c"]
    before = [state[0] for state in found.before]
    gates = [(cell.W @ x.t()).t() + cell.b + h @ cell.U.t() for x, h in zip(batch.inputs, before, strict=True)]
    i, f, g, o = torch.stack(gates).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    error = 2 * (model.readout(found.outputs[-1]) - batch.targets[-1]) / B
    dh, carried = error @ model.readout.weight, torch.zeros(B, H)
    for t in reversed(range(T)):
        dc = dh * o[t] * (1 - c[t].tanh() ** 2) + carried
        norms = flows["stack.layers.0"].whole.states
        torch.testing.assert_close(norms["h"][t], dh.norm(dim=1))
        torch.testing.assert_close(norms["c"][t], dc.norm(dim=1))
        before_c = c[t - 1] if t else torch.zeros(B, H)
        deltas = (
            dc * g[t] * i[t] * (1 - i[t]),
            dc * before_c * f[t] * (1 - f[t]),
            dc * i[t] * (1 - g[t] ** 2),
            dh * c[t].tanh() * o[t] * (1 - o[t]),
        )
        dh, carried = torch.cat(deltas, -1) @ cell.U, f[t] * dc


def test_gradients_of_a_scalar_linear_cell_are_powers_of_its_weight():
    class Scalar(cells.Cell):
        def __init__(self):
            super().__init__(1, 1)
            self.a = nn.Parameter(torch.tensor([0.8]))

        def prepare(self, inputs):
            return self.a, inputs

        def step(self, a, x, state):
            h = a * state[0] + x
            return h, (h,)

    model = SequenceModel(Vectors(1), 1, lambda *sizes: Scalar(), hidden_size=1)
    targets = torch.full((T, B, 1), torch.nan)
    targets[-1] = 1.0
    flows, trajectories = gradient_flow(model, Batch(torch.randn(T, B, 1), targets), loss)
    flow = flows["stack.layers.0"].last
    ratio = flow.by_distance(flow.total)
    torch.testing.assert_close(ratio / ratio[0], 0.8 ** torch.arange(float(T)))
    assert len(trajectories["stack.layers.0"]) == T


@pytest.mark.parametrize("name", cells.available())
def test_every_cell_has_gradients_and_the_model_is_unchanged(name):
    model, batch = a_model(name), a_batch(every_step=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flows, trajectories = gradient_flow(model, batch, loss)
    flow = flows["stack.layers.0"]
    assert all(norms.shape == (T, B) for norms in flow.whole.states.values())
    assert list(flow.whole.states) == trajectories["stack.layers.0"].names
    assert (flow.whole.total > 0).any()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "lru"])
def test_norms_equal_autograd_from_the_state_on_every_backend(name):
    model, batch, t = a_model(name), a_batch(), 3
    flows, _ = gradient_flow(model, batch, loss)
    found = flows["stack.layers.0"].whole.states
    cell = model.stack.layers[0].cell
    for backend in backends_of(cell):
        layer = Recurrent(cell, backend)
        state = layer(batch.inputs[: t + 1])[1]
        state = map_state(lambda tensor: tensor.detach().requires_grad_(), state)
        outputs = model.readout(layer(batch.inputs[t + 1 :], state)[0])
        total, count = loss(outputs, Batch(None, batch.targets[t + 1 :]))
        grads = torch.autograd.grad(total / count, tensors_of(state), allow_unused=True, materialize_grads=True)
        independent = 1 if name == "lstm" else len(grads)  # the total derivative of c includes the path through h
        for norms, grad in list(zip(found.values(), grads, strict=True))[:independent]:
            torch.testing.assert_close(norms[t], grad.flatten(1).norm(dim=1), msg=lambda m, b=backend: f"{b}: {m}")


def test_distances_count_from_the_end_of_each_sequence():
    model, lengths = a_model(), torch.tensor([T, 4])
    flows, _ = gradient_flow(model, a_batch(lengths), loss)
    flow = flows["stack.layers.0"].last
    assert flow.end.tolist() == [T - 1, 3]
    assert flow.total[4:, 1].isnan().all()
    assert not flow.total[:4].isnan().any()
    both = torch.stack([flow.total[T - 1, 0], flow.total[3, 1]]).square().mean().sqrt()
    torch.testing.assert_close(flow.by_distance(flow.total)[0], both)
    torch.testing.assert_close(
        flow.by_distance(flow.total)[-1], flow.total[0, 0]
    )  # the shorter sequence has no such step


def test_the_last_scored_step_is_found_in_a_padded_batch():
    """Distances count from the last scored step, here before the end of the sequences and of the padded batch."""
    model, every = a_model(), a_batch(every_step=True)
    only = torch.full_like(every.targets, torch.nan)
    only[2] = every.targets[2]
    flows, _ = gradient_flow(model, Batch(every.inputs, only, lengths=torch.tensor([5, 4])), loss)
    assert flows["stack.layers.0"].last.end.tolist() == [2, 2]


def test_the_gradient_of_the_last_scored_step():
    model, every = a_model(), a_batch(every_step=True)
    only = torch.full_like(every.targets, torch.nan)
    only[4] = every.targets[4]
    flows, _ = gradient_flow(model, Batch(every.inputs, only), loss)
    assert flows["stack.layers.0"].last.end.tolist() == [4, 4]
    torch.testing.assert_close(flows["stack.layers.0"].last.total, flows["stack.layers.0"].whole.total)
    several = every.targets.clone()
    several[5:] = torch.nan  # step 4 is now one of five scored steps
    again, _ = gradient_flow(model, Batch(every.inputs, several), loss)
    torch.testing.assert_close(again["stack.layers.0"].last.total * 5, flows["stack.layers.0"].last.total)


def test_layers_are_named_and_reverse_layers_count_in_their_direction():
    model, batch = a_model("gru", num_layers=2, bidirectional="sum"), a_batch()
    flows, _ = gradient_flow(model, batch, loss)
    assert list(flows) == [f"stack.layers.{i}.{way}_layer" for i in (0, 1) for way in ("forward", "backward")]
    assert flows["stack.layers.1.forward_layer"].last.end.tolist() == [T - 1] * B
    assert flows["stack.layers.1.backward_layer"].last.end.tolist() == [0] * B
    assert flows["stack.layers.1.backward_layer"].last.total[1:].eq(0).all()


def test_invalid_input_is_refused():
    with pytest.raises(InputError, match="contains no rnnlab"):
        gradient_flow(nn.Linear(2, 2), a_batch(), loss)
    with pytest.raises(InputError, match="the gradient of the loss is zero at every output"):
        gradient_flow(a_model(), a_batch(), lambda outputs, batch: Mean((0 * outputs).sum(), 1))


def test_gradients_and_gates_stop_at_a_reset():
    model, whole = a_model("gru", num_layers=2), a_batch()
    fresh = torch.zeros(T, B, dtype=torch.bool)
    fresh[4] = True
    flows, seen = gradient_flow(model, replace(whole, fresh=fresh), loss)
    piece = Batch(whole.inputs[4:], whole.targets[4:])
    flows_alone, seen_alone = gradient_flow(model, piece, loss)
    for name, found in seen.items():
        norms, alone = flows[name].whole.states["h"], flows_alone[name].whole.states["h"]
        torch.testing.assert_close(norms[4:], alone)
        assert not norms[:4].any()
        assert found.cell is model.get_submodule(name).cell
        assert not any(tensor.any() for tensor in found.before[4])
        few = found.select(1, steps=5)
        torch.testing.assert_close(torch.stack([h for (h,) in few.after]), few.outputs)
        gate = gates(seen_alone[name])["z"].values
        torch.testing.assert_close(gates(found)["z"].values[4:], gate)
