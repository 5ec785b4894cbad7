"""``rnnlab doctor``: show what rnnlab finds on this machine, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from rnnlab.interface import InputError

SYNOPSIS = (("doctor", "show compiler, BLAS, GPU, data sets and optional packages that are found on this machine"),)

EXTRAS = {
    "plots": ["matplotlib"],
    "text": ["tokenizers", "chatterbot-corpus"],
    "media": ["soundfile", "mido", "pillow"],
}
EXTRAS |= {"sweep": ["hydra-joblib-launcher", "hydra-submitit-launcher"]}
EXTRAS |= {name: [name] for name in ("wandb", "mlflow", "trackio")}
WIDTH = 16

Line = tuple[str, str]


def run(arguments: list[str]) -> int:
    """Print one line for each part of the installation."""
    if arguments:
        raise InputError(f"rnnlab doctor has no options, got {arguments[0]!r}")
    for part in (_versions, _processor, _compiled, _gpu, _data, _packages):
        for name, told in part():
            print(f"{name:<{WIDTH}}{told}")
    return 0


def _versions() -> Iterator[Line]:
    yield "rnnlab", f"{metadata.version('rnnlab')}, {Path(__file__).parents[1]}"
    yield "Python", f"{platform.python_version()}, torch {metadata.version('torch')}"


def _processor() -> Iterator[Line]:
    import torch

    from rnnlab.training.device import machine

    found = machine(torch.device("cpu"))
    yield "processor", f"{found['processor']}, {found['cores']} cores, {torch.backends.cpu.get_cpu_capability()}"
    asked = os.environ.get("OMP_NUM_THREADS")
    yield "threads", f"{found['threads']}" + (f" (OMP_NUM_THREADS={asked})" if asked else "")


def _compiled() -> Iterator[Line]:
    import torch

    from rnnlab import cells, engine
    from rnnlab.engine.cache import NoCompiler, cache_folder, trusted_folder
    from rnnlab.engine.cpu import compiler, tune

    try:
        command = compiler.compiler()
        version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
        yield "C compiler", f"{' '.join(command)}: {version.partition(chr(10))[0]}"
        compiler.blas()
    except (NoCompiler, OSError) as error:
        yield "C compiler", f"not used: {error}; cells run without compiled steps, several times slower"
        return
    choice = engine.choose(cells.create("gru", input_size=8, hidden_size=8), "auto")
    yield "compiled steps", f"backend {choice.name} for gru: {choice.reason}"
    if choice.name == "fused":
        kinds = {"step": "products within a step", "sequence": "products over a sequence"}
        own = [words for use, words in kinds.items() if tune.prefers_own(torch.float32, use)]
        yield "GEMM", f"rnnlab's kernel for {' and '.join(own)}" if own else "torch's BLAS"
    folder = cache_folder()
    remark = (
        "" if folder == trusted_folder() else " (temporary: the usual folder can be written by others, or not at all)"
    )
    yield "cache", f"{folder}: {len(list(folder.glob('*.so')))} compiled steps{remark}"


def _gpu() -> Iterator[Line]:
    import torch

    if not torch.cuda.is_available():
        reason = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no GPU or no driver"
        yield "CUDA", f"not available: {reason}"
        return
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        name = torch.cuda.get_device_name(number)
        yield f"cuda:{number}", f"{name}, {memory:.0f} GiB, sm_{major}{minor}, CUDA {torch.version.cuda}"
    yield "Triton", _installed("triton") or "missing; cells run as recorded operations"


def _data() -> Iterator[Line]:
    from rnnlab.training.build import DATA_ROOT

    named = os.environ.get("RNNLAB_DATA")
    root = Path(named or DATA_ROOT).expanduser()
    whence = "RNNLAB_DATA" if named else "the default of data.root; set RNNLAB_DATA to use another folder"
    if not root.is_dir():
        yield "data", f"{root} does not exist ({whence}); missing data sets are downloaded into it"
        return
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    yield "data", f"{root.resolve()} ({whence}): {', '.join(found) or 'empty'}"


def _packages() -> Iterator[Line]:
    for extra, names in EXTRAS.items():
        versions = {name: _installed(name) for name in names}
        missing = [name for name, version in versions.items() if not version]
        told = [f"{name} {version}" for name, version in versions.items() if version]
        told += [f"missing: {', '.join(missing)} (pip install 'rnnlab[{extra}]')"] if missing else []
        yield f"[{extra}]", ", ".join(told)


def _installed(name: str) -> str:
    """Return the version of a package, or an empty text."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
