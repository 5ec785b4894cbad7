"""``rnnlab explain``: print the generated code for the steps of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnlab.cells import Cell

SYNOPSIS = (
    (
        "explain cell=NAME",
        "print the step of a cell and its derived backward step, as Python and as C or Triton, and its cost",
    ),
    ("explain cell=NAME draw=FILE.svg", "draw the step of a cell: its operations, from the old state to the new one"),
)
NOTES = (
    "NAME is a built-in cell, or my_module:MyCell. cell.OPTION=VALUE sets an option of the cell, as in rnnlab train. "
    "device=cuda prints Triton kernels instead of C. They contain the sizes: hidden_size=N sets the width, 64 by "
    "default, and columns=16 prints the kernels of one time step, which are used for wide cells. resets=true prints "
    "the step that starts again from the initial state where a mask says so, and states=true the step that returns "
    "the state, too."
)


def run(arguments: list[str]) -> int:
    """Print the forward and backward steps, or draw the step."""
    from rnnlab import cells as home
    from rnnlab import config, engine, layers, lookup
    from rnnlab.engine.ir.program import Unsupported
    from rnnlab.training.flops import cost_of

    own = {"device": "cpu", "hidden_size": "", "columns": "0", "resets": "false", "states": "false", "draw": ""}
    own |= dict(one.split("=", 1) for one in arguments if one.partition("=")[0] in own and "=" in one)
    others = [one for one in arguments if one.partition("=")[0] not in own]
    drawing, around = own.pop("draw"), [_AROUND[name] for name in _AROUND if _truth(name, own.pop(name))]
    on_gpu, hidden_size, columns = _checked(**own)
    name, options = lookup.read_section(config.compose(others)["cell"])
    cell = home.create(name, input_size=4, hidden_size=hidden_size, **options)
    cell = layers.Recurrent(cell).around(*(getattr(layers, name) for name in around))
    if drawing:
        _draw(cell, drawing)
        return 0
    engine.choose(cell, "fused")  # raises an error if the cell cannot be fused
    step = engine.fused.traced(cell)
    print(step.python.source)
    try:
        print(step.triton(columns or None) if on_gpu else step.c())
    except Unsupported as error:
        kind = "Triton" if on_gpu else "C"
        print(f"# No {kind} code: the step uses {error}; the Python code above is run instead.")
    cost = cost_of(cell)
    print(f"\n\nFor input_size={cell.input_size} and hidden_size={hidden_size}:", end=" ")
    print(f"{cost.state:,} numbers of state for each sequence;", end=" ")
    print(f"{cost.products:,} operations of matrix products and {cost.elements:,} others for each time step.")
    return 0


def _draw(cell: Cell, path: str) -> None:
    """Write the drawing of a step."""
    from pathlib import Path

    from rnnlab import files
    from rnnlab.command import options
    from rnnlab.diagnostics.step import draw
    from rnnlab.engine.ir.program import Unsupported
    from rnnlab.interface import InputError

    if not path.endswith(".svg"):
        raise InputError(f"draw={path!r} must end in .svg")
    options.check_new(path, "draw")
    try:
        drawing = draw(cell)
    except Unsupported as error:
        raise InputError(f"the step of {type(cell).__name__} cannot be drawn: it uses {error}") from error
    files.write_bytes(Path(path), drawing.encode())
    print(f"Written: {path}")


_AROUND = {"resets": "Resetting", "states": "Exposing"}
"""Classes of `rnnlab.layers` that wrap a cell, by option."""


def _truth(name: str, value: str) -> bool:
    from rnnlab.interface import InputError

    if value not in ("true", "false"):
        raise InputError(f"{name}={value!r} is not one of true, false")
    return value == "true"


def _checked(device: str, hidden_size: str, columns: str) -> tuple[bool, int, int]:
    """Return whether the device is a GPU, the hidden size, and the columns of a program; 0 for all columns."""
    from rnnlab.interface import InputError

    if device not in ("cpu", "cuda"):
        raise InputError(f"device={device!r} is not one of cpu, cuda")
    on_gpu = device == "cuda"
    hidden_size = hidden_size or ("64" if on_gpu else "4")
    if not hidden_size.isdecimal() or not int(hidden_size):
        raise InputError(f"hidden_size={hidden_size!r} must be a positive integer")
    if columns not in ("0", "16", "32", "64", "128"):
        raise InputError(f"columns={columns!r} is not one of 0 (all columns), 16, 32, 64, 128")
    if not on_gpu and columns != "0":
        raise InputError("columns=N is for device=cuda only; leave it out, or add device=cuda")
    return on_gpu, int(hidden_size), int(columns)
