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
from rnnlab import files, lookup, weights
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
from rnnlab.training.evaluation import evaluate, store
from rnnlab.training.logger import Logger, check_trackers, console
from rnnlab.training.places import find_task
from rnnlab.training.settings import check_known, complete
from rnnlab.training.trainer import Diverged, Trainer, load_weights


def train(config: Config) -> dict[str, Any]:
    """Train the run of ``config`` in its ``run_dir``, or resume it.

    Args:
        config: resolved configuration, as returned by `rnnlab.config.compose`.

    Returns:
        the summary of the run; its ``status`` is ``finished``, ``diverged`` or ``stopped``.

    Raises:
        InputError: the configuration is invalid; nothing has been written.
    """
    directory = RunDirectory(config["run_dir"])
    directory.check(config)
    summary = directory.summary()
    if summary and summary["status"] != "stopped":
        console.info("%s: the run has already ended (%s) and is not trained again", directory.path, _tell(summary))
        return summary

    check_trackers(config["logger"])
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
        task.num_batches(split)  # raises errors about the data before anything is written
    if task.batch("train", 0).fresh is not None:
        model.check_carrying()
    identity = {"config": config, "data_digest": task.data_digest(), "folder": os.getcwd()}
    if trainer.init_weights and not directory.is_trained():
        weights.load(model, trainer.init_weights)
    if trainer.init_from and not directory.is_trained():
        trainer.load(_origin(trainer, identity))
        trainer.progress.forget_evaluations()  # the best checkpoint of the other run is not in this directory

    with directory.claim(config):
        is_new = not directory.is_trained()
        if not is_new:
            last = _read(directory.last, directory.best)
            _check_data(last, identity)
            trainer.load(last)
        directory.rewind(-1 if is_new else trainer.progress.step)
        return _train_in(directory, trainer, identity, is_new)


def _task(directory: RunDirectory, config: Config) -> Task:
    """The task of a run; a resumed run uses the same data as when it was started."""
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
        raise InputError(
            f"trainer.init_from={path!r} has another configuration ({'; '.join(changes)}); use the same task, model, "
            "cell and optimizer"
        )
    step = content["progress"]["step"]
    if step >= trainer.steps:
        raise InputError(f"trainer.init_from={path!r} is at step {step}; trainer.steps={trainer.steps} must be larger")
    seconds = content["progress"]["seconds"]
    if trainer.seconds and seconds >= trainer.seconds:
        raise InputError(
            f"trainer.init_from={path!r} was trained for {seconds:.1f} s; budget.seconds={trainer.seconds} must be "
            "larger"
        )
    factors = [settings["trainer"]["lr_factors"] or {} for settings in (old, config)]
    if not trainer.has_groups_of(factors[0]):
        raise InputError(
            f"trainer.init_from={path!r} was trained with trainer.lr_factors={factors[0]}, whose parameter groups "
            f"differ from those of {factors[1]}; give the same names in the same order"
        )
    _check_data(content, identity)
    return content


def _read(path: Path, other: Path) -> dict[str, Any]:
    """Load a checkpoint of a run, or ``other`` if it does not exist; if it is damaged, the error suggests ``other``."""
    if not path.exists():
        return checkpoint.load(other)
    try:
        return checkpoint.load(path)
    except checkpoint.Damaged as error:
        if not other.exists():
            raise
        raise InputError(f"{error}; delete it to use {other.name} instead") from error


def _check_data(content: dict[str, Any], identity: dict[str, Any]) -> None:
    if content["data_digest"] != identity["data_digest"]:
        raise InputError(
            "the data differ from the data of the checkpoint (another SHA-256); restore the data of the checkpoint"
        )


def _train_in(directory: RunDirectory, trainer: Trainer, identity: dict[str, Any], is_new: bool) -> dict[str, Any]:
    """Train in a locked directory, and write the summary."""
    task, model, at, config = trainer.task, trainer.model, trainer.progress, identity["config"]
    logger = Logger(directory, task.metrics, task.length_metric, task.length_name, **config["logger"])
    summary = _described(trainer, identity)
    console.info("run directory: %s", directory.path)
    for line in task.describe():
        console.info("%s", line)
    console.info("%d parameters on %s", summary["parameters"], trainer.device)
    for choice in _choices(model):
        console.info("backend %s: %s", choice.name, choice.reason)
    if at.step:
        console.info("resuming at step %d of %d", at.step, trainer.steps)

    test = None
    try:
        logger.begin(config, is_new)
        if is_new:
            trainer.show_sample(logger)
        summary["status"] = trainer.fit(directory, logger, identity)
        if summary["status"] == "finished" and "test" in task.splits and at.best:
            model.load_state_dict(checkpoint.load(directory.best)["model"])
            report = evaluate(model, task, "test", trainer.device, trainer.autocast)
            test = {"step": at.best["step"], **report.record()}
            store(report.transcripts, directory.written / "test")
            logger.scalars("test", test["step"], report.record(), at.tokens, at.seconds)
            remark = " (best checkpoint)"
            logger.evaluation("test", test["step"], report.values, remark, task.baselines("test"))
    except Diverged as diverged:
        summary |= {"status": "diverged", "diverged_at": diverged.step}
        console.error("%s; the last good checkpoint is kept", diverged)
    finally:
        logger.close(summary["status"])
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
        "length_name": task.length_name,
        "baselines": {split: task.baselines(split) for split in task.splits},
    }
    files.write_json(directory.summary_file, summary)
    console.info("%s: %s", directory.path, _tell(summary))
    return summary


def _described(trainer: Trainer, identity: dict[str, Any]) -> dict[str, Any]:
    """The entries of the summary that are known before training."""
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
        "state_size": size.state_size,
        "flops_per_token": size.flops_per_token,
        "budget": budget.deviation(config["budget"], size),
        "backend": "+".join(sorted({choice.name for choice in _choices(trainer.model)})),
        "device": str(trainer.device),
        "data_digest": identity["data_digest"],
        "machine": machine(trainer.device),
        "versions": {"rnnlab": rnnlab.__version__, "python": platform.python_version(), "torch": torch.__version__},
    }


def _choices(model: Model) -> set[Choice]:
    """The backends chosen for the recurrent layers of a model."""
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
    """Load a trained run: its task, its model in evaluation mode, and the checkpoint.

    Args:
        run: directory of the run.
        device: device of the model: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        which: ``best`` (``last`` if there is no best checkpoint yet), ``last``, or ``initial``. For ``initial``, the
            untrained model is built from the seed of the run, and the best checkpoint is returned.
        backend: one of `rnnlab.engine.BACKENDS`; None for the backend of the run. Use ``reference`` for
            ``torch.export``: it runs the equations of the cell step by step.
        data_root: folder of the data; None to use the environment variable RNNLAB_DATA or the folder in the
            configuration of the run.
        check_data: whether to read the data now and compare their digest with the digest in the checkpoint.

    Raises:
        InputError: ``run`` is not the directory of a run, its checkpoint cannot be loaded, or the data are not found.
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
    """The model of a run before its first training step."""
    config = content["config"]
    if origin := config["trainer"]["init_from"]:
        raise InputError(
            f"checkpoint=initial: this run continued from the checkpoint {origin}; use the run of that checkpoint"
        )
    if origin := config["trainer"]["init_weights"]:
        raise InputError(f"checkpoint=initial: this run started from the weights in {origin}, not from its seed")
    before = checkpoint.random_states()
    seed_everything(config["seed"])
    try:
        return build_model(config, task)
    finally:
        checkpoint.restore_random_states(before)


def evaluate_run(
    run: str | Path, split: str, device: str = "auto", *, data_root: str | None = None, out: str | Path | None = None
) -> dict[str, Any]:
    """Evaluate the best checkpoint of a run on a split; the directory of the run does not change.

    Args:
        run: directory of the run.
        split: split of the task, such as ``test``.
        device: device of the model: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        data_root: folder of the data, see `load`.
        out: new folder for the task's transcripts, such as hypotheses and references; ``out-2`` if it exists. None to
            write none.

    Returns:
        all metrics, the ``step`` of the checkpoint, the ``baselines`` of the task, and with ``out`` the ``folder`` of
        the transcripts.

    Raises:
        InputError: the task has no such split, or the data differ from the data of the run.
    """
    task, model, content = load(run, device, data_root=data_root, check_data=True)
    if split not in task.splits:
        name = content["config"]["task"]["name"]
        raise InputError(f"the task {name} has no split {split!r}{lookup.nearest(split, list(task.splits))}")
    writes = task.steps_to_write(split) and type(task).transcripts is not Task.transcripts
    if out is not None and not writes and type(task).details is Task.details:
        raise InputError("out= is set, but the model of this task generates nothing in an evaluation; omit out=")
    place = next(model.parameters()).device
    report = evaluate(model, task, split, place, autocast(place, content["config"]["trainer"]["precision"]))
    values = {"step": content["progress"]["step"], **report.record(), "baselines": task.baselines(split)}
    if out is not None:
        folder = files.new_folder(Path(out).expanduser())
        store(report.transcripts, folder)
        values["folder"] = str(folder)
    return values


def _tell(summary: dict[str, Any]) -> str:
    """How a run ended, for the console."""
    if summary["status"] == "diverged":
        return f"diverged at step {summary['diverged_at']}"
    return f"{summary['status']} at step {summary['steps']}"
