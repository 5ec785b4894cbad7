"""The training loop: schedules, optimizers, clipping, evaluation, the best checkpoint, divergence, records."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import ClassVar

import processes
import pytest
import torch
from torch import nn

from rnnlab import config, lookup
from rnnlab.interface import Batch, InputError, Mean, Metric, Vectors
from rnnlab.tasks import Task
from rnnlab.training import checkpoint, evaluate_run, optimizers, schedulers, train
from rnnlab.training.build import build
from rnnlab.training.device import autocast, pick_device, seed_everything
from rnnlab.training.evaluation import carry, evaluate
from rnnlab.trees import tensors_of

CPU = torch.device("cpu")


class Sums(Task):
    """Add up two numbers at every step; what a test wants to go wrong is an option.

    Args:
        seed: of the training batches.
        data_root: not used.
        splits: which splits there are.
        nan_at: the training batch with a target that is not a number.
        opposite: whether valid and test want the negative sum, so that they get worse while training goes on.
    """

    input = Vectors(2)
    output_size = 1
    metrics: ClassVar = {"loss": Metric("squared error"), "bias": Metric("mean error"), "rmse": Metric("error")}

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        splits: list[str] = ("train", "valid", "test"),
        nan_at: int = -1,
        opposite: bool = False,
    ) -> None:
        super().__init__(seed, data_root)
        self.splits = tuple(splits)
        self.nan_at = nan_at
        self.opposite = opposite

    def batch(self, split, step):
        size = 4 if split == "train" else 1 + 3 * step  # batches of an evaluation are unequal on purpose
        inputs = torch.randn(5, size, 2, generator=self.generator(split, step))
        targets = inputs.sum(-1, keepdim=True)
        if split == "train" and step == self.nan_at:
            targets[0, 0] = nan
        if split != "train" and self.opposite:
            targets = -targets
        return Batch(inputs, targets)

    def num_batches(self, split):
        return 3

    def loss(self, outputs, batch):
        return Mean((outputs - batch.targets).square().sum(), batch.targets.numel())

    def measure(self, outputs, batch):
        return {"bias": Mean((outputs - batch.targets).sum(), batch.targets.numel())}

    def derive(self, means):
        return {**means, "rmse": means["loss"] ** 0.5}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory; paths in the tests are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(*options):
    small = ["model.hidden_size=8", "trainer.steps=6", "trainer.eval_every=3", "trainer.log_every=2", "run_dir=a"]
    return config.compose([f"task={__name__}:Sums", "logger.tensorboard=false", *small, *options])


def run(*options):
    return train(settings(*options))


def records(split=None, run_dir="a"):
    lines = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if split in (None, line["split"])]


def weights(name="last", run_dir="a"):
    return checkpoint.load(Path(run_dir, "checkpoints", f"{name}.pt"))["model"]


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in other)


# Schedules


def test_constant_warms_up_then_stays():
    assert [schedulers.constant(step, 9, warmup_steps=4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [schedulers.constant(step, 9) for step in range(3)] == [1, 1, 1]


def test_cosine_warms_up_falls_and_ends_at_final():
    factors = [schedulers.cosine(step, 20, warmup_steps=4, final=0.1) for step in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert all(one > other for one, other in pairwise(factors[4:]))
    assert factors[12] == pytest.approx((1 + 0.1) / 2)  # half-way down
    assert factors[20] == pytest.approx(0.1)
    assert schedulers.cosine(30, 20, warmup_steps=4, final=0.1) == pytest.approx(0.1)
    assert schedulers.cosine(0, 20, warmup_steps=0) == 1


@pytest.mark.parametrize("name", sorted({*lookup.available(schedulers)} - {"range_test"}))
def test_a_run_shorter_than_its_warm_up_is_possible(name):
    history = [[]] if name == "plateau" else []
    schedule = lookup.find(name, schedulers)
    assert [schedule(step, 3, *history, warmup_steps=10) for step in range(3)] == [0.1, 0.2, 0.3]


def _torch_factors(make, steps):
    """The factors of a schedule of torch.optim at every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_are_those_of_torch():
    module = torch.optim.lr_scheduler
    found = [schedulers.stepwise(step, 90, every=7, factor=0.3) for step in range(90)]
    assert found == pytest.approx(_torch_factors(lambda optimizer: module.StepLR(optimizer, 7, 0.3), 90))
    found = [schedulers.linear(step, 90, warmup_steps=0, final=0.2) for step in range(90)]
    assert found == pytest.approx(_torch_factors(lambda optimizer: module.LinearLR(optimizer, 1.0, 0.2, 90), 90))
    found = [schedulers.range_test(step, 90, first=1e-3) for step in range(90)]
    assert found[0] == pytest.approx(1e-3)
    assert found[-1] == 1
    assert found[1] / found[0] == pytest.approx(found[60] / found[59])


def test_plateau_is_that_of_torch():
    values = torch.rand(300, generator=torch.Generator().manual_seed(3)).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch reduces the rate after patience + 1 evaluations without improvement
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.7, patience=4, threshold=0, min_lr=0.01, eps=0
    )
    improved = []
    for number, value in enumerate(values):
        reference.step(value)
        improved.append(value < min(values[:number], default=math.inf))
        found = schedulers.plateau(number, 300, improved, patience=5, factor=0.7, final=0.01)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_reduces_the_rate_of_a_run_that_does_not_improve():
    chosen = ["scheduler=plateau", "scheduler.patience=2", "optimizer.lr=0.01", f"task={__name__}:Sums"]
    run(*chosen, "task.opposite=true", "trainer.eval_every=1", "trainer.log_every=1", "trainer.steps=7")
    best = [record["loss"] for record in records("valid")].index(min(r["loss"] for r in records("valid")))
    assert best == 0
    assert [record["lr"] for record in records("train")] == pytest.approx([0.01] * 3 + [0.005] * 2 + [0.0025] * 2)


@pytest.mark.parametrize("option", ["scheduler=plateau scheduler.patience=0", "scheduler=stepwise scheduler.every=0"])
def test_options_of_a_schedule_are_checked_before_anything_is_written(option):
    with pytest.raises(InputError, match="must be at least 1"):
        run(*option.split())
    assert not Path("a").exists()


def test_a_run_ends_by_patience():
    summary = run("task.opposite=true", "trainer.eval_every=1", "trainer.patience=3", "trainer.steps=20")
    assert (summary["ended"], summary["steps"], summary["best"]["step"]) == ("patience", 4, 1)
    assert run("trainer.patience=3", "trainer.eval_every=1", "run_dir=b")["ended"] == "steps"


def test_a_resumed_run_remembers_its_evaluations(monkeypatch):
    chosen = ["task.opposite=true", "trainer.eval_every=1", "trainer.steps=9", "trainer.log_every=1"]
    chosen += ["trainer.patience=6", "scheduler=plateau", "scheduler.patience=2"]
    expected = run(*chosen, "run_dir=b")
    batch = Sums.batch

    def broken(task, split, step):
        if (split, step) == ("train", 4):
            raise KeyboardInterrupt
        return batch(task, split, step)

    with monkeypatch.context() as patch:
        patch.setattr(Sums, "batch", broken)
        with pytest.raises(KeyboardInterrupt):
            run(*chosen, "trainer.prefetch=false")
    found = run(*chosen, "trainer.prefetch=false")
    assert (found["ended"], found["steps"]) == (expected["ended"], expected["steps"]) == ("patience", 7)
    assert same(weights(), weights(run_dir="b"))


def test_the_recorded_learning_rate_is_that_of_the_step():
    run("scheduler=cosine", "scheduler.warmup_steps=4", "scheduler.final=0.5", "optimizer.lr=0.01")
    expected = [0.01 * schedulers.cosine(step - 1, 6, warmup_steps=4, final=0.5) for step in (2, 4, 6)]
    assert [record["lr"] for record in records("train")] == pytest.approx(expected)


# Optimizers and clipping


@pytest.mark.parametrize("name", lookup.available(optimizers))
def test_optimizers_descend(name):
    parameter = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = lookup.find(name, optimizers)([parameter], lr=1.0 if name == "adagrad" else 0.1)
    for _ in range(50):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    assert float(parameter.detach().norm()) < 1


@pytest.mark.parametrize("name", lookup.available(optimizers))
def test_optimizers_train(name):
    assert run(f"optimizer={name}", "optimizer.lr=0.01")["status"] == "finished"


def test_accumulated_gradients_are_the_mean_over_batches():
    options = ["optimizer=sgd", "optimizer.lr=0.5", "scheduler=constant", "trainer.steps=2", "trainer.clip_norm=0"]
    options += ["trainer.accumulate=3", "trainer.log_every=1"]
    chosen = settings(*options)
    torch.manual_seed(chosen["seed"])
    task, model = build(chosen)
    losses = []
    for step in range(2):
        batches = [task.batch("train", 3 * step + part) for part in range(3)]
        mean = sum((model(batch)[0] - batch.targets).square().mean() for batch in batches) / 3
        losses.append(mean.item())
        gradients = torch.autograd.grad(mean, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    summary = train(chosen)
    found = weights()
    assert all(torch.allclose(found[name], weight, atol=1e-6) for name, weight in model.state_dict().items())
    assert [record["loss"] for record in records("train")] == pytest.approx(losses, rel=1e-5)
    assert summary["tokens"] == 2 * 3 * 5 * 4


def first_step(clip_norm):
    """How far one step of plain gradient descent goes, and the gradient norm it records."""
    options = ["optimizer=sgd", "optimizer.lr=1.0", "scheduler=constant", "trainer.steps=1", "trainer.log_every=1"]
    run_dir = f"clip_{clip_norm}"
    chosen = settings(*options, f"trainer.clip_norm={clip_norm}", f"run_dir={run_dir}")
    torch.manual_seed(chosen["seed"])
    _, model = build(chosen)
    train(chosen)
    moved = weights(run_dir=run_dir)
    distance = math.sqrt(sum(float((moved[k] - w).double().square().sum()) for k, w in model.state_dict().items()))
    [record] = records("train", run_dir)
    return distance, record["grad_norm"]


def test_clipping_scales_the_step_and_the_norm_before_it_is_recorded():
    unclipped, norm = first_step(clip_norm=0)
    assert unclipped == pytest.approx(norm, rel=1e-4)
    assert norm > 0.2
    clipped, norm_before = first_step(clip_norm=0.1)
    assert clipped == pytest.approx(0.1, rel=1e-4)
    assert norm_before == norm
    generous, _ = first_step(clip_norm=2 * norm)
    assert generous == unclipped


# Divergence


@pytest.mark.parametrize(("log_every", "checkpoint_every"), [(1, 2), (2, 1), (100, 4), (100, 100)])
def test_divergence_is_a_result(log_every, checkpoint_every):
    """It is noticed at the first record or checkpoint after it happened, and named by the step it happened at."""
    options = [f"trainer.log_every={log_every}", f"trainer.checkpoint_every={checkpoint_every}", "trainer.steps=30"]
    summary = run(*options, "trainer.eval_every=5", "task.nan_at=6")
    assert (summary["status"], summary["diverged_at"]) == ("diverged", 7)
    assert json.loads(Path("a/summary.json").read_text())["status"] == "diverged"
    assert summary["test"] is None
    last = checkpoint.load(Path("a/checkpoints/last.pt"))
    assert last["progress"]["step"] in (5, 6)
    assert all(tensor.isfinite().all() for tensor in last["model"].values())
    assert all(math.isfinite(record["loss"]) for record in records())
    before = Path("a/metrics.jsonl").read_bytes()
    assert run(*options, "trainer.eval_every=5", "task.nan_at=6") == json.loads(Path("a/summary.json").read_text())
    assert Path("a/metrics.jsonl").read_bytes() == before


def test_divergence_in_the_very_first_step():
    summary = run("task.nan_at=0")
    assert (summary["status"], summary["diverged_at"], summary["best"]) == ("diverged", 1, None)


def test_a_sample_of_a_diverging_model_is_left_out(folder):
    """After the last step with a finite loss the outputs may already be infinite: nothing can be drawn from them."""
    (folder / "corpus.txt").write_text("to be or not to be, that is the question\n" * 20)
    options = ["task.corpus=corpus.txt", "task.batch_size=2", "task.seq_len=8", "model.hidden_size=4"]
    options += ["optimizer=sgd", "optimizer.lr=1e38"]
    every = ["trainer.eval_every=1", "trainer.steps=1", "trainer.clip_norm=0", "logger.tensorboard=false"]
    summary = train(config.compose([*options, *every, "run_dir=c"]))
    assert summary["status"] == "finished"
    assert [path.name for path in Path("c/samples").iterdir()] == ["00000000.txt"]


def test_divergence_is_exit_code_3(folder):
    """Of a task in a file of the user's own, found in the working directory."""
    source = "from rnnlab.tasks.hello import Hello\n\n\nclass Broken(Hello):\n    def loss(self, outputs, batch):\n"
    source += "        total, count = super().loss(outputs, batch)\n        return total * float('nan'), count\n"
    (folder / "my_task.py").write_text(source)
    options = [
        "task=my_task:Broken",
        "model.hidden_size=8",
        "trainer.steps=30",
        "run_dir=b",
        "logger.tensorboard=false",
    ]
    done = processes.rnnlab("train", *options)
    assert done.returncode == 3
    assert "diverged at step 1" in done.stdout
    assert json.loads(Path("b/summary.json").read_text())["diverged_at"] == 1


def test_a_valid_loss_that_is_never_finite_is_a_result_too(monkeypatch):
    """Training stays finite, but no evaluation ever gives a model to call the best."""
    monkeypatch.setattr(Sums, "derive", lambda task, means: {**means, "rmse": nan})
    monkeypatch.setattr(Sums, "monitor", "rmse")
    summary = run()
    assert summary["status"] == "finished"
    assert summary["best"] is None


# The best checkpoint and the test


@pytest.mark.parametrize("opposite", ["true", "false"])
def test_the_best_checkpoint_is_that_of_the_lowest_valid_loss_and_is_what_is_tested(opposite):
    options = [f"task.opposite={opposite}", "trainer.steps=12", "optimizer.lr=0.02", "scheduler=constant"]
    summary = run(*options)
    valid = {record["step"]: record["loss"] for record in records("valid")}
    best = min(valid, key=valid.get)
    assert best == (3 if opposite == "true" else 12)
    assert list(valid) == [3, 6, 9, 12]
    assert checkpoint.load(Path("a/checkpoints/best.pt"))["progress"]["step"] == best
    assert (summary["best"]["step"], summary["best"]["loss"]) == (best, valid[best])
    assert (summary["final"]["step"], summary["final"]["loss"]) == (12, valid[12])
    [test] = records("test")
    assert test["step"] == best
    assert summary["test"] == {"step": best} | {name: test[name] for name in ("loss", "bias", "rmse")}
    assert evaluate_run("a", "test", "cpu") == {**summary["test"], "baselines": {}}
    assert same(weights("best"), weights("last")) == (best == 12)


def test_a_metric_where_more_is_better_is_maximised(monkeypatch):
    monkeypatch.setattr(Sums, "metrics", {**Sums.metrics, "loss": Metric("squared error", better="higher")})
    summary = run("trainer.steps=12", "optimizer.lr=0.02", "scheduler=constant")
    assert summary["best"]["step"] == 3


def test_test_data_are_read_once_and_only_at_the_end(monkeypatch):
    asked, batch = [], Sums.batch
    monkeypatch.setattr(Sums, "batch", lambda *arguments: (asked.append(arguments[1:]), batch(*arguments))[1])
    monkeypatch.setattr(Sums, "data_digest", lambda task: "")
    run()
    assert [step for split, step in asked if split == "test"] == [0, 1, 2]
    assert [split for split, _ in asked[-3:]] == ["test"] * 3


# Evaluation


def test_means_are_exact_over_unequal_batches():
    chosen = settings()
    task, model = build(chosen)
    values = evaluate(model, task, "valid", CPU, autocast(CPU, "fp32")).values
    batches = [task.batch("valid", step) for step in range(3)]
    assert len({batch.batch_size for batch in batches}) == 3
    with torch.no_grad():
        errors = torch.cat([(model(batch)[0] - batch.targets).flatten() for batch in batches]).double()
    expected = {"loss": float(errors.square().mean()), "bias": float(errors.mean())}
    assert values == pytest.approx({**expected, "rmse": expected["loss"] ** 0.5})


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_touches_nothing(training):
    _, model = build(settings("model.num_layers=2", "model.dropout=0.5"))
    task = Sums()
    model.train(training)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = evaluate(model, task, "valid", CPU, autocast(CPU, "fp32"))
    assert evaluate(model, task, "valid", CPU, autocast(CPU, "fp32")) == first, "dropout is off"
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert same(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_how_often_is_evaluated_saved_and_logged_changes_no_weight():
    options = ["model.num_layers=2", "model.dropout=0.5", "trainer.steps=9"]
    run(*options, "run_dir=seldom", "trainer.eval_every=9", "trainer.checkpoint_every=9", "trainer.log_every=9")
    run(*options, "run_dir=often", "trainer.eval_every=1", "trainer.checkpoint_every=2", "trainer.log_every=1")
    assert same(weights(run_dir="often"), weights(run_dir="seldom"))


def test_the_recorded_training_loss_is_the_mean_over_the_window():
    run("run_dir=each", "trainer.log_every=1")
    run("run_dir=pairs", "trainer.log_every=2")
    each, pairs = records("train", "each"), records("train", "pairs")
    for name in ("loss", "grad_norm"):
        expected = [(each[i][name] + each[i + 1][name]) / 2 for i in (0, 2, 4)]
        assert [record[name] for record in pairs] == pytest.approx(expected)


@pytest.mark.parametrize("splits", [["train"], ["train", "valid"], ["train", "test"]])
def test_tasks_without_valid_or_test(splits):
    summary = run(f"task.splits=[{','.join(splits)}]")
    assert summary["status"] == "finished"
    assert (summary["test"] is None) == ("test" not in splits)
    evaluated = "valid" if "valid" in splits else "train_eval"
    assert {record["split"] for record in records()} == {"train", evaluated} | ({"test"} & set(splits))
    assert [record["step"] for record in records(evaluated)] == [3, 6]
    assert summary["best"]["step"] in (3, 6)


# Seeds, precision, initial states, devices


def test_the_seed_decides_the_result():
    for run_dir, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(f"run_dir={run_dir}", f"seed={seed}", "model.num_layers=2", "model.dropout=0.5")
    assert same(weights(run_dir="b"), weights(run_dir="a"))
    for one, other in zip(weights(run_dir="c").values(), weights(run_dir="a").values(), strict=True):
        assert not torch.equal(one, other)
    without_time = [
        [
            {k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")}
            for record in records(None, name)
        ]
        for name in ("a", "b")
    ]
    assert without_time[0] == without_time[1]


def test_bf16_trains():
    summary = run("trainer.precision=bf16", "trainer.steps=40", "optimizer.lr=0.02")
    losses = [record["loss"] for record in records("train")]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert summary["final"]["loss"] < records("valid")[0]["loss"]
    assert {tensor.dtype for tensor in weights().values()} == {torch.float32}, "the weights themselves stay precise"
    run("run_dir=b", "trainer.steps=40", "optimizer.lr=0.02")
    assert not same(weights(run_dir="b"), weights())


def learned(model):
    """The parameters that are initial states."""
    _, zero = build(settings())
    return [name for name in model if name not in zero.state_dict()]


def test_a_learned_initial_state_learns_with_truncated_bptt(folder):
    """Only the first window of a stream tells anything about it; later windows begin with what was carried over."""
    (folder / "corpus.txt").write_text("abcabcabdabcabe\n" * 60)
    small = ["model.hidden_size=8", "task.corpus=corpus.txt", "task.batch_size=4", "task.seq_len=8", "run_dir=b"]
    options = [*small, "model.initial_state=learned", "logger.tensorboard=false", "optimizer.weight_decay=0"]
    chosen = config.compose([*options, "trainer.steps=1"])
    torch.manual_seed(chosen["seed"])
    _, model = build(chosen)
    train(chosen)
    names = learned(model.state_dict())
    assert names
    for name in names:
        assert not torch.equal(weights(run_dir="b")[name], model.state_dict()[name]), name


def test_only_fresh_streams_reach_the_learned_initial_state():
    task, model = build(settings("model.initial_state=learned"))
    task_batch = task.batch("train", 0)
    _, before = model(task_batch, model.begin(batch_size=4))
    fresh = torch.tensor([False, True, False, True])
    [parameter] = [model.get_parameter(name) for name in learned(model.state_dict())]
    outputs, _ = model(task_batch, carry(model, before, fresh))
    for stream in range(4):
        [gradient] = torch.autograd.grad(outputs[:, stream].sum(), parameter, retain_graph=True)
        assert bool(gradient.any()) == bool(fresh[stream])


def test_carry_begins_anew_where_it_must_and_cuts_the_gradient():
    task, model = build(settings("model.initial_state=learned"))
    batch = task.batch("train", 0)
    _, before = model(batch, model.begin(batch_size=4))
    [old] = tensors_of(before)
    [new] = tensors_of(carry(model, before, torch.tensor([False, True, False, False])))
    assert torch.equal(new[[0, 2, 3]], old[[0, 2, 3]])
    assert torch.equal(new[1], tensors_of(model.begin(batch_size=4))[0][1])
    assert carry(model, before, None) is None, "batches that stand alone carry nothing"
    [cut] = tensors_of(carry(model, before, torch.zeros(4, dtype=torch.bool)))
    gradients = torch.autograd.grad(cut.sum(), list(model.parameters()), allow_unused=True)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


def test_streams_carry_their_state_from_window_to_window(folder):
    """With the state carried, evaluation in windows of 4 gives what one window over the whole split gives."""
    (folder / "corpus.txt").write_text("abcabcabdabcabe\n" * 60)
    options = ["model.hidden_size=8", "task.corpus=corpus.txt", "task.batch_size=2"]
    task, model = build(config.compose([*options, "task.seq_len=4"]))
    whole, _ = build(config.compose([*options, "task.seq_len=200"]))
    assert task.num_batches("valid") > 3
    assert whole.num_batches("valid") == 1
    values = [evaluate(model, each, "valid", CPU, autocast(CPU, "fp32")).values["loss"] for each in (task, whole)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(InputError, match="finds no CUDA device; use cpu or auto"):
        run("trainer.device=cuda")
    assert not Path("a").exists()
    assert pick_device("auto") == CPU


@pytest.mark.parametrize(
    "option",
    [
        "trainer.steps=0",
        "trainer.eval_every=0",
        "trainer.checkpoint_every=0",
        "trainer.clip_norm=-1",
        "trainer.precision=fp8",
        "trainer.device=tpu",
        "trainer.device=cuda:x",
        "trainer.log_every=0",
        "trainer.log_every=-5",
        "trainer.patience=0",
        "trainer.accumulate=0",
        "optimizer.lr=-1",
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(option):
    name = option.partition("=")[0].partition(".")[2]
    with pytest.raises(InputError, match=f"{name}|learning rate"):
        run(option)
    assert not Path("a").exists()


# Records


def test_every_line_of_metrics_says_what_it_is_of(folder):
    (folder / "corpus.txt").write_text("abcabcabdabcabe\n" * 60)
    small = ["model.hidden_size=8", "task.corpus=corpus.txt", "task.batch_size=4", "task.seq_len=8", "run_dir=b"]
    train(config.compose([*small, "trainer.steps=4", "trainer.eval_every=2", "trainer.log_every=2"]))
    lines = records(run_dir="b")
    assert [(line["split"], line["step"]) for line in lines][:4] == [
        ("train", 2),
        ("valid", 2),
        ("train", 4),
        ("valid", 4),
    ]
    for line in lines:
        extra = {"grad_norm", "lr", "tokens_per_second"} if line["split"] == "train" else set()
        assert set(line) == {"step", "split", "tokens", "seconds", "loss", "bpc"} | extra
        assert line["bpc"] == pytest.approx(line["loss"] / math.log(2))
        assert line["seconds"] > 0
    assert [line["tokens"] for line in lines if line["split"] != "test"] == [2 * 32, 2 * 32, 4 * 32, 4 * 32]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_summary_says_how_the_run_ended():
    summary = run("seed=4")
    assert json.loads(Path("a/summary.json").read_text()) == summary
    assert {
        "status": "finished",
        "task": f"{__name__}:Sums",
        "model": "gru",
        "cell": "gru",
        "seed": 4,
        "config": settings("seed=4"),
        "steps": 6,
        "tokens": 6 * 5 * 4,
        "signal": None,
    }.items() <= summary.items()
    _, model = build(settings("seed=4"))
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert summary["backend"] == "fused"
    assert len(bytes.fromhex(summary["data_digest"])) == 32
    for name in ("best", "final", "test"):
        assert set(summary[name]) == {"step", "loss", "bias", "rmse"}
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["seconds"])
    assert summary["versions"]["torch"] == torch.__version__
    assert {"rnnlab", "python", "torch"} <= set(summary["versions"])


def test_numbers_that_json_lacks_become_null(monkeypatch):
    monkeypatch.setattr(Sums, "derive", lambda task, means: {**means, "rmse": math.inf})
    run()
    assert {line["rmse"] for line in records()} == {None}
    assert "Infinity" not in Path("a/metrics.jsonl").read_text() + Path("a/summary.json").read_text()


def test_parameters_can_learn_at_a_rate_of_their_own(tmp_path):
    def moved(name, *options):
        common = ["task=hello", "optimizer=sgd", "optimizer.lr=0.5", "scheduler=constant", "trainer.steps=1"]
        resolved = config.compose([*common, "trainer.clip_norm=0", f"run_dir={tmp_path / name}", *options])
        seed_everything(0)
        before = {key: value.clone() for key, value in build(resolved)[1].state_dict().items()}
        train(resolved)
        after = checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")["model"]
        return {key: after[key] - before[key] for key in before}

    plain, slow = moved("plain"), moved("slow", "trainer.lr_factors={cell.U: 0.1, readout: 2}")
    for key, change in plain.items():
        factor = 0.1 if "cell.U" in key else 2 if "readout" in key else 1
        torch.testing.assert_close(slow[key], factor * change)
    assert plain["stack.layers.0.cell.U"].any()


@pytest.mark.parametrize(
    ("factors", "says"),
    [("{recurent: 0.1}", "no parameter name contains 'recurent'; the names are enc"), ("{U: 0}", "U=0.0 must")],
)
def test_a_rate_for_nothing_is_refused(tmp_path, factors, says):
    resolved = config.compose(["task=hello", f"trainer.lr_factors={factors}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(InputError, match=says):
        train(resolved)
    assert not (tmp_path / "run").exists()
