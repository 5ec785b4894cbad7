"""The kernels of cells compiled for three generations of GPUs, without one: nothing spilled, and it fits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STACK = 64
"""Bytes of spilled registers of a thread that a kernel may have."""
QUICK = [("lstm", 128, "bf16", 0, 90), ("layernorm_rnn", 100, "tf32", 16, 89)]
WHOLE = [
    ("lstm", 64, "tf32", 0),
    ("lstm", 64, "ieee", 0),
    ("gru", 64, "tf32", 0),
    ("rnn", 128, "bf16", 0),
    ("peephole", 64, "bf16", 0),
    ("layernorm_lstm", 64, "bf16", 0),
    ("mgu", 64, "tf32", 0),
    ("slstm", 64, "bf16", 0),
    ("mingru", 512, "ieee", 0),
]
SPLIT = [(name, 256, how, 16) for name, how in [("lstm", "tf32"), ("gru", "ieee"), ("rnn", "bf16"), ("mut1", "fp16")]]
OTHERS = [(*case, capability) for capability in (80, 89, 90) for case in WHOLE + SPLIT]


def compiled(cases):
    """The numbers of every kernel of some cases, from another process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).with_name("compile_triton.py"), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "cases", [pytest.param(QUICK, id="few"), pytest.param(OTHERS, id="all", marks=pytest.mark.slow)]
)
def test_kernels_compile_without_spills_and_fit(cases):
    pytest.importorskip("triton", minversion="3.7")
    found = compiled(cases)
    assert {tuple(case) for case, *_ in found} == {*cases}
    shared_of = {80: 163, 89: 99, 90: 227}
    for case, kernel, registers, stack, shared in found:
        where = f"{kernel} of {case}: {registers} registers, {stack} bytes of stack, {shared} of shared memory"
        assert stack <= STACK, where
        assert shared <= 1024 * shared_of[case[-1]], where
    kernels = {kernel for case, kernel, *_ in found if tuple(case) == QUICK[0]}
    assert kernels in (set(), {"forward forward", "backward backward", "inference inference"})
