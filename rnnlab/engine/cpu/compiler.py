"""Compile C with the system's compiler, and find the BLAS inside torch.

Libraries are cached (`rnnlab.engine.cache`). The name of a library contains a digest of everything that it was built
from (text, headers, flags, compiler, processor) and a digest of its content. Therefore a damaged library is never
loaded, and several processes can build the same library at the same time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache, lru_cache
from pathlib import Path

import torch

from rnnlab.engine.cache import NoCompiler, cache_folder

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fno-math-errno",  # but not -ffast-math, which breaks infinities and NaN
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    # By default compilers avoid full AVX-512 vectors, which lowered the clock frequency of older processors.
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
)

SOURCES = Path(__file__).parent / "c"
"""Folder of the C code that is not generated."""


class Blas:
    """Matrix products and threads of the BLAS that torch uses.

    product: the addresses of ``sgemm`` and ``dgemm``, by dtype.
    set_threads: the address of a function that sets the number of threads for the calling thread and returns the
        previous number; 0 if this BLAS has no such function.
    openmp: the addresses of GOMP_parallel, omp_get_thread_num and omp_get_num_threads in torch's OpenMP; zeros if one
        of them is missing.
    """

    def __init__(self) -> None:
        folder = Path(torch.__file__).parent / "lib"
        suffix = "dylib" if sys.platform == "darwin" else "so"
        try:
            library = ctypes.CDLL(str(folder / f"libtorch_cpu.{suffix}"))
            functions = {torch.float32: library.sgemm_, torch.float64: library.dgemm_}
        except (OSError, AttributeError) as error:
            raise NoCompiler(f"torch's library does not export its matrix product ({error})") from error
        self.product = {dtype: _address(function) for dtype, function in functions.items()}
        self.set_threads = _address(getattr(library, "MKL_Set_Num_Threads_Local", None))
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        self.openmp = [_address(getattr(library, name, None)) for name in names]
        if 0 in self.openmp:
            self.openmp = [0, 0, 0]
        self._check(functions[torch.float32])

    @staticmethod
    def _check(sgemm: ctypes._CFuncPtr) -> None:
        """Check the result of one product: a BLAS with 64-bit integers would read wrong sizes."""
        # `like` makes the check independent of the default dtype and device.
        shapes, like = ((2, 3), (3, 4), (2, 4)), {"dtype": torch.float32, "device": "cpu"}
        a, b, c = (torch.arange(m * n, **like).reshape(m, n) for m, n in shapes)
        one, zero = (ctypes.byref(ctypes.c_float(x)) for x in (1, 0))
        m, n, k = (ctypes.byref(ctypes.c_int(x)) for x in (4, 2, 3))
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (b, a, c)]
        sgemm(b"N", b"N", m, n, k, one, pointers[0], m, pointers[1], k, zero, pointers[2], m)
        if not torch.equal(c, a @ b):
            raise NoCompiler("the matrix product in torch's library takes other arguments than expected")


def _address(function: ctypes._CFuncPtr | None) -> int:
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


@lru_cache
def blas() -> Blas:
    """Return the BLAS inside torch.

    Raises:
        NoCompiler: torch's library does not export it, or it has other arguments.
    """
    return Blas()


@lru_cache
def compiler() -> tuple[str, ...]:
    """Return the command of the C compiler: ``$CC``, or the first of cc, gcc and clang that exists.

    Raises:
        NoCompiler: no compiler was found, or ``$CC`` is not a command.
    """
    named = os.environ.get("CC")
    for command in [named] if named else ["cc", "gcc", "clang"]:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise NoCompiler(f"CC={named} is not a valid command ({error})") from error
        path = shutil.which(words[0]) if words else None
        if path:
            return (path, *words[1:])
    raise NoCompiler(
        f"CC={named} is not an executable program; set CC to a C compiler, or unset it"
        if named
        else "there is no C compiler (cc, gcc or clang); install one"
    )


@lru_cache
def surroundings() -> bytes:
    """Return everything that a library depends on besides its own text: headers, compiler, flags, processor."""
    words = compiler()
    real = os.stat(os.path.realpath(words[0]))
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").split("\n\n")[0].splitlines()
        processor += "".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU part")))
    headers = [path.read_text() for path in sorted(SOURCES.glob("*.h"))]
    return repr((words, real.st_size, real.st_mtime_ns, FLAGS, platform.machine(), processor, headers)).encode()


@cache
def load(text: str, *defines: str) -> ctypes.CDLL:
    """Load the library of a C text from the cache, or compile it.

    Args:
        text: the C code; it may include the headers in `SOURCES`.
        defines: macros, such as ``REAL=float``.

    Raises:
        NoCompiler: the compiler is missing or fails; the message contains the first error of the compiler.
    """
    key = hashlib.sha256(surroundings() + repr((defines, text)).encode()).hexdigest()[:32]
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the cache may have been deleted
    for path in folder.glob(f"{key}.*.so"):
        library = _open(path)
        if library is not None:
            return library
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as build:
        source, made = Path(build, "step.c"), Path(build, "step.so")
        source.write_text(text)
        _compile(source, made, defines)
        try:
            library = ctypes.CDLL(str(made))
            os.replace(made, folder / f"{key}.{_digest(made)}.so")
        except OSError as error:
            reason = str(error).rpartition(": ")[2]  # without the path, which is temporary
            raise NoCompiler(f"the library that {compiler()[0]} built cannot be loaded ({reason})") from error
    return library


def _open(path: Path) -> ctypes.CDLL | None:
    """Load a cached library; None if another process has removed it, or if it is damaged. Remove a damaged library."""
    try:
        if _digest(path) == path.suffixes[-2][1:]:
            return ctypes.CDLL(str(path))
        path.unlink()
    except OSError:
        pass
    return None


def _compile(source: Path, target: Path, defines: tuple[str, ...]) -> None:
    options = [*FLAGS, *(f"-D{define}" for define in defines), f"-I{SOURCES}"]
    command = [*compiler(), *options, str(source), "-o", str(target), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{command[0]} cannot be run ({error})") from error
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200]).strip()
        raise NoCompiler(f"{command[0]} fails: {first or f'exit status {done.returncode}, no error message'}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
