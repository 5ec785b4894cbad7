"""Parse the command line of ``rnnlab train``, then show information, launch one run, or launch a sweep."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rnnlab.config.compose import explained, normalise, resolve
from rnnlab.config.repository import remember
from rnnlab.interface import InputError
from rnnlab.training.sweep import Job

WITHOUT_EFFECT = {
    ("job", "chdir"): "relative paths are relative to the working directory",
    ("run", "dir"): "use run_dir=DIR to set the directory of a run",
    ("sweep", "subdir"): "the directory of a run is derived from its configuration, or set with run_dir=DIR",
}
"""Options of Hydra that have no effect, with the replacement for each."""


class Sweep(NamedTuple):
    """The runs of a sweep.

    folder: folder of the sweep.
    jobs: one job for each run.
    overrides: overrides of each run.
    """

    folder: Path
    jobs: list[Job]
    overrides: list[list[str]]


class CurrentJob(NamedTuple):
    """The run for which Hydra calls ``task`` of `launch`.

    is_sweep: whether the run is part of a sweep.
    launcher: name of the Hydra launcher.
    sweep_dir: folder of the sweep.
    overrides: overrides of the run, as given on the command line.
    """

    is_sweep: bool
    launcher: str
    sweep_dir: str
    overrides: list[str]


def current_job() -> CurrentJob:
    """The run that this process is training."""
    own = HydraConfig.get()
    return CurrentJob(
        own.mode == RunMode.MULTIRUN, own.runtime.choices["hydra/launcher"], own.sweep.dir, own.overrides.task
    )


def launch(arguments: Sequence[str], task: Callable[[DictConfig], None], begin: Callable[[Sweep], None]) -> None:
    """Run a command line of ``rnnlab train``.

    Args:
        arguments: flags and overrides of the command line.
        task: function that trains one run, given the configuration that Hydra composed.
        begin: function called with the runs of a sweep before the first run starts.

    Raises:
        InputError: the command line is invalid.
    """
    request = read(arguments)
    with opened(request) as own, explained():
        name, overrides = request.config_name, request.overrides
        if request.shell_completion:
            own.shell_completion(name, request.given)
        elif request.hydra_help:
            own.hydra_help(name, get_args_parser(), request)
        elif request.info:
            own.show_info(request.info, config_name=name, overrides=overrides)
        elif request.cfg:
            own.show_cfg(name, overrides, request.cfg, request.package, request.resolve)
        elif (composed := _composed(own, request)).hydra.mode == RunMode.MULTIRUN:
            _sweep(own, composed, task, begin)
        else:
            _run(own, composed, task)


def plan(arguments: Sequence[str]) -> Sweep:
    """The runs of a sweep, from its command line; empty if its sweeper chooses the runs adaptively."""
    request = read(arguments)
    with opened(request) as own, explained():
        composed = _composed(own, request)
        return _planned(own, _sweeper(own, composed, lambda _: None), composed)


def read(arguments: Sequence[str]) -> Namespace:
    """Parse the flags and overrides of a command line with Hydra's parser.

    Raises:
        InputError: a flag is unknown, lacks its value, or cannot be combined with another flag.
    """
    parser = get_args_parser()
    parser.error = _refuse
    request = parser.parse_intermixed_args(list(arguments))
    if request.experimental_rerun is not None:
        _refuse("--experimental-rerun is not supported; repeat the same command to resume a run")
    shows = [flag for flag in ("cfg", "info", "hydra_help", "shell_completion") if getattr(request, flag)]
    modes = [*shows, *(flag for flag in ("run", "multirun") if getattr(request, flag))]
    if len(modes) > 1:
        _refuse(f"{' and '.join('--' + mode.replace('_', '-') for mode in modes)} cannot be given together")
    for flag in ("resolve", "package"):
        if getattr(request, flag) and not request.cfg:
            _refuse(f"--{flag} has no effect without --cfg")
    request.config_name = request.config_name or "config"
    for flag in ("config_dir", "config_path"):
        if (folder := getattr(request, flag)) and "://" not in folder:
            path = Path(folder).expanduser().absolute()
            if not path.is_dir():
                _refuse(f"--{flag.replace('_', '-')} {folder} is not a directory")
            setattr(request, flag, str(path))
    request.given = request.overrides
    request.overrides = normalise(request.overrides)
    return request


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}; see rnnlab train --help")


@contextmanager
def opened(request: Namespace) -> Iterator[Hydra]:
    """A context manager that yields Hydra, with the configuration search path of a command line."""
    version.setbase("1.3")
    search_path = create_automatic_config_search_path(None, None, request.config_path or "pkg://rnnlab.conf")
    if request.config_dir:
        before = SearchPathQuery(provider="schema")
        search_path.prepend(provider="command-line", path=f"file://{request.config_dir}", anchor=before)
    own = Hydra.create_main_hydra2("rnnlab", search_path)
    remember(own.config_loader)
    try:
        yield own
    finally:
        GlobalHydra.instance().clear()


def _composed(own: Hydra, request: Namespace) -> DictConfig:
    """Return the configuration with Hydra's part, without the swept values; add the mode to the overrides."""

    def composed(mode: RunMode, **options: Any) -> DictConfig:
        return own.compose_config(request.config_name, request.overrides, mode, **options)

    found = composed(RunMode.MULTIRUN, validate_sweep_overrides=False)
    is_sweep = request.multirun or found.hydra.mode == RunMode.MULTIRUN
    mode = RunMode.MULTIRUN if is_sweep else RunMode.RUN
    given = [f"hydra.mode={mode.name}"]
    found.hydra.mode = mode  # and not composed again with the override, which would take a fifth of a second
    folder = Path(found.hydra.sweep.dir).expanduser()
    if folder != Path(found.hydra.sweep.dir):  # as an override, so that the processes of launchers use it too
        given.append(f'hydra.sweep.dir="{folder}"')
        found.hydra.sweep.dir = str(folder)
    request.overrides.extend(given)
    plain = OmegaConf.to_container(found.hydra, resolve=False)
    for (section, key), instead in WITHOUT_EFFECT.items():
        if plain[section][key] not in (False, None, "."):
            raise InputError(f"hydra.{section}.{key}={plain[section][key]} has no effect; {instead}")
    of_sweeps = [o for o in request.overrides if o.startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper"))]
    if of_sweeps and not is_sweep:
        raise InputError(f"{of_sweeps[0]} has no effect on a single run; add -m to run a sweep")
    overrides = OverridesParser.create(config_loader=own.config_loader).parse_overrides(request.overrides)
    if not is_sweep and any(override.is_sweep_override() for override in overrides):
        composed(mode)  # raises the error of Hydra for several values without -m
    found.hydra.overrides.hydra.extend(given)
    return found


def _run(own: Hydra, composed: DictConfig, task: Callable) -> None:
    """Run a single run."""
    callbacks = Callbacks(composed)
    callbacks.on_run_start(config=composed, config_name=composed.hydra.job.config_name)
    context = HydraContext(config_loader=own.config_loader, callbacks=callbacks)
    result = run_job(task, composed, "hydra.run.dir", None, context)
    callbacks.on_run_end(config=composed, config_name=composed.hydra.job.config_name, job_return=result)
    _ = result.return_value  # raises what the run raised


def _sweep(own: Hydra, composed: DictConfig, task: Callable, begin: Callable[[Sweep], None]) -> None:
    """Launch the runs of a sweep, except runs whose configuration is invalid."""
    sweeper = _sweeper(own, composed, task)
    if not _is_listed(composed):
        sweeper.sweep(arguments=_overrides(composed))
        return
    found = _planned(own, sweeper, composed)
    if not found.jobs:
        raise InputError("the sweep has no runs, because a glob matches nothing or a list of values is empty")
    begin(found)
    runs = [overrides for overrides, job in zip(found.overrides, found.jobs, strict=True) if job.run_dir]
    size = sweeper.max_batch_size or len(runs) or 1
    for first in range(0, len(runs), size):
        for result in sweeper.launcher.launch(runs[first : first + size], initial_job_idx=first):
            _ = result.return_value  # raises what the run raised


def _overrides(composed: DictConfig) -> list[str]:
    """The overrides of the command line, except Hydra's own; interpolations are left for the run to resolve."""
    return OmegaConf.to_container(composed.hydra.overrides.task, resolve=False)


def _is_listed(composed: DictConfig) -> bool:
    """Whether all runs of a sweep are known before the first run; other sweepers choose them adaptively."""
    return composed.hydra.sweeper._target_ == f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


def _sweeper(own: Hydra, composed: DictConfig, task: Callable) -> Any:
    context = HydraContext(config_loader=own.config_loader, callbacks=Callbacks(composed))
    return Plugins.instance().instantiate_sweeper(config=composed, hydra_context=context, task_function=task)


def _planned(own: Hydra, sweeper: Any, composed: DictConfig) -> Sweep:
    """The runs of a sweep; each is composed as its launcher will compose it."""
    folder = str(composed.hydra.sweep.dir)
    if not _is_listed(composed):
        return Sweep(Path(folder), [], [])
    swept = [*sweeper._parse_config(), *_overrides(composed)]
    overrides = OverridesParser.create(config_loader=own.config_loader).parse_overrides(swept)
    (combinations,) = BasicSweeper.split_arguments(overrides, None)
    jobs: list[Job] = []
    for combination in combinations:
        number = sum(job.run_dir is not None for job in jobs)
        name = " ".join(override.lstrip("+") for override in combination)
        try:
            with explained():
                one = own.config_loader.load_sweep_config(composed, combination)
                jobs.append(Job(name, _resolved(one, number, folder, combination)["run_dir"]))
        except (InputError, OSError) as error:
            jobs.append(Job(name, None, str(error)))
    return Sweep(Path(folder), jobs, combinations)


def _resolved(composed: DictConfig, number: int, folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of a run of a sweep, as its launcher will resolve it."""
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)  # for ${hydra:...}
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return resolve(composed, folder, overrides)
