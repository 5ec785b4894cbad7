"""``rnnlab plot``: draw the curves of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnnlab.command import options
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

SYNOPSIS = (("plot run=DIR", "draw the curves of a run: losses, metrics, learning rate, gradient norm"),)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    metrics: str = option("", "metrics to draw, for example loss,accuracy; default: all", "NAMES")
    against: str = option("step", "horizontal axis: step, tokens, seconds or lr, the learning rate of a range test")
    out: str = option("", "write OUT.png and OUT.svg; default: DIR/curves", "NAME")


def run(arguments: list[str]) -> int:
    """Write the figure as PNG and SVG."""
    chosen = options.read(Options, arguments)
    from rnnlab import report
    from rnnlab.analysis import curves

    folder = Path(chosen.run).expanduser()
    if chosen.against not in curves.AXES:
        raise InputError(f"against={chosen.against!r} is not one of {', '.join(curves.AXES)}")
    measured = curves.read(folder, chosen.against)
    names = chosen.metrics.split(",") if chosen.metrics else list(measured)
    unknown = [name for name in names if name not in measured]
    if unknown:
        raise InputError(f"metrics={','.join(unknown)} was not measured; the run has {', '.join(measured)}")
    stem = Path(chosen.out).expanduser() if chosen.out else folder / "curves"
    stem = stem.with_suffix("") if stem.suffix in (".png", ".svg") else stem
    if chosen.out:  # the run's own figure is drawn again
        options.check_new(f"{stem}.png")
        options.check_new(f"{stem}.svg")
    drawn = curves.draw({name: measured[name] for name in names}, str(folder), curves.about(folder), chosen.against)
    report.save(drawn, stem)
    print(f"Written: {stem}.png, {stem}.svg")
    return 0
