"""Compile the kernels of cells for GPUs that are not here, as far as Triton's launch goes without one.

A process of its own, as Triton's interpreter and compiler exclude each other: ``compile_triton.py '[CASE, ...]'`` with
cases ``[cell, hidden size, precision, columns of a program, compute capability]``. It prints a line of JSON for each
kernel: case, name, registers, bytes of stack of a thread, which hold spilled registers, and bytes of shared memory.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from rnnlab import cells
from rnnlab.engine import fused, traced
from rnnlab.engine.gpu import fit
from rnnlab.engine.gpu.kernel import Kernel
from rnnlab.engine.gpu.load import load

SHARED = {80: 163, 89: 99, 90: 227}
"""KiB of shared memory of a program, by compute capability: A100, L4 and RTX 40, H100 and H200."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class NoDevice:
    """What a launch asks a driver for before it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability  # kernels are cached for each device

    def get_current_stream(self, device=0):
        return 0

    def is_active(self):
        return True

    def map_python_to_cpp_type(self, kind):
        return kind


def usage(cubin):
    """Registers and bytes of stack of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return int(registers), int(stack)


def compile_case(name, width, precision, columns, capability):
    """Run a layer whose launches compile and do nothing else; return what each kernel uses."""
    driver.set_active(NoDevice(capability))
    fit.shared_memory = lambda device: 1024 * SHARED[capability]
    found = {}

    class Compiled(Kernel):
        def __init__(self, lowered, dtype, names, device):
            super().__init__(lowered, dtype, names, device, columns)

        def launch(self, source, name, grid, *arguments, **options):
            name = f"{source.name} {name}"
            if name not in found:
                kernel = getattr(load(source.text), name.split()[1])
                made = kernel.warmup(*arguments, grid=grid, **options)
                found[name] = (*usage(made.asm["cubin"]), made.metadata.shared)

    traced.KERNELS["cpu"] = Compiled
    fused.precision = lambda device, dtype: precision
    fused._needs_loop = lambda step, word: False
    cell = cells.create(name, input_size=16, hidden_size=width)
    inputs = torch.randn(3, 64, 16, requires_grad=True)
    fused.run(cell, inputs, cell.initial_state(64))[0].sum().backward()
    with torch.no_grad():
        fused.run(cell, inputs, cell.initial_state(64))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in json.loads(sys.argv[1]):
        for kernel, numbers in compile_case(*case).items():
            print(json.dumps([case, kernel, *numbers]), flush=True)
