"""The compiled scores of additive attention against the formula in float64."""

import pytest
import torch

from rnnlab.engine import additive_scores
from rnnlab.engine.cpu import compiler, scores


def formula(query, keys, v):
    return torch.einsum("btsa,a->bts", torch.tanh(query[:, :, None] + keys[:, None]), v)


def draw(B, T, S, A, dtype=torch.float32):
    make = torch.Generator().manual_seed(B + T + S + A)
    shapes = ((B, T, A), (B, S, A), (A,), (B, T, S))
    return [torch.randn(shape, generator=make, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(function, tensors, dtype):
    *given, upstream = (tensor.to(dtype) for tensor in tensors)
    given = [tensor.requires_grad_() for tensor in given]
    found = function(*given)
    return found, *torch.autograd.grad(found, given, upstream)


@pytest.fixture
def kernel(monkeypatch):
    """Let the kernel run for every size, and count its calls."""
    if scores._library() is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(scores, "SMALLEST", 1)
    called = []
    original = scores._run
    monkeypatch.setattr(scores, "_run", lambda *args: called.append(1) or original(*args))
    return called


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 5, 7, 33), (2, 200, 150, 64), (17, 9, 9, 256)])
def test_scores_and_gradients(sizes, threads, kernel):
    tensors = draw(*sizes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = gradients(additive_scores, tensors, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert len(kernel) == 2
    for one, exact in zip(found, gradients(formula, tensors, torch.float64), strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=0, atol=5e-6 * float(exact.detach().abs().max()))


def test_the_number_of_threads_changes_no_bit(kernel):
    tensors = draw(13, 20, 21, 40)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(gradients(additive_scores, tensors, torch.float32))
    torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_views_and_large_values(kernel):
    query, keys, v, _ = draw(4, 6, 5, 24)
    query, keys = (100 * query).transpose(0, 1).contiguous().transpose(0, 1), keys.transpose(1, 2).contiguous().mT
    torch.testing.assert_close(additive_scores(query, keys, v), formula(query, keys, v), rtol=1e-5, atol=1e-5)
    keys[0, 0, 0] = torch.nan
    found = additive_scores(query, keys, v)
    assert found[0, :, 0].isnan().all()
    assert found[1:].isfinite().all()


def test_padding_gets_no_gradient(kernel):
    query, keys, v, upstream = draw(3, 4, 5, 8)
    upstream[:, :, 3:] = 0
    keys.requires_grad_()
    additive_scores(query, keys, v).backward(upstream)
    assert not keys.grad[:, 3:].any()
    assert keys.grad[:, :3].all()


def test_second_derivatives(kernel):
    tensors = [tensor.requires_grad_() for tensor in draw(2, 3, 4, 5)[:3]]
    sums = []
    for function in (additive_scores, formula):
        first = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
        sums.append(torch.autograd.grad(sum(one.square().sum() for one in first), tensors))
    for found, exact in zip(*sums, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    assert kernel, "the kernel ran in the forward pass"


def test_other_dtypes_transforms_and_no_compiler_use_the_formula(kernel, monkeypatch):
    query, keys, v, _ = draw(2, 3, 4, 5, torch.float64)
    torch.testing.assert_close(additive_scores(query, keys, v), formula(query, keys, v))
    single = [tensor.float() for tensor in (query, keys, v)]
    found = torch.func.vmap(lambda q, k: additive_scores(q, k, single[2]), in_dims=1)(
        single[0].unsqueeze(1).expand(2, 2, 3, 5), single[1].unsqueeze(1).expand(2, 2, 4, 5)
    )
    torch.testing.assert_close(found[0], formula(*single), rtol=1e-5, atol=1e-5)
    assert not kernel

    def none(text):
        raise compiler.NoCompiler("there is none")

    monkeypatch.setattr(compiler, "load", none)
    scores._library.cache_clear()
    torch.testing.assert_close(additive_scores(*single), formula(*single), rtol=1e-5, atol=1e-5)
    scores._library.cache_clear()
    assert not kernel
