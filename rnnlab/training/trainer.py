"""The training loop; it does not depend on any particular task, model or cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rnnlab import diagnostics
from rnnlab.interface import InputError, State, map_state, samples_of
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training import checkpoint
from rnnlab.training.batches import ahead
from rnnlab.training.device import autocast, pick_device
from rnnlab.training.directory import RunDirectory
from rnnlab.training.evaluation import carry, evaluate
from rnnlab.training.lean import without_compiler
from rnnlab.training.logger import Logger
from rnnlab.training.signals import stop_signals


@dataclass
class Progress:
    """Progress of a run, stored in each checkpoint.

    step: number of optimizer steps.
    tokens: input steps trained on.
    seconds: training time, evaluation aside, over all resumes.
    solved: the step at which the target was reached; None before.
    best, final: the best and the latest evaluation, ``{"step", metrics…, "by_length"}``.
    window: loss and gradient norm of each step since the training metrics were last recorded.
    window_tokens, window_seconds: ``tokens`` and ``seconds`` when they were.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    solved: int | None = None
    best: dict[str, Any] | None = None
    final: dict[str, Any] | None = None
    window: list[list[float]] = field(default_factory=list)
    window_tokens: int = 0
    window_seconds: float = 0.0

    def forget_evaluations(self) -> None:
        """Reset the evaluations, and whether the target was reached."""
        self.best = self.final = self.solved = None


class Diverged(Exception):
    """The loss or a gradient is no longer finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"diverged at step {step}: the loss is {loss}, or its gradient is not finite")
        self.step = step


class Trainer:
    """Trains a model on a task.

    Args:
        task: the task.
        model: the model.
        optimizer: makes the optimizer from the model's parameters.
        schedule: ``(step, steps) -> factor`` on the optimizer's learning rate.
        seconds: training time in seconds after which the run ends; None for no limit.
        steps: optimizer steps of the whole run.
        target: the run ends at the first evaluation whose ``task.monitor`` is at least this good.
        log_every: steps between two records of the training metrics.
        eval_every: steps between two evaluations on valid (on train where there is no valid).
        checkpoint_every: steps between two checkpoints; evaluations and stops save one too.
        clip_norm: gradients of a larger total norm are scaled down to it (Pascanu et al., 2013); 0 leaves them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32`` or ``bf16``.
        init_from: the checkpoint of another run to continue from, with its weights, optimizer state and step.
        lr_factors: factors on the learning rate for parameters whose name, as in ``model.named_parameters()``, contains
            the key: ``{recurrent: 0.1}``.
        prefetch: prepare the next batch in another thread while the model trains on the current one; it changes no
            result.

    Raises:
        InputError: an option is out of range or cannot be had on this machine.
    """

    def __init__(
        self,
        task: Task,
        model: Model,
        optimizer: Callable,
        schedule: Callable[[int, int], float],
        seconds: float | None = None,
        *,
        steps: int = 1500,
        target: float | None = None,
        log_every: int = 20,
        eval_every: int = 300,
        checkpoint_every: int = 100,
        clip_norm: float = 1.0,
        device: str = "auto",
        precision: str = "fp32",
        init_from: str | None = None,
        lr_factors: dict[str, float] | None = None,
        prefetch: bool = True,
    ) -> None:
        counts = {"log_every": log_every, "eval_every": eval_every, "checkpoint_every": checkpoint_every}
        for name, value in {"steps": steps, **counts}.items():
            if value < 1:
                raise InputError(f"trainer.{name} is {value}; it must be at least 1")
        if clip_norm < 0:
            raise InputError(
                f"trainer.clip_norm is {clip_norm}; it must be positive, or 0 to leave gradients as they are"
            )
        self.device = pick_device(device)
        self.autocast = autocast(self.device, precision)
        self.task = task
        self.model = model.to(self.device)
        try:
            with without_compiler():
                self.optimizer = optimizer(parameter_groups(model, lr_factors or {}))
        except ValueError as error:  # torch's own word on a negative learning rate and the like
            raise InputError(f"optimizer: {error}") from error
        self.base_lr = [group["lr"] * group.get("lr_factor", 1.0) for group in self.optimizer.param_groups]
        self.schedule = schedule
        self.steps = steps
        self.seconds = seconds
        self.target = target
        self.log_every = log_every
        self.eval_every = eval_every
        self.checkpoint_every = checkpoint_every
        self.clip_norm = clip_norm or float("inf")
        self.init_from = init_from
        self.prefetch = prefetch
        self.progress = Progress()
        self.state: State | None = None
        # The training metrics are recorded as "train", so an evaluation on train has a name of its own.
        self.evaluation_name = "valid" if "valid" in task.splits else "train_eval"
        self.pending: list[Tensor] = []
        self.signal: int | None = None

    def fit(self, directory: RunDirectory, logger: Logger, identity: dict[str, Any]) -> str:
        """Train to the last step, or until a signal stops the run.

        Args:
            directory: where checkpoints go.
            logger: writes measurements and samples.
            identity: stored in each checkpoint: the configuration and the digest of the data, in plain containers.

        Returns:
            ``finished`` or ``stopped``.

        Raises:
            Diverged: the loss or a gradient is no longer finite; the checkpoints are from before.
        """
        task, model, at = self.task, self.model.train(), self.progress
        next_batch = ahead(partial(task.batch, "train"), self.steps, self.prefetch)
        with stop_signals() as caught, logger.bar(at.step, self.steps) as bar, next_batch as get_batch:
            while not self.ended:
                started = perf_counter()
                batch = get_batch(at.step).to(self.device)
                with self.autocast:
                    outputs, self.state = model(batch, carry(model, self.state, batch.fresh))
                total, count = task.loss(outputs, batch)
                loss = total / count
                with without_compiler():
                    self.optimizer.zero_grad()
                    loss.backward()
                    norm = clip_grad_norm_(model.parameters(), self.clip_norm)
                    self.set_learning_rate()
                    self.optimizer.step()

                self.pending.append(torch.stack([loss.detach(), norm]))
                at.step += 1
                at.tokens += batch.num_tokens
                at.seconds += perf_counter() - started
                bar.update()

                done, stop = self.ended is not None, bool(caught)
                if at.step % self.log_every == 0 or done:
                    self.log(logger)
                if at.step % self.eval_every == 0 or done:
                    self.validate(directory, logger, identity)
                    done = self.ended is not None  # the evaluation may have found the task solved
                if at.step % self.checkpoint_every == 0 or at.step % self.eval_every == 0 or done or stop:
                    logger.flush()
                    self.save(directory.last, identity)
                if stop and not done:
                    self.signal = caught[0]
                    return "stopped"
        return "finished"

    @property
    def ended(self) -> str | None:
        """Why training has ended: ``target``, ``steps`` or ``seconds``; None if it has not."""
        if self.progress.solved is not None:
            return "target"
        if self.progress.step >= self.steps:
            return "steps"
        return "seconds" if self.seconds and self.progress.seconds >= self.seconds else None

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next step from the schedule."""
        factor = self.schedule(self.progress.step, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * factor

    def collect(self) -> None:
        """Move the losses and gradient norms since the last call to the host, and check them.

        Raises:
            Diverged: one of them is not finite.
        """
        started = perf_counter()  # on a GPU this waits for the steps themselves
        values = torch.stack(self.pending).tolist() if self.pending else []
        self.progress.seconds += perf_counter() - started
        first = self.progress.step - len(values) + 1
        self.pending.clear()
        for step, (loss, norm) in enumerate(values, first):
            if not (isfinite(loss) and isfinite(norm)):
                raise Diverged(step, loss)
        self.progress.window += values

    def log(self, logger: Logger) -> None:
        """Record the training metrics of the window, and start a new window."""
        self.collect()
        at = self.progress
        losses, norms = zip(*at.window, strict=True)
        speed = (at.tokens - at.window_tokens) / max(at.seconds - at.window_seconds, 1e-9)
        values = {
            **self.task.derive({"loss": sum(losses) / len(losses)}),
            "grad_norm": sum(norms) / len(norms),
            "lr": self.optimizer.param_groups[0]["lr"],
            "tokens_per_second": round(speed, 1),
        }
        logger.scalars("train", at.step, values, at.tokens, at.seconds)
        at.window, at.window_tokens, at.window_seconds = [], at.tokens, at.seconds

    def validate(self, directory: RunDirectory, logger: Logger, identity: dict[str, Any]) -> None:
        """Evaluate the model, save it if it is the best so far, and show a sample."""
        self.collect()
        at, task = self.progress, self.task
        split = "valid" if "valid" in task.splits else "train"
        report = evaluate(self.model, task, split, self.device, self.autocast)
        values = report.values
        logger.scalars(self.evaluation_name, at.step, report.record(), at.tokens, at.seconds)
        at.final = {"step": at.step, **report.record()}
        value, better = values[task.monitor], task.metrics[task.monitor].improves
        is_best = isfinite(value) and (at.best is None or better(value, at.best[task.monitor]))
        if is_best:
            at.best = at.final
        if self.target is not None and isfinite(value) and not better(self.target, value):
            at.solved = at.step
        logger.evaluation(split, at.step, values, " (best so far)" if is_best else "", task.baselines(split))
        self.show_sample(logger)
        if logger.diagnostics:
            self.look_inside(logger, split)
        if is_best:  # after all that belongs to this step, so that a run can go on from it as from the last checkpoint
            logger.flush()
            self.save(directory.best, identity)

    def look_inside(self, logger: Logger, split: str) -> None:
        """Log a diagnosis of the model on the first batch of a split; no result of the run changes."""
        before, started = checkpoint.random_states(), perf_counter()
        try:
            found = diagnostics.diagnose(self.model, self.task, split, diagnostics.LIGHT)
        except InputError as error:  # there is nothing to be seen in this model at this step; the run goes on
            logger.remark(f"no diagnostics: {error}")
            return
        finally:
            checkpoint.restore_random_states(before)
        at = self.progress
        logger.scalars("diagnostics", at.step, diagnostics.scalars(found), at.tokens, at.seconds)
        logger.figures("diagnostics", at.step, found)
        logger.remark(f"step {at.step}  diagnostics took {perf_counter() - started:.1f} s")

    def show_sample(self, logger: Logger) -> None:
        """Log a sample of the model, if the task makes one."""
        self.model.eval()
        try:
            found = self.task.sample(self.model)
        except InputError as error:  # outputs that are not finite; if the next loss is not either, the run ends there
            logger.remark(f"no sample: {error}")
            return
        finally:
            self.model.train()
        for sample in samples_of(found):
            logger.sample(self.progress.step, sample)

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint with everything that resuming needs."""
        self.collect()
        with without_compiler():
            optimizer = self.optimizer.state_dict()
        content = {
            **identity,
            "task": self.task.memory(),
            "model": self.model.state_dict(),
            "optimizer": optimizer,
            "progress": asdict(self.progress),
            "state": None if self.state is None else map_state(Tensor.detach, self.state),
            "random": checkpoint.random_states(),
        }
        checkpoint.save(path, content)

    def load(self, content: dict[str, Any]) -> None:
        """Restore what `save` wrote.

        Raises:
            InputError: it is of a model of other shapes.
        """
        load_weights(self.model, content)
        with without_compiler():
            self.optimizer.load_state_dict(content["optimizer"])
        self.progress = Progress(**content["progress"])
        if content["state"] is not None:
            self.state = map_state(lambda tensor: tensor.to(self.device), content["state"])
        checkpoint.restore_random_states(content["random"])

    def has_groups_of(self, lr_factors: dict[str, float]) -> bool:
        """Whether ``lr_factors`` give the parameter groups that the optimizer has."""
        groups = [group["params"] for group in parameter_groups(self.model, lr_factors)]
        return [list(map(id, group)) for group in groups] == [
            list(map(id, group["params"])) for group in self.optimizer.param_groups
        ]


def load_weights(model: Model, content: dict[str, Any]) -> None:
    """Load the weights of a checkpoint into a model.

    Raises:
        InputError: they do not fit, as where a class from outside has changed.
    """
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1:2]).strip()
        raise InputError(
            f"the weights of the checkpoint do not fit the model ({first}); a class that it is made of has changed"
        ) from error


def parameter_groups(model: Model, lr_factors: dict[str, float]) -> list[dict[str, Any]]:
    """The parameters of a model in groups: one group for each factor on the learning rate, and one for the others.

    Raises:
        InputError: a factor is not positive, or no name holds its key.
    """
    groups = {key: {"params": [], "lr_factor": factor} for key, factor in lr_factors.items()}
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        key = next((key for key in groups if key in name), None)
        (others if key is None else groups[key]["params"]).append(parameter)
    for key, group in groups.items():
        if not group["params"]:
            names = ", ".join(name for name, _ in model.named_parameters())
            raise InputError(f"trainer.lr_factors: no parameter's name holds {key!r}; the names are {names}")
        if group["lr_factor"] <= 0:
            raise InputError(f"trainer.lr_factors: {key} is {group['lr_factor']}; it must be positive")
    return [group for group in ({"params": others}, *groups.values()) if group["params"]]
