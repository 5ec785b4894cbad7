"""What several tests of the engine run under."""

import pytest

from rnnlab.engine import traced
from rnnlab.engine.cpu import gemm, linear
from rnnlab.engine.gpu.kernel import Kernel


@pytest.fixture
def own_products(monkeypatch):
    """``own_products(True)``: our own kernel for matrix products of any size; ``own_products(False)``: the BLAS."""

    def use(own):
        monkeypatch.setenv("RNNLAB_GEMM", "own" if own else "blas")
        gemm.own.cache_clear()
        if own:
            for module, name in ((linear, "LARGE_FOR_OWN"), (gemm, "SMALLEST"), (gemm, "ROWS_TO_PACK")):
                monkeypatch.setattr(module, name, 1)

    yield use
    gemm.own.cache_clear()


@pytest.fixture
def kernels(device, monkeypatch):
    """Let Triton kernels run cells, on a CPU by Triton's interpreter.

    ``kernels.columns`` is the number of columns of a program; 0 for all columns, None to choose as on a GPU.
    """
    pytest.importorskip("triton", minversion=None if device.type == "cuda" else "3.7")  # older ones cannot interpret
    if device.type == "cpu":
        _hasten_interpreter(monkeypatch)

    class Kernels(Kernel):
        columns = 0
        calls = []

        def __init__(self, lowered, dtype, names, device):
            super().__init__(lowered, dtype, names, device, Kernels.columns)

        def call(self, name, *arguments):
            Kernels.calls.append(name)
            return super().call(name, *arguments)

    monkeypatch.setitem(traced.KERNELS, device.type, Kernels)
    Kernels.device = device
    return Kernels


def _hasten_interpreter(monkeypatch):
    """Let Triton's interpreter do once what it repeats: a third of its time."""
    from triton import language
    from triton.runtime import interpreter

    patch, dtype_of = interpreter._patch_lang, interpreter._get_np_dtype

    def patch_once(function):
        """Replace the functions of the language, unless that is done: it is done again for each call in a kernel."""
        used = [one for one in function.__globals__.values() if one is language or one is language.core]
        is_done = not any(language.core.is_builtin(one.load) for one in used)
        return interpreter._LangPatchScope() if is_done else patch(function)

    known = {}  # by identity: to hash a type is to format its name

    def known_dtype(kind):
        if id(kind) not in known:
            known[id(kind)] = kind, dtype_of(kind)
        return known[id(kind)][1]

    monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
    monkeypatch.setattr(interpreter, "_get_np_dtype", known_dtype)
