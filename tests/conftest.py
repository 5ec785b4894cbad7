"""What every test runs under."""

import gc
import os
import signal

# A shell makes its background processes ignore Ctrl-C, and theirs inherit it; tests stop commands by it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# One thread a process: the suite runs in parallel processes, and teams of threads that share two cores wait for
# each other far longer than they compute. Subprocesses of tests inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import processes
import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's interpreter runs kernels; Triton reads this when it is imported
    # PyTorch would note the stack of each call, for the day that CUDA is initialised.
    torch.cuda.manual_seed_all = lambda seed: None
gc.disable()  # until the tests are collected: nothing of what is made for that is garbage


def pytest_configure():
    processes.programs()  # before pytest-xdist starts its workers, which share them; it costs nothing until first used


def pytest_collection_finish():
    """Collect garbage rarely, and never look at what is there before the first test: a tenth of all time otherwise."""
    gc.enable()
    gc.set_threshold(10_000, 20, 20)
    gc.collect()
    gc.freeze()


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")],
        ),
    ]
)
def device(request):
    """Where the test makes its tensors: a test that asks for it runs once more on a GPU, where there is one."""
    if request.param == "cpu":
        yield torch.device("cpu")
        return
    # cuDNN takes fewer digits of float32 by default than every other way of running a cell.
    with torch.device("cuda", 0) as found, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield found


@pytest.fixture
def data_root():
    """The folder of public data sets; a test that needs it is skipped where there is none."""
    root = os.environ.get("RNNLAB_DATA")
    if not root:
        pytest.skip("RNNLAB_DATA names no folder of public data sets")
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Empty figures, for tests of the text of a report: drawing takes most of its time."""

    def savefig(figure, buffer, format, **options):
        buffer.write(b"" if format == "png" else '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
