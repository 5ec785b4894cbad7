"""The training loop; it does not depend on any particular task, model or cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from inspect import Parameter, signature
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rnnlab import diagnostics
from rnnlab.interface import Batch, InputError, samples_of
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training import checkpoint
from rnnlab.training.batches import ahead
from rnnlab.training.device import autocast, pick_device
from rnnlab.training.directory import RunDirectory
from rnnlab.training.evaluation import carry, evaluate, store
from rnnlab.training.lean import without_compiler
from rnnlab.training.logger import Logger
from rnnlab.training.progress import Progress
from rnnlab.training.signals import stop_signals
from rnnlab.trees import State, map_state


class Diverged(Exception):
    """The loss or a gradient is no longer finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"diverged at step {step}: the loss ({loss}) or its gradient is not finite")
        self.step = step


class Trainer:
    """Trains a model on a task.

    Args:
        task: the task.
        model: the model.
        optimizer: function from parameter groups to an optimizer.
        schedule: function ``(step, steps) -> factor``, or ``(step, steps, improved) -> factor``; the factor multiplies
            the learning rate. See `rnnlab.training.schedulers`.
        seconds: training time in seconds after which the run ends; None for no limit.
        steps: number of training steps of the whole run.
        target: value of ``task.monitor`` at which the run ends; None to train for all steps.
        patience: number of evaluations in a row without improvement after which the run ends; None for no limit.
        log_every: training steps between two records of the training metrics.
        eval_every: training steps between two evaluations on the valid split, or on train if the task has no valid.
        checkpoint_every: training steps between two checkpoints; each evaluation and each stop also saves one.
        accumulate: number of batches whose gradients are averaged in each training step.
        clip_norm: largest gradient norm (Pascanu et al., 2013); 0 disables clipping.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``fp32``, ``tf32`` (factors of products are rounded on CUDA) or ``bf16`` (`torch.autocast`).
        init_from: checkpoint of another run to continue from, with its weights, optimizer state and step.
        init_weights: file with the weights of recurrent layers to start from, see `rnnlab.weights.load`.
        lr_factors: factors on the learning rate, ``{recurrent: 0.1}``; each applies to the parameters whose name in
            ``model.named_parameters()`` contains the key.
        prefetch: whether to prepare the next batch in another thread; the results do not depend on it.

    Raises:
        InputError: an option is out of range, or not available on this machine.
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
        patience: int | None = None,
        log_every: int = 20,
        eval_every: int = 300,
        checkpoint_every: int = 100,
        accumulate: int = 1,
        clip_norm: float = 1.0,
        device: str = "auto",
        precision: str = "fp32",
        init_from: str | None = None,
        init_weights: str | None = None,
        lr_factors: dict[str, float] | None = None,
        prefetch: bool = True,
    ) -> None:
        counts = {"log_every": log_every, "eval_every": eval_every, "checkpoint_every": checkpoint_every}
        for name, value in {"steps": steps, "accumulate": accumulate, **counts}.items():
            if value < 1:
                raise InputError(f"trainer.{name}={value} must be at least 1")
        if patience is not None and patience < 1:
            raise InputError(f"trainer.patience={patience} must be at least 1, or null for no limit")
        if clip_norm < 0:
            raise InputError(f"trainer.clip_norm={clip_norm} must be positive, or 0 to disable clipping")
        self.device = pick_device(device)
        self.autocast = autocast(self.device, precision)
        self.task = task
        self.model = model.to(self.device)
        try:
            with without_compiler():
                self.optimizer = optimizer(parameter_groups(model, lr_factors or {}))
        except ValueError as error:  # for example, torch refuses a negative learning rate
            raise InputError(f"optimizer: {error}") from error
        self.base_lr = [group["lr"] * group.get("lr_factor", 1.0) for group in self.optimizer.param_groups]
        self.schedule = schedule
        self.follows_evaluations = _positional(schedule) > 2
        self.steps = steps
        self.seconds = seconds
        self.target = target
        self.patience = patience
        self.log_every = log_every
        self.eval_every = eval_every
        self.checkpoint_every = checkpoint_every
        self.accumulate = accumulate
        self.clip_norm = clip_norm or float("inf")
        if init_from and init_weights:
            raise InputError("trainer.init_from and trainer.init_weights are both set; a run starts from one of them")
        self.init_from, self.init_weights = init_from, init_weights
        self.prefetch = prefetch
        self.progress = Progress()
        self.factor()  # raises an error about an option of the schedule before anything is written
        self.state: State | None = None
        # The training metrics are recorded as "train", so an evaluation on train needs another name.
        self.evaluation_name = "valid" if "valid" in task.splits else "train_eval"
        self.pending: list[Tensor] = []
        self.signal: int | None = None

    def fit(self, directory: RunDirectory, logger: Logger, identity: dict[str, Any]) -> str:
        """Train until the run ends, or until a signal stops it.

        Args:
            directory: directory of the run, for its checkpoints.
            logger: logger for measurements and samples.
            identity: entries for each checkpoint: configuration and digest of the data, as plain containers.

        Returns:
            ``finished`` or ``stopped``.

        Raises:
            Diverged: the loss or a gradient is no longer finite; the checkpoints of earlier steps remain.
        """
        task, model, at = self.task, self.model.train(), self.progress
        next_batch = ahead(partial(task.batch, "train"), self.steps * self.accumulate, self.prefetch)
        with stop_signals() as caught, logger.bar(at, self.steps, self.seconds) as update, next_batch as get_batch:
            while not self.ended:
                started = perf_counter()
                with without_compiler():
                    self.optimizer.zero_grad()
                first = at.step * self.accumulate
                losses = [self.backward(get_batch(first + part)) for part in range(self.accumulate)]
                loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
                with without_compiler():
                    norm = clip_grad_norm_(model.parameters(), self.clip_norm)
                    self.set_learning_rate()
                    self.optimizer.step()

                self.pending.append(torch.stack([loss, norm]))
                at.step += 1
                at.seconds += perf_counter() - started
                update()

                done, stop = self.ended is not None, bool(caught)
                if at.step % self.log_every == 0 or done:
                    self.log(logger)
                if at.step % self.eval_every == 0 or done:
                    self.validate(directory, logger, identity)
                    done = self.ended is not None  # the evaluation may have reached the target
                if at.step % self.checkpoint_every == 0 or at.step % self.eval_every == 0 or done or stop:
                    logger.flush()
                    self.save(directory.last, identity)
                if stop and not done:
                    self.signal = caught[0]
                    return "stopped"
        return "finished"

    def backward(self, batch: Batch) -> Tensor:
        """Add the gradient of a batch, divided by ``accumulate``, and return its loss."""
        batch = batch.to(self.device)
        with self.autocast:
            outputs, self.state = self.model(batch, carry(self.model, self.state, batch.fresh))
        total, count = self.task.loss(outputs, batch)
        loss = total / count
        with without_compiler():
            (loss if self.accumulate == 1 else loss / self.accumulate).backward()
        self.progress.tokens += batch.num_tokens
        return loss.detach()

    @property
    def ended(self) -> str | None:
        """The reason why training has ended: ``target``, ``patience``, ``steps`` or ``seconds``; None if it has not."""
        if self.progress.solved is not None:
            return "target"
        if self.patience is not None and self.progress.stale >= self.patience:
            return "patience"
        if self.progress.step >= self.steps:
            return "steps"
        return "seconds" if self.seconds and self.progress.seconds >= self.seconds else None

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next step from the schedule."""
        factor = self.factor()
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * factor

    def factor(self) -> float:
        """The factor of the schedule on the learning rate of the next step."""
        at = self.progress
        return self.schedule(at.step, self.steps, *([at.improved] if self.follows_evaluations else []))

    def collect(self) -> None:
        """Copy the losses and gradient norms since the last call to the CPU, and check them.

        Raises:
            Diverged: a value is not finite.
        """
        started = perf_counter()  # the copy synchronises with the GPU, so it counts as training time
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
        store(report.transcripts, directory.written / split)
        logger.scalars(self.evaluation_name, at.step, report.record(), at.tokens, at.seconds)
        at.final = {"step": at.step, **report.record()}
        value, better = values[task.monitor], task.metrics[task.monitor].improves
        is_best = isfinite(value) and (at.best is None or better(value, at.best[task.monitor]))
        at.improved.append(is_best)
        if is_best:
            at.best = at.final
        if self.target is not None and isfinite(value) and not better(self.target, value):
            at.solved = at.step
        logger.evaluation(split, at.step, values, " (best so far)" if is_best else "", task.baselines(split))
        self.show_sample(logger)
        if logger.diagnostics:
            self.look_inside(logger, split)
        if is_best:  # last, so that the run can be resumed from this checkpoint with all output of the step written
            logger.flush()
            self.save(directory.best, identity)

    def look_inside(self, logger: Logger, split: str) -> None:
        """Log a diagnosis of the model on the first batch of a split, without changing the results of the run."""
        before, started = checkpoint.random_states(), perf_counter()
        try:
            found = diagnostics.diagnose(self.model, self.task, split, diagnostics.LIGHT)
        except InputError as error:  # the model cannot be diagnosed at this step; training continues
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
        except InputError as error:  # outputs are not finite; training ends only if the loss is not finite
            logger.remark(f"no sample: {error}")
            return
        finally:
            self.model.train()
        for sample in samples_of(found):
            logger.sample(self.progress.step, sample)

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint with everything needed to resume the run."""
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
        """Restore the state that `save` wrote.

        Raises:
            InputError: the shapes of the weights do not match the model.
        """
        load_weights(self.model, content)
        with without_compiler():
            self.optimizer.load_state_dict(content["optimizer"])
        self.progress = Progress(**content["progress"])
        if content["state"] is not None:
            self.state = map_state(lambda tensor: tensor.to(self.device), content["state"])
        checkpoint.restore_random_states(content["random"])

    def has_groups_of(self, lr_factors: dict[str, float]) -> bool:
        """Whether ``lr_factors`` result in the parameter groups of the optimizer."""
        groups = [group["params"] for group in parameter_groups(self.model, lr_factors)]
        return [list(map(id, group)) for group in groups] == [
            list(map(id, group["params"])) for group in self.optimizer.param_groups
        ]


def _positional(function: Callable) -> int:
    """Number of positional parameters of a function."""
    kinds = [parameter.kind for parameter in signature(function).parameters.values()]
    return sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def load_weights(model: Model, content: dict[str, Any]) -> None:
    """Load the weights of a checkpoint into a model.

    Raises:
        InputError: the weights do not match the model, for example because a user-defined class has changed.
    """
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1:2]).strip()
        raise InputError(
            f"the weights of the checkpoint do not match the model ({first}); restore the classes of the model as they "
            "were when it was trained"
        ) from error


def parameter_groups(model: Model, lr_factors: dict[str, float]) -> list[dict[str, Any]]:
    """The parameter groups of a model: one for each factor on the learning rate, and one for all other parameters.

    Raises:
        InputError: a factor is not positive, or no parameter name contains its key.
    """
    groups = {key: {"params": [], "lr_factor": factor} for key, factor in lr_factors.items()}
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        key = next((key for key in groups if key in name), None)
        (others if key is None else groups[key]["params"]).append(parameter)
    for key, group in groups.items():
        if not group["params"]:
            names = ", ".join(name for name, _ in model.named_parameters())
            raise InputError(f"trainer.lr_factors: no parameter name contains {key!r}; the names are {names}")
        if group["lr_factor"] <= 0:
            raise InputError(f"trainer.lr_factors: {key}={group['lr_factor']} must be positive")
    return [group for group in ({"params": others}, *groups.values()) if group["params"]]
