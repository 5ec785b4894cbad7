"""Device, precision and seeds of a run."""

from __future__ import annotations

import os
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlab.interface import InputError


def pick_device(name: str) -> torch.device:
    """The device called ``auto`` (CUDA if available, otherwise CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: the name is invalid, or the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise InputError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name!r} is not available: torch finds no CUDA device; use cpu or auto")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={name!r} is not available: torch finds {torch.cuda.device_count()} CUDA devices, numbered from 0"
        )
    return torch.device(name)


def machine(device: torch.device) -> dict[str, Any]:
    """A description of the machine: processor, cores, number of torch threads, device, operating system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": (names or [platform.processor() or platform.machine()])[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.platform(),
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context for ``bf16``; for ``fp32`` and ``tf32`` it is disabled.

    On CUDA this also sets, for the whole process, whether factors of float32 products are rounded to TF32: for ``tf32``
    only. On other devices ``tf32`` is the same as ``fp32``.

    Raises:
        InputError: the precision is unknown, or the device does not support it.
    """
    if precision not in ("fp32", "tf32", "bf16"):
        raise InputError(f"trainer.precision={precision!r} is not one of fp32, tf32, bf16")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(f"trainer.precision=bf16 is not supported by {torch.cuda.get_device_name(device)}; use fp32")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def check_seed(seed: int) -> None:
    """Raise an InputError unless torch accepts ``seed``."""
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed={seed} must be from -2**63 to 2**64 - 1")


def seed_everything(seed: int) -> None:
    """Seed all global random generators, select deterministic CUDA algorithms and flush denormals to zero.

    Gradients over hundreds of steps become denormal numbers, on which a CPU is a hundred times slower.

    Raises:
        InputError: the seed is out of range.
    """
    check_seed(seed)
    torch.set_flush_denormal(True)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
