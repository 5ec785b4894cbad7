"""What every test runs under."""

import os

# One thread a process: the suite runs in parallel processes, and teams of threads that share two cores wait for
# each other far longer than they compute. Subprocesses of tests inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def data_root():
    """The folder of public data sets; a test that needs it is skipped where there is none."""
    root = os.environ.get("RNNLAB_DATA")
    if not root:
        pytest.skip("RNNLAB_DATA names no folder of public data sets")
    return root
