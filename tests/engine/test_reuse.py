"""Memory is used again as soon as nobody holds it, and never before."""

import gc
from contextlib import nullcontext
from threading import Thread

import pytest
import torch
from torch.nn.functional import linear

from rnnlab.engine.cpu import memory
from rnnlab.engine.cpu.linear import Reusing
from rnnlab.engine.cpu.memory import take
from rnnlab.layers import Linear

SHAPE = (5, 100, 700)  # above SMALLEST


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_BLOCKS", [])


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_what_nobody_holds_is_used_again():
    first = take(SHAPE, torch.float32)
    assert first.shape == SHAPE
    assert first.is_contiguous()
    where = address(first)
    second = take(SHAPE, torch.float32)
    assert address(second) != where
    del first
    assert address(take(SHAPE, torch.float32)) == where
    assert address(take((700, 500), torch.float32)) == where  # any shape of the size
    assert address(take((175, 1000), torch.float64)) == where
    assert len(memory._BLOCKS) == 2


HOLD = {
    "a view": lambda t: t[1:],
    "an alias": lambda t: t.detach(),
    "a NumPy array": lambda t: t.numpy(),
    "the storage": lambda t: t.untyped_storage(),
    "a capsule": torch.utils.dlpack.to_dlpack,
    "a graph": lambda t: t * torch.ones(1, requires_grad=True),
}


@pytest.mark.parametrize("how", HOLD)
def test_what_somebody_holds_is_not(how):
    tensor = take(SHAPE, torch.float32)
    where = address(tensor)
    held = HOLD[how](tensor)
    del tensor
    another = take(SHAPE, torch.float32)
    assert address(another) != where
    del held
    gc.collect()
    assert address(take(SHAPE, torch.float32)) == where


def test_what_another_process_may_read_is_not():
    tensor = take(SHAPE, torch.float32).share_memory_()
    where = address(tensor)
    del tensor
    assert address(take(SHAPE, torch.float32)) != where


def test_a_block_serves_what_is_a_little_smaller_and_nothing_larger():
    where = address(take(SHAPE, torch.float32))
    assert address(take((4, *SHAPE[1:]), torch.float32)) == where
    assert address(take((2, *SHAPE[1:]), torch.float32)) != where  # half of it would be lost
    assert address(take((6, *SHAPE[1:]), torch.float32)) != where


def test_small_things_are_left_to_the_c_library():
    take((4, 4), torch.float32)
    assert not memory._BLOCKS


def test_what_is_not_wanted_any_more_is_given_back():
    held = [take(SHAPE, torch.float32) for _ in range(20)]
    assert len(memory._BLOCKS) == 20
    del held
    for _ in range(memory.PATIENCE + 1):
        take(SHAPE, torch.float32)
    assert len(memory._BLOCKS) == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1)])
def test_linear_is_linear(bias, frozen, monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 0)
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(i not in frozen)
        for i, shape in enumerate([(4, 3, 5), (6, 5), (6,)])
    ]
    given = given if bias else given[:2]
    wanted = [tensor for tensor in given if tensor.requires_grad]
    found = []
    for way in (nullcontext, Reusing):
        with way():
            outputs = linear(*given)
        gradients = torch.autograd.grad(outputs.square().sum(), wanted, retain_graph=True) if wanted else ()
        again = ()
        if wanted:
            first = torch.autograd.grad(outputs.pow(3).sum(), wanted, create_graph=True)
            again = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
        found.append([outputs.detach(), *gradients, *again])
    assert not wanted or "_Linear" in type(outputs.grad_fn).__name__  # the last went that way
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 3, 5), (5,)],
        [(4, 3, 5), (6, 5), (1, 6)],
        [(4, 3, 5), (6, 5), (1,)],
        [(4, 3, 0), (6, 0), (6,)],
        [(4, 3, 5), (0, 5)],
        [(4, 0, 5), (6, 5), (6,)],
        [(3, 5), (6, 5)],
    ],
    ids=str,
)
def test_linear_is_linear_of_any_shapes(shapes, monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 0)
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    found = []
    for way in (nullcontext, Reusing):
        with way():
            outputs = linear(*given)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "divide",
    [
        lambda x: x.chunk(4, dim=-1),
        lambda x: x.split([3, 4, 1], dim=-1),
        lambda x: x.unbind(-1),
        lambda x: x.unbind(0),
        lambda x: x.unbind(1),
        lambda x: x.chunk(2, dim=1),
        lambda x: x.unflatten(-1, (4, 2)).unbind(2),
        lambda x: x.unflatten(-1, (4, 2)).unbind(-1),
        lambda x: x.unflatten(-1, (4, 2)).chunk(2, dim=2),
        lambda x: x.unflatten(-1, (4, 2)).split([1, 3], 2),
        lambda x: x.unflatten(-1, (4, 2)).chunk(2, dim=-1),
        lambda x: x.unflatten(-1, (2, 2, 2)).transpose(2, 3).unbind(2),
        lambda x: x.transpose(0, 1).chunk(2, dim=-1),
        lambda x: x.chunk(1, dim=-1),
        lambda x: x[:0].chunk(2, dim=-1),
    ],
)
@pytest.mark.parametrize("size", [(5, 3), (4, 4), (1, 1)])
def test_parts_of_a_tensor_are_those_of_torch(divide, size):
    whole = torch.randn(*size, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for way in (nullcontext, Reusing):
        with way():
            parts = divide(whole)
        powers = [part.pow(n + 2).sum() for n, part in enumerate(parts) if n != 1 or len(parts) < 3]  # one unused
        (first,) = torch.autograd.grad(sum(powers), whole, create_graph=True, materialize_grads=True)
        again = torch.autograd.grad(first.square().sum(), whole, materialize_grads=True)
        found.append([*parts, first, *again])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "batch_size", "inner", "outer"), [(30, 64, 256, 600), (200, 3, 257, 31), (1, 1, 5, 4)]
)
def test_a_linear_layer_computes_what_torch_s_does(steps, batch_size, inner, outer):
    layer, inputs = Linear(inner, outer), torch.randn(steps, batch_size, inner, requires_grad=True)
    outputs = layer(inputs)
    weights = torch.randn_like(outputs)
    found = torch.autograd.grad((outputs * weights).sum(), [inputs, *layer.parameters()])
    exact = [tensor.detach().double().requires_grad_() for tensor in (inputs, *layer.parameters())]
    expected = linear(*exact)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    for one, other in zip((outputs, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_a_linear_layer_respects_autocast_and_transforms():
    layer, inputs = Linear(256, 300), torch.randn(64, 64, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    by_sequence = torch.func.vmap(layer, in_dims=1, out_dims=1)(inputs)
    torch.testing.assert_close(by_sequence, layer(inputs))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_no_gradient_takes_may_be_changed(frozen, monkeypatch):
    """As with ``linear`` itself: inputs are for the gradient of weights, weights for that of inputs."""
    monkeypatch.setattr(memory, "SMALLEST", 0)
    given = [torch.randn(4, 3, 5), torch.randn(6, 5)]
    given[1 - frozen].requires_grad_()
    with Reusing():
        outputs = linear(*given)
    (expected,) = torch.autograd.grad(outputs.sum(), given[1 - frozen], retain_graph=True)
    with torch.no_grad():
        given[1 - frozen].add_(1)
    assert torch.equal(torch.autograd.grad(outputs.sum(), given[1 - frozen])[0], expected)


def test_memory_is_the_cpu_s_whatever_the_default_is():
    with torch.device("meta"):
        assert take(SHAPE, torch.float32).device.type == "cpu"
        assert take((2, 2), torch.float32).device.type == "cpu"


def test_two_who_look_for_memory_at_once(monkeypatch):
    """Neither gets what the other has, and neither waits: it may be a child, or a signal, of the other."""
    take(SHAPE, torch.float32)
    is_free, found = memory._is_free, []

    def looking(block):
        free = is_free(block)
        if not found:
            found.append(None)
            other = Thread(target=lambda: found.append(take(SHAPE, torch.float32)), daemon=True)
            other.start()
            other.join(20)
        return free

    monkeypatch.setattr(memory, "_is_free", looking)
    ours = take(SHAPE, torch.float32)
    assert len(found) == 2
    assert address(ours) != address(found[1])
    assert len(memory._BLOCKS) == 2


def test_what_is_held_for_long_is_forgotten(monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 8)
    held = [take((2,), torch.float32).fill_(i) for i in range(2 * memory.PATIENCE)]
    assert len(memory._BLOCKS) <= memory.PATIENCE + 1
    assert torch.equal(torch.stack(held)[:, 0], torch.arange(2.0 * memory.PATIENCE))


def test_a_torch_that_counts_otherwise_is_not_trusted(monkeypatch):
    assert memory._counts()
    monkeypatch.setattr(memory, "_is_free", lambda block: True)
    monkeypatch.setattr(memory, "_counts", memory._counts.__wrapped__)
    assert not memory._counts()
    assert address(take(SHAPE, torch.float32)) > 0
    assert not memory._BLOCKS
