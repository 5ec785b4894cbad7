"""The simulated device, and what of rnnlab computes on a device without waiting for it."""

from collections import Counter

import pytest
import torch

if torch.cuda.is_available():
    # With a second device, autograd would ignore the streams of the first one.
    pytest.skip("stands in for a GPU where there is none", allow_module_level=True)

import simulated

from rnnlab.cells.orthogonal.orthogonal import exponential
from rnnlab.heads import CTC
from rnnlab.interface import Batch, on_host, places_of


@pytest.fixture
def sim():
    with simulated.device() as made:
        yield made


A, B = torch.arange(6.0).reshape(2, 3), torch.tensor([[0.5, -1.0, 2.0], [3.0, -0.25, 1.0]])
WAITING = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool((x > 0).all()),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 2],
    "nonzero": lambda x: x.nonzero(),
    "masked assignment": lambda x: x.index_put_((x > 2,), x[0, :1].expand(3)),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "new tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "to": lambda x: torch.ones(3).to(x.device),
    "index on the host": lambda x: x[torch.tensor([1, 0])],
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(2, dtype=torch.int64, device=x.device), 0),
    "multinomial": lambda x: x.softmax(-1).multinomial(1),
}
FREE = {
    "arithmetic": lambda x: (2 * x + 1).tanh().sum(0) / torch.tensor(3.0),
    "views": lambda x: x.t()[1:].unflatten(0, (1, 2)).contiguous().view(4),
    "where": lambda x: torch.where(x > 2, x, 0.0),
    "fill by a mask": lambda x: x.clone().masked_fill_(x > 2, 1.0),
    "number assigned by a mask": lambda x: x.clone().index_put_((x > 2,), torch.tensor(1.0)),
    "index": lambda x: x[torch.ones(1, dtype=torch.int64, device=x.device)],
    "new": lambda x: torch.full((2,), 3.0, device=x.device) + torch.randn(2, device=x.device),
    "asynchronous copy": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "in place": lambda x: x.clone()[1].add_(x[0]),
    "out": lambda x: torch.mul(x, 2, out=torch.empty(0, device=x.device)),
}
MIXED = {
    "sum": lambda x: x + B,
    "product": lambda x: x @ B.t(),
    "where": lambda x: torch.where(x > 0, x, B),
    "cat": lambda x: torch.cat([x, B]),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "loss": lambda x: torch.nn.functional.cross_entropy(x, torch.tensor([0, 1])),
    "layer": lambda x: torch.nn.Linear(3, 2)(x),
    "numpy": lambda x: x.numpy(),
}


@pytest.mark.parametrize("use", WAITING.values(), ids=WAITING)
def test_an_operation_that_needs_a_number_waits(sim, use):
    x = A.to(sim, non_blocking=True)
    use(x)
    assert sum(simulated.waits("none").values()) >= 1


@pytest.mark.parametrize("use", FREE.values(), ids=FREE)
def test_other_operations_do_not_wait_and_compute_the_same(sim, use):
    torch.manual_seed(0)
    found = use(A.to(sim, non_blocking=True))
    assert found.device == sim
    assert not simulated.WAITS
    torch.manual_seed(0)
    assert torch.equal(found.cpu(), use(A.clone()))


@pytest.mark.parametrize("use", MIXED.values(), ids=MIXED)
def test_an_operation_that_mixes_the_devices_fails(sim, use):
    with pytest.raises((RuntimeError, TypeError), match=r"on the CPU|same device|device type"):
        use(A.to(sim))


def test_memory_is_shared_as_on_a_device(sim):
    x = A.to(sim)
    row = x[1]
    row.mul_(10)
    assert x.tolist()[1] == row.tolist() == [30.0, 40.0, 50.0]
    assert A[1, 0] == 3, "the copy on the device has its own memory"


def test_lengths_keep_their_original_on_the_host(sim):
    lengths = torch.tensor([3, 1])
    batch = Batch(torch.zeros(3, 2, 1), torch.zeros(3, 2, 1), lengths, source_lengths=lengths).to(sim)
    assert batch.lengths.device == sim
    assert on_host(batch.lengths) is lengths
    assert batch.num_tokens == 4
    assert not simulated.WAITS
    back = batch.to(torch.device("cpu"))
    assert on_host(back.lengths).tolist() == [3, 1]
    assert on_host(back.lengths).device.type == "cpu"
    assert on_host(lengths.to(sim)).tolist() == [3, 1], "other lengths are copied"


@pytest.mark.parametrize("first", [0, 2])
def test_places_are_those_of_a_mask(first):
    lengths = torch.tensor([3, 1, 5])
    steps = torch.arange(6).unsqueeze(1)
    mask = (steps < lengths) & (steps >= first)
    values = torch.randn(6, 3, 2)
    assert torch.equal(values.flatten(0, 1)[places_of(lengths, 6, first)], values[mask])


def test_labels_of_ctc_are_read_with_one_copy(sim):
    outputs = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    batch = Batch(outputs, outputs, torch.tensor([5, 2, 4])).to(sim)
    found = CTC(3).decode(batch.inputs, batch.lengths)
    assert simulated.waits("none") == {"copy to the host": 1}
    assert [one.tolist() for one in found] == [one.tolist() for one in CTC(3).decode(outputs, torch.tensor([5, 2, 4]))]


@pytest.mark.parametrize("size", [0.0, 0.01, 1.0, 30.0, 300.0])
def test_the_exponential_of_a_matrix_does_not_wait(sim, size):
    A = size * torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = A - A.t()
    found, (gradient,) = derived(A.to(sim))
    assert not simulated.waits("none") - Counter({"copy to the device": 1})
    expected, (other,) = derived(A)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient.cpu(), other, rtol=1e-9, atol=1e-9)


def derived(A):
    A.requires_grad_()
    U = exponential(A)
    return U, torch.autograd.grad(U[0].sum(), A)


def test_the_exponential_of_a_large_matrix_is_not_a_number(sim):
    A = torch.tensor([[0.0, 1e5], [-1e5, 0.0]], device=sim)
    assert exponential(A).isnan().all()
