"""The command: ``rnnlab train | status | compare | evaluate | generate | diagnose | cells | explain | bench``.

Heavy modules are imported by the command that needs them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from rnnlab import streams

if TYPE_CHECKING:
    from rnnlab.text import Speaker

USAGE = """\
rnnlab: a laboratory for recurrent networks

  rnnlab train [key=value ...]                train a model; the same command goes on with a stopped run
  rnnlab train -m key=a,b seed=0,1            train one model for each combination
  rnnlab status DIR                           what of a sweep is done, running, waiting, and how long it will take
  rnnlab compare DIR ... --by KEYS --out OUT  compare runs: statistics, tests, figures, one page to show
  rnnlab evaluate run=DIR split=test          measure a trained model
  rnnlab generate run=DIR prompt=TEXT         let a trained model go on from a text
  rnnlab generate run=DIR interactive=true    talk with it, a line at a time
  rnnlab diagnose run=DIR                     look into it: gradients through time, memory, gates, as a page
  rnnlab cells                                list the recurrent cells
  rnnlab explain cell=NAME                    print a cell's step and the backward step derived from it
  rnnlab bench [key=value ...]                measure how fast cells run; rnnlab bench --help lists its options

Examples:
  rnnlab train experiment=hello
  rnnlab train model=lstm task.corpus=my_book.txt trainer.steps=3000
  rnnlab train -m cell=rnn,lstm,gru seed=0,1,2

rnnlab COMMAND --help lists the options of a command; --traceback shows where an error came from.
Exit codes: 0 done, 1 the process of a sweep's run was killed, 2 something given cannot be used, 3 the run
diverged, 130 and 143 stopped by Ctrl-C and SIGTERM (the run is saved).
"""
STATUS_USAGE = """\
rnnlab status DIR: what of a sweep is done, running, waiting, and how long it will take

  DIR                     the folder of one sweep, its hydra.sweep.dir; runs if no other was named
"""
EVALUATE_USAGE = """\
rnnlab evaluate run=DIR: the metrics of a run's best checkpoint, as one JSON object; rnnlab evaluate DIR is the same

  split=test              or train, valid
  device=auto             or cpu, cuda
  data.root=DIR           where the data lie now; without it RNNLAB_DATA, or where the run found them
"""
GENERATE_USAGE = """\
rnnlab generate run=DIR: generate text from a trained model; rnnlab generate DIR is the same

  prompt=TEXT             what it goes on from, taken literally; without it, what the task begins with
  length=500              how much is generated; characters, of a text
  temperature=0.8         0 takes the most probable each time, 1 draws as the model believes
  top_k=0                 never draw beyond that many most probable; 0 for no such limit
  seed=0                  of the draws
  interactive=false       answer each line of standard input with one of the model's
  device=cpu              or cuda, auto
  data.root=DIR           where the data lie now; without it RNNLAB_DATA, or where the run found them
"""
CELLS_USAGE = """\
rnnlab cells: the recurrent cells, family by family, oldest first; it takes no options
"""
EXPLAIN_USAGE = """\
rnnlab explain cell=NAME: a cell's step as it was traced, the backward step derived from it, and both as C

  cell=gru                a name, or my_module:MyCell
  cell.OPTION=VALUE       the cell's own options, as in rnnlab train
"""
BENCH_USAGE = """\
rnnlab bench: times of a training step and of inference, as ratios

  cells=rnn,lstm,gru      names, with options in brackets: cells='gru,gru(reset=before),my_cells:Mine'
  sizes=64x32x128,...     steps x batch x hidden size; the inputs are as wide as the state
  backend=fused           how our layer is run: auto, reference, fused, scan, native
  threads=1               of torch, and of JAX
  rounds=7                how often each contender is timed
  device=cpu              or cuda
  out=bench               results go to OUT.json and OUT.png, or OUT-2 where they exist; out= writes none
  lengths=false           sequences of random lengths, which torch.nn takes packed
  first_use=false         also what the first use of a cell costs
  memory=false            also the peak memory of a training step

rnnlab bench --all        every built-in cell, as backend=auto runs it, over its floor; takes sizes=64x32x128,
                          threads, rounds and device
"""
COMPARE_USAGE = """\
rnnlab compare DIR ...: compare runs, found in or anywhere below the folders given

  --by cell.name,model.num_layers   what groups differ by; without it, every option that differs but the seed
  --out comparison                  a new folder for index.html, report.md, CSV tables and figures
  --metric accuracy                 what is compared; without it, the task's own
  --tune optimizer.lr               pick this for each group by its best on valid, from runs with seeds that are not
                                    reported
  --tune-seeds 100,101              those seeds; without it, the seeds that were run with several values

Choices go by valid, what is reported by test. Runs of different tasks or data are never mixed.
"""
DIAGNOSE_USAGE = """\
rnnlab diagnose run=DIR: what is inside a trained model; rnnlab diagnose DIR is the same

  out=diagnosis           a folder for page.html, diagnostics.json and the figures; OUT-2 where it exists
  split=valid             of the task; train where there is no valid
  checkpoint=best         or last, or initial: the model as it began
  steps=200               of a stream of text, at most; other tasks give whole sequences
  sequences=4             for Jacobians, exponents and memory; gradients are those of the whole batch
  device=cpu              or cuda, auto
  data.root=DIR           where the data lie now; without it RNNLAB_DATA, or where the run found them
"""
KILLED, BAD_INPUT, DIVERGED = 1, 2, 3


def train(arguments: list[str]) -> int:
    """``rnnlab train``: one run, or with ``-m`` a sweep."""
    streams.keep_going()
    from concurrent.futures import BrokenExecutor

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from rnnlab import config
    from rnnlab.training import sweep
    from rnnlab.training import train as train_run
    from rnnlab.training.directory import Busy
    from rnnlab.training.signals import end_with_parent

    codes, errors, planned, here = [0], [], [], os.getpid()

    def job(composed: DictConfig) -> None:
        streams.keep_going()  # in the processes of a sweep too
        hydra_config = HydraConfig.get()
        is_sweep = hydra_config.mode == RunMode.MULTIRUN
        launcher = hydra_config.runtime.choices["hydra/launcher"]
        is_worker = launcher == "joblib" and os.getpid() != here  # on a cluster runs outlive the command that sent them
        try:
            resolved = config.resolve(composed, hydra_config.sweep.dir, hydra_config.overrides.task)
            if is_worker:
                end_with_parent(here)
            # Several processes speak at the same time.
            _log_to_stdout("" if launcher == "basic" else f"[{Path(resolved['run_dir']).name}] ")
            summary = train_run(resolved)
        except Exception as error:  # caught here, as Hydra would add a line of its own
            if not _is_users(error):
                raise
            if is_sweep and isinstance(error, Busy):  # two processes may share a sweep
                print(f"{error}; the sweep goes on with the next run")
            elif is_sweep:  # the other runs of a sweep go on
                codes.append(BAD_INPUT)
                given = " ".join(override.lstrip("+") for override in hydra_config.overrides.task)
                _complain(f"{sweep.as_typed(given)}: {_sentence(error)}")
            else:
                errors.append(error)
            return
        if summary["status"] == "stopped":
            if is_worker:
                end_with_parent(here)
            raise SystemExit(128 + summary["signal"])  # of a sweep too: the signal was meant for all of it
        if not is_sweep:
            codes.append(DIVERGED if summary["status"] == "diverged" else 0)
            _say_what_next(summary)

    def begin(found: config.Sweep) -> None:
        if any(one.run_dir for one in found.jobs):
            sweep.write_plan(found.folder, arguments, found.jobs)
        for one in found.jobs:
            if not one.run_dir:
                _complain(f"{sweep.as_typed(one.overrides)}: {one.error}")
        planned.extend(found.jobs)

    try:
        config.launch(arguments, job, begin)
    except BrokenExecutor:
        _complain(
            "the process of a run was killed, for want of memory perhaps, and the runs beside it have stopped; the "
            "same command goes on with them"
        )
        return KILLED
    if errors:
        raise errors[0]
    # A run in another process of the sweep cannot say here how it ended; its directory can.
    failed = not all(one.run_dir and sweep.is_dealt_with(one.run_dir) for one in planned)
    return BAD_INPUT if failed else max(codes)


def status(arguments: list[str]) -> int:
    """``rnnlab status``: how far the runs of a sweep are."""
    folders = [argument for argument in arguments if not argument.startswith("-")]
    from rnnlab.interface import InputError
    from rnnlab.training import sweep

    if len(arguments) != 1 or not folders:
        raise InputError("give the folder of one sweep: rnnlab status runs")
    found, problems = sweep.survey(folders[0])
    if found:
        print(sweep.table(found))
    for problem in problems:
        _complain(problem)
    return 0 if found else BAD_INPUT


@dataclass
class CompareOptions:
    """What ``rnnlab compare`` takes beside folders."""

    by: str = ""
    out: str = "comparison"
    metric: str = ""
    tune: str = ""
    tune_seeds: str = ""


def compare(arguments: list[str]) -> int:
    """``rnnlab compare``: runs in groups, on a page, as Markdown and as CSV."""
    from rnnlab.interface import InputError

    folders, given = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):  # --by KEYS, --by=KEYS, and by=KEYS as everywhere else
            name, equals, value = argument[2:].partition("=")
            if not equals and (value := next(rest, None)) is None:
                raise InputError(f"{argument} needs a value; rnnlab compare --help lists the options")
            given.append(f"{name.replace('-', '_')}={value}")
        else:
            (given if "=" in argument and not Path(argument).exists() else folders).append(argument)
    options = _parse(CompareOptions, given)
    from rnnlab import analysis

    if not folders:
        raise InputError("give run directories, or folders that hold some: rnnlab compare runs/adding")
    seeds = [int(seed) if seed.strip().lstrip("-").isdigit() else seed for seed in _words(options.tune_seeds)]
    runs, unreadable = analysis.read(folders)
    compared = analysis.compare(runs, _words(options.by), options.metric or None, _words(options.tune), seeds)
    compared.problems[:0] = unreadable
    out = analysis.write(compared, options.out)
    print(analysis.markdown(compared))
    print(f"Written: {out / 'index.html'}")
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@dataclass
class EvaluateOptions:
    """What ``rnnlab evaluate`` takes."""

    run: str
    split: str = "test"
    device: str = "auto"
    data_root: str = ""


def evaluate(arguments: list[str]) -> int:
    """``rnnlab evaluate``: the metrics of a run's best checkpoint, as one JSON object."""
    options = _parse(EvaluateOptions, arguments)
    from rnnlab import files
    from rnnlab.training import evaluate_run

    values = evaluate_run(options.run, options.split, options.device, data_root=options.data_root or None)
    print(files.to_json({"split": options.split, **values}))
    return 0


@dataclass
class GenerateOptions:
    """What ``rnnlab generate`` takes."""

    run: str
    prompt: str = ""
    length: int = 500
    temperature: float = 0.8
    top_k: int = 0
    seed: int = 0
    device: str = "cpu"
    interactive: bool = False
    data_root: str = ""


def generate(arguments: list[str]) -> int:
    """``rnnlab generate``: the prompt and what the model makes of it, as it is made."""
    options = _parse(GenerateOptions, arguments)
    from rnnlab.interface import InputError
    from rnnlab.training import load
    from rnnlab.training.device import check_seed

    for name in ("length", "temperature", "top_k"):
        if getattr(options, name) < 0:
            raise InputError(f"{name}={getattr(options, name)} is negative; it must be 0 or more")
    if not isfinite(options.temperature):
        raise InputError(f"temperature={options.temperature} is not a finite number; it must be 0 or more")
    check_seed(options.seed)
    task, model, _ = load(options.run, options.device, data_root=options.data_root or None)
    speaker = task.speaker(model, options.temperature, options.top_k, options.seed)
    if options.interactive:
        _converse(speaker, options.length)
    else:
        _print_pieces(speaker.generate(options.prompt or task.default_prompt, options.length))
    return 0


@dataclass
class DiagnoseOptions:
    """What ``rnnlab diagnose`` takes."""

    run: str
    out: str = "diagnosis"
    split: str = ""
    checkpoint: str = "best"
    steps: int = 200
    sequences: int = 4
    device: str = "cpu"
    data_root: str = ""


def diagnose(arguments: list[str]) -> int:
    """``rnnlab diagnose``: what is inside a trained model, as a page, figures and numbers in a folder of their own."""
    options = _parse(DiagnoseOptions, arguments)
    from rnnlab import diagnostics, files
    from rnnlab.training import load

    effort = diagnostics.Effort(steps=options.steps, sequences=options.sequences)
    task, model, content = load(
        options.run, options.device, options.checkpoint, data_root=options.data_root or None, check_data=True
    )
    split = options.split or ("valid" if "valid" in task.splits else "train")
    found = diagnostics.diagnose(model, task, split, effort)
    step = 0 if options.checkpoint == "initial" else content["progress"]["step"]
    name = f"{content['config']['task']['name']} with {content['config']['cell']['name']}, step {step}"
    found = {"run": options.run, "checkpoint": options.checkpoint, "step": step, **found}
    folder = files.new_folder(Path(options.out).expanduser())
    for sentence in diagnostics.write(found, folder, name):
        print(sentence)
    return 0


def _converse(speaker: Speaker, length: int) -> None:
    """Answer each line of standard input with one of the model's, until it ends."""
    from rnnlab.interface import InputError

    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            _print_pieces(speaker.reply(line, length))
        except InputError as error:  # a character the model does not know ends no conversation
            _complain(str(error))


def _print_pieces(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


@dataclass
class NoOptions:
    """What ``rnnlab cells`` takes."""


def cells(arguments: list[str]) -> int:
    """``rnnlab cells``: every built-in cell, family by family, oldest first."""
    _parse(NoOptions, arguments)
    from rnnlab import cells as home
    from rnnlab import engine

    rows = []
    for name in home.available():
        kind, about = home.find(name), home.describe(name)
        parameters = sum(p.numel() for p in kind(128, 128).parameters())
        states, backends = ",".join(kind.states), ",".join(engine.backends_of(kind(4, 4)))
        rows.append((about.family, about.year, name, states, f"{parameters:,}", backends, kind.verified, about.paper))
    heads = ("family", "year", "cell", "states", "parameters", "backends", "verified against", "paper")
    table = [heads, *((row[0], str(row[1]), *row[2:]) for row in sorted(rows))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(
        "\nparameters: with 128 inputs and 128 units. Every cell is also compared with its equations, written naively."
    )
    return 0


def explain(arguments: list[str]) -> int:
    """``rnnlab explain cell=NAME``: a cell's step as it was traced, the backward step derived from it, both as C."""
    from rnnlab import cells as home
    from rnnlab import config, engine, lookup
    from rnnlab.engine.ir.program import Unsupported

    name, options = lookup.read_section(config.compose(arguments)["cell"])
    cell = home.create(name, input_size=4, hidden_size=4, **options)
    engine.choose(cell, "fused")  # says what stands in the way, if anything does
    step = engine.fused.traced(cell)
    print(step.python.source)
    try:
        print(step.c())
    except Unsupported as error:
        print(f"# There is no C: the step does {error}; it runs as the Python above.")
    return 0


@dataclass
class BenchOptions:
    """What ``rnnlab bench`` takes."""

    cells: str = "rnn,lstm,gru"
    sizes: str = "64x32x128,128x64x256,512x16x256,100x1x256,128x64x512"
    backend: str = "fused"
    threads: int = 1
    rounds: int = 7
    device: str = "cpu"
    out: str = "bench"
    lengths: bool = False
    first_use: bool = False
    memory: bool = False


@dataclass
class BenchAllOptions:
    """What ``rnnlab bench --all`` takes."""

    sizes: str = "64x32x128"
    threads: int = 1
    rounds: int = 7
    device: str = "cpu"


def bench(arguments: list[str]) -> int:
    """``rnnlab bench``: how fast cells run, against the floor of their matrix products and against others."""
    if "--all" in arguments:
        return _bench_all([argument for argument in arguments if argument != "--all"])
    options = _parse(BenchOptions, arguments)
    from rnnlab import benchmark, config, lookup

    candidates = []
    for label, name, given in benchmark.read_cells(options.cells):
        section = config.compose([f"cell={name}", *(f"cell.{option}" for option in given)])["cell"]
        candidates.append(benchmark.Candidate(label, *lookup.read_section(section)))
    rest = {key: value for key, value in vars(options).items() if key not in ("cells", "sizes", "out")}
    settings = benchmark.Settings(tuple(candidates), benchmark.read_sizes(options.sizes), **rest)
    if options.out:
        benchmark.check_out(options.out)
    result = benchmark.run(settings, _print_at_once)
    for sentence in benchmark.save(result, options.out) if options.out else []:
        print(sentence)
    return 0


def _bench_all(arguments: list[str]) -> int:
    """``rnnlab bench --all``: the backend that ``auto`` chooses for every built-in cell, and its floor ratio."""
    options = _parse(BenchAllOptions, arguments)
    from rnnlab import benchmark
    from rnnlab import cells as home

    candidates = tuple(benchmark.Candidate(name, name, {}) for name in home.available())
    rest = {key: value for key, value in vars(options).items() if key != "sizes"}
    settings = benchmark.Settings(candidates, benchmark.read_sizes(options.sizes), backend="auto", peers=(), **rest)
    benchmark.run(settings, _print_at_once)
    return 0


def _print_at_once(line: str) -> None:
    print(line, flush=True)


USAGES = {
    "status": STATUS_USAGE,
    "compare": COMPARE_USAGE,
    "evaluate": EVALUATE_USAGE,
    "generate": GENERATE_USAGE,
    "diagnose": DIAGNOSE_USAGE,
    "cells": CELLS_USAGE,
    "explain": EXPLAIN_USAGE,
    "bench": BENCH_USAGE,
}
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "status": status,
    "compare": compare,
    "evaluate": evaluate,
    "generate": generate,
    "diagnose": diagnose,
    "cells": cells,
    "explain": explain,
    "bench": bench,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_traceback = "--traceback" in arguments
    try:
        with streams.prepared():
            try:
                code = _run([argument for argument in arguments if argument != "--traceback"])
                sys.stdout.flush()
                return code
            except Exception as error:
                if show_traceback or not _is_users(error) or isinstance(error, BrokenPipeError):
                    raise
                _complain(_sentence(error))
                return BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads on
        return 0


def _run(arguments: list[str]) -> int:
    """Find the command of a command line and run it."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            _complain(f"{argument!r} is not text in the encoding of this system, {sys.getfilesystemencoding()}")
            return BAD_INPUT
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE + _choices(), end="")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        _complain(f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}")
        return BAD_INPUT
    if {"-h", "--help"} & set(rest):
        print(USAGES[name] if name in USAGES else USAGE + _choices(), end="")
        return 0
    sys.path.append(os.getcwd())  # a user's own cells and tasks lie where they work; last, so that they shadow nothing
    return COMMANDS[name](rest)


def _choices() -> str:
    """Every choice of every group, each with the first line of its file, and every option of the default run."""
    from importlib.resources import files

    folders = [Path(str(files("rnnlab.conf")))]
    if Path("conf").is_dir() and not Path("conf").samefile(folders[0]):
        folders.append(Path("conf"))
    lines, width = [], 39  # of the longest name and two spaces
    for group in ("task", "model", "cell", "optimizer", "scheduler", "trainer", "logger", "experiment"):
        lines += ["", f"{group}="]
        homes = [folder / group for folder in folders]
        found = sorted(
            (file.relative_to(home).with_suffix("").as_posix(), file) for home in homes for file in home.rglob("*.yaml")
        )
        for name, file in sorted(found, key=lambda pair: (pair[0].count("/"), pair)):
            first = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if not line.startswith("# @package")
            ][:1]
            lines.append(f"  {name:<{width}}{''.join(first).removeprefix('# ')}")
    lines += ["", "Every option and its value: rnnlab train --cfg job. Your own files: conf/GROUP/NAME.yaml here, or"]
    lines += ["--config-dir DIR; your own classes: cell=my_module:MyCell, and so for the first five groups.", ""]
    return "\n".join(lines)


def _say_what_next(summary: dict) -> None:
    """The last lines of a run: where it lies, and what to do with it."""
    from rnnlab import lookup, tasks

    config = summary["config"]
    folder = Path(sys.argv[0]).parent
    on_path = shutil.which("rnnlab") == str(folder / "rnnlab")
    program, board = ("rnnlab", "tensorboard") if on_path else (str(folder / "rnnlab"), str(folder / "tensorboard"))
    if not (folder / "rnnlab").exists():
        program, board = "python -m rnnlab", "tensorboard"
    run, console = config["run_dir"], logging.getLogger("rnnlab")
    console.info("")
    console.info("The run lies in %s", run)
    name, _ = lookup.read_section(config["task"])
    if tasks.find(name).speaker is not tasks.Task.speaker:
        console.info("Generate more:  %s generate run=%s length=1000", program, run)
    console.info("See its curves: %s --logdir %s --host 127.0.0.1", board, Path(run).parent)


def _parse(kind: type, arguments: list[str]) -> object:
    """``key=value`` arguments as the dataclass ``kind``; values are taken literally, ``prompt`` above all.

    ``run=`` may be left out before a directory.
    """
    from rnnlab.interface import InputError
    from rnnlab.lookup import nearest

    known = {f.name.replace("data_root", "data.root"): f for f in fields(kind)}
    given = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_directory = key not in known and (Path(argument).exists() or not (equals or argument.startswith("-")))
        if is_directory and "run" in known and "run" not in given:
            key, equals, value = "run", "=", argument
        if not equals or key not in known:
            raise InputError(f"unknown option {argument!r}{nearest(key, list(known))}; options are key=value")
        try:
            given[known[key].name] = {"int": int, "float": float, "str": str, "bool": _truth}[known[key].type](value)
        except (ValueError, KeyError):
            raise InputError(f"{key}={value!r} is not of type {known[key].type}") from None
    for name, option in known.items():
        if option.default is MISSING and name not in given:
            raise InputError(f"{name}= is missing; give the directory of a run")
    return kind(**given)


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: what was given, the machine's files, or a cell, task or model of their own."""
    from rnnlab.interface import InputError

    return isinstance(error, InputError | OSError) or _own_line(error) is not None


def _own_line(error: Exception) -> str | None:
    """Where a file that belongs neither to rnnlab nor to a package installed raised ``error``; None where none did."""
    if isinstance(error, SyntaxError):
        place = (error.filename, error.lineno, None)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = next(((f.filename, f.lineno, f.name) for f in reversed(frames) if _is_own(f.filename)), None)
    if place is None or not _is_own(place[0]):
        return None
    file, line, function = place
    return f"{Path(file).name}, line {line}" + (f", in {function}" if function else "")


def _is_own(file: str | None) -> bool:
    """Whether a file is somebody's own: on the disk, and of neither rnnlab, nor Python, nor what is installed."""
    if file is None or not Path(file).is_file():
        return False
    homes = [Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    return not any(Path(file).resolve().is_relative_to(home.resolve()) for home in homes)


def _sentence(error: Exception) -> str:
    """An error of the user's making in one line."""
    from rnnlab.interface import InputError

    if not isinstance(error, InputError | OSError):
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        text = f"{_own_line(error)}: {type(error).__name__}{f': {what}' if what else ''}"
        return " ".join(f"{text}; --traceback shows the way there".split())
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _complain(sentence: str) -> None:
    print(f"rnnlab: {sentence}", file=sys.stderr)


def _log_to_stdout(prefix: str = "") -> None:
    logger = logging.getLogger("rnnlab")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.handlers[0].setFormatter(logging.Formatter(prefix.replace("%", "%%") + "%(message)s"))


if __name__ == "__main__":
    sys.exit(main())
