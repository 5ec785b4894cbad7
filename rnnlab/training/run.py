"""Train, load and evaluate one run."""

from __future__ import annotations

import os
import platform
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rnnlab
from rnnlab import files, lookup
from rnnlab.engine import Choice
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent
from rnnlab.layers.regularisers import as_trained
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training import budget, checkpoint, optimizers, schedulers
from rnnlab.training.build import Config, build_model, build_task, maker
from rnnlab.training.device import autocast, machine, pick_device, seed_everything
from rnnlab.training.directory import RunDirectory, differences
from rnnlab.training.evaluation import evaluate
from rnnlab.training.logger import Logger, check_tensorboard, console
from rnnlab.training.places import find_task
from rnnlab.training.settings import check_known, complete
from rnnlab.training.trainer import Diverged, Trainer, load_weights


def train(config: Config) -> dict[str, Any]:
    """Train the run that ``config`` describes in its ``run_dir``, or resume it.

    Args:
        config: resolved, as ``rnnlab.config`` makes it.

    Returns:
        the run's summary; its ``status`` is ``finished``, ``diverged`` or ``stopped``.

    Raises:
        InputError: something in the configuration cannot be used; nothing has been written then.
    """
    directory = RunDirectory(config["run_dir"])
    directory.check(config)
    summary = directory.summary()
    if summary and summary["status"] != "stopped":
        console.info("%s: this run has already %s and is not trained again", directory.path, _tell(summary))
        return summary

    if config["logger"]["tensorboard"]:
        check_tensorboard()
    seed_everything(config["seed"])
    task = _task(directory, config)
    with as_trained() if directory.is_begun() else nullcontext():
        model = build_model(config, task)
    trainer = Trainer(
        task,
        model,
        maker(config["optimizer"], partial(lookup.find, home=optimizers)),
        maker(config["scheduler"], partial(lookup.find, home=schedulers)),
        seconds=config["budget"]["seconds"],
        **config["trainer"],
    )
    for split in task.splits:
        task.num_batches(split)  # data that cannot be used are found out before anything is written
    if task.batch("train", 0).fresh is not None:
        model.check_carrying()
    identity = {"config": config, "data_digest": task.data_digest(), "folder": os.getcwd()}
    if trainer.init_from and not directory.is_trained():
        trainer.load(_origin(trainer, identity))
        trainer.progress.forget_evaluations()  # another run's best is not in this directory

    with directory.claim(config):
        is_new = not directory.is_trained()
        if not is_new:
            last = _read(directory.last, directory.best)
            _check_data(last, identity)
            trainer.load(last)
        directory.rewind(-1 if is_new else trainer.progress.step)
        return _train_in(directory, trainer, identity, is_new)


def _task(directory: RunDirectory, config: Config) -> Task:
    """The task of a run; a resumed run reads its data as when it was started."""
    if directory.is_trained():
        return find_task({**_read(directory.last, directory.best), "config": config}, directory.path)
    task = build_task(config)
    if config["trainer"]["init_from"]:
        content = checkpoint.load(Path(config["trainer"]["init_from"]).expanduser())
        if complete(content["config"])["task"] == config["task"]:
            task.restore(content["task"])
    return task


def _origin(trainer: Trainer, identity: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of ``trainer.init_from``, after checking that this run can continue from it."""
    path, config = trainer.init_from, identity["config"]
    content = checkpoint.load(Path(path).expanduser())
    parts = ("task", "model", "cell", "optimizer")
    old = complete(content["config"])
    changes = differences({p: old[p] for p in parts}, {p: config[p] for p in parts})
    if changes:
        raise InputError(f"trainer.init_from={path!r} is of another configuration ({'; '.join(changes)})")
    step = content["progress"]["step"]
    if step >= trainer.steps:
        raise InputError(f"trainer.init_from={path!r} is at step {step}; trainer.steps={trainer.steps} must be more")
    seconds = content["progress"]["seconds"]
    if trainer.seconds and seconds >= trainer.seconds:
        raise InputError(
            f"trainer.init_from={path!r} was trained for {seconds:.1f} s; budget.seconds={trainer.seconds} must be more"
        )
    factors = [settings["trainer"]["lr_factors"] or {} for settings in (old, config)]
    if not trainer.has_groups_of(factors[0]):
        raise InputError(
            f"trainer.init_from={path!r} was trained with trainer.lr_factors={factors[0]}, which divides the "
            f"parameters into other groups than {factors[1]}; give the same names in the same order"
        )
    _check_data(content, identity)
    return content


def _read(path: Path, other: Path) -> dict[str, Any]:
    """A checkpoint of a run, or the ``other`` one if it does not exist; an error about damage says what to do."""
    if not path.exists():
        return checkpoint.load(other)
    try:
        return checkpoint.load(path)
    except checkpoint.Damaged as error:
        if not other.exists():
            raise
        raise InputError(f"{error}; delete it, and {other.name} is used in its place") from error


def _check_data(content: dict[str, Any], identity: dict[str, Any]) -> None:
    if content["data_digest"] != identity["data_digest"]:
        raise InputError(
            "the data are not those of the checkpoint, their SHA-256 differs; restore the data it began with"
        )


def _train_in(directory: RunDirectory, trainer: Trainer, identity: dict[str, Any], is_new: bool) -> dict[str, Any]:
    """Train in a locked directory, and write the summary."""
    task, model, at, config = trainer.task, trainer.model, trainer.progress, identity["config"]
    logger = Logger(directory, task.metrics, task.length_metric, **config["logger"])
    summary = _described(trainer, identity)
    console.info("run directory: %s", directory.path)
    for line in task.describe():
        console.info("%s", line)
    console.info("%d parameters on %s", summary["parameters"], trainer.device)
    for choice in _choices(model):
        console.info("backend %s: %s", choice.name, choice.reason)
    if at.step:
        console.info("going on at step %d of %d", at.step, trainer.steps)

    test = None
    try:
        if is_new:
            logger.begin(config)
            trainer.show_sample(logger)
        summary["status"] = trainer.fit(directory, logger, identity)
        if summary["status"] == "finished" and "test" in task.splits and at.best:
            model.load_state_dict(checkpoint.load(directory.best)["model"])
            report = evaluate(model, task, "test", trainer.device, trainer.autocast)
            test = {"step": at.best["step"], **report.record()}
            logger.scalars("test", test["step"], report.record(), at.tokens, at.seconds)
            remark = " (the best checkpoint, measured once)"
            logger.evaluation("test", test["step"], report.values, remark, task.baselines("test"))
    except Diverged as diverged:
        summary |= {"status": "diverged", "diverged_at": diverged.step}
        console.error("%s; the last good checkpoint is kept", diverged)
    finally:
        logger.close()
    summary |= {
        "signal": trainer.signal,
        "ended": trainer.ended,
        "solved": at.solved,
        "steps": at.step,
        "tokens": at.tokens,
        "seconds": at.seconds,
        "tokens_per_second": at.tokens / at.seconds if at.seconds else None,
        "best": at.best,
        "final": at.final,
        "test": test,
        "monitor": task.monitor,
        "metrics": {name: asdict(metric) for name, metric in task.metrics.items()},
        "length_metric": task.length_metric,
        "baselines": {split: task.baselines(split) for split in task.splits},
    }
    files.write_json(directory.summary_file, summary)
    console.info("%s: %s", directory.path, _tell(summary))
    return summary


def _described(trainer: Trainer, identity: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's summary that is known before it is trained."""
    config, task = identity["config"], trainer.task
    size = budget.measure(config, task)
    return {
        "status": "stopped",
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "cell": config["cell"]["name"],
        "seed": config["seed"],
        "config": config,
        "parameters": size.parameters,
        "flops_per_token": size.flops_per_token,
        "budget": budget.deviation(config, task),
        "backend": "+".join(sorted({choice.name for choice in _choices(trainer.model)})),
        "device": str(trainer.device),
        "data_digest": identity["data_digest"],
        "machine": machine(trainer.device),
        "versions": {"rnnlab": rnnlab.__version__, "python": platform.python_version(), "torch": torch.__version__},
    }


def _choices(model: Model) -> set[Choice]:
    """How the cells of a model are run."""
    return {layer.choice for layer in model.modules() if isinstance(layer, Recurrent)}


def load(
    run: str | Path,
    device: str = "auto",
    which: str = "best",
    *,
    backend: str | None = None,
    data_root: str | None = None,
    check_data: bool = False,
) -> tuple[Task, Model, dict[str, Any]]:
    """A trained run's task, its model in evaluation mode, and the checkpoint.

    Args:
        run: the run's directory.
        device: where to put the model.
        which: the checkpoint: ``best`` (the last where none was best yet), ``last``, or ``initial``, the model as it
            began, built anew from the run's seed; what comes with it is the best checkpoint.
        backend: how its cells are run, one of `rnnlab.engine.BACKENDS`; None for the run's own. For ``torch.export``
            and the like, ``reference`` runs the equations as they are written.
        data_root: where the task's data lie; None to look in the environment variable RNNLAB_DATA and where the run
            found them.
        check_data: whether to read the data at once and to compare them with those of the run.

    Raises:
        InputError: it is not a run, its checkpoint cannot be read, or its data are asked for and are not there.
    """
    directory = RunDirectory(run)
    directory.config()
    if which not in ("best", "last", "initial"):
        raise InputError(f"checkpoint={which!r} is not one of best, last, initial")
    content = checkpoint.load(directory.last) if which == "last" else _read(directory.best, directory.last)
    content["config"] = complete(content["config"])
    check_known(content["config"], str(run))
    if backend is not None:
        content["config"]["engine"] = {**content["config"]["engine"], "backend": backend}
    task = find_task(content, directory.path, data_root, check_data)
    with as_trained():
        model = _as_it_began(content, task) if which == "initial" else build_model(content["config"], task)
    if which != "initial":
        load_weights(model, content)
    return task, model.to(pick_device(device)).eval(), content


def _as_it_began(content: dict[str, Any], task: Task) -> Model:
    """The model of a run before its first step."""
    config = content["config"]
    if origin := config["trainer"]["init_from"]:
        raise InputError(f"this run began with the checkpoint {origin}, not anew; look into the run that it is from")
    before = checkpoint.random_states()
    seed_everything(config["seed"])
    try:
        return build_model(config, task)
    finally:
        checkpoint.restore_random_states(before)


def evaluate_run(run: str | Path, split: str, device: str = "auto", *, data_root: str | None = None) -> dict[str, Any]:
    """Every metric of a run's best model on a split, the ``step`` it is from and the task's ``baselines``.

    The run stays as it is. See `load` for ``data_root``.

    Raises:
        InputError: the task has no such split, or the data are not those of the run.
    """
    task, model, content = load(run, device, data_root=data_root, check_data=True)
    if split not in task.splits:
        name = content["config"]["task"]["name"]
        raise InputError(f"the task {name} has no split {split!r}{lookup.nearest(split, list(task.splits))}")
    place = next(model.parameters()).device
    report = evaluate(model, task, split, place, autocast(place, content["config"]["trainer"]["precision"]))
    return {"step": content["progress"]["step"], **report.record(), "baselines": task.baselines(split)}


def _tell(summary: dict[str, Any]) -> str:
    """How a run ended, for the console."""
    if summary["status"] == "diverged":
        return f"diverged at step {summary['diverged_at']}"
    return f"{summary['status']} at step {summary['steps']}"
