"""Training batches that are prepared ahead: the same ones, in another thread, and only where it is worth it."""

import sys
import threading
from time import sleep

import pytest
import torch

from rnnlab import config
from rnnlab.tasks.memory.adding import Adding
from rnnlab.training import train
from rnnlab.training.batches import ahead


def slow(threads):
    def make(step):
        threads.append(threading.current_thread().name)
        sleep(0.002)
        return step

    return make


def test_the_next_batch_is_made_in_one_other_thread():
    threads = []
    with ahead(slow(threads), 6) as get:
        assert [get(step) for step in range(6)] == list(range(6))
    assert threads[0] == threading.current_thread().name
    assert len(threads) == 6  # none beyond the last
    assert set(threads[1:]) == {"batches_0"}


def test_a_batch_that_takes_no_time_is_made_here():
    threads = []
    with ahead(lambda step: threads.append(threading.current_thread().name) or step, 6) as get:
        assert [get(step) for step in range(6)] == list(range(6))
    assert set(threads) == {threading.current_thread().name}


def test_steps_may_come_in_any_order():
    with ahead(slow([]), 100) as get:
        assert [get(step) for step in (3, 4, 9, 0, 1)] == [3, 4, 9, 0, 1]


@pytest.mark.parametrize("by", ["option", "tracer"])
def test_no_thread_where_one_looks_on(by):
    threads, before = [], sys.gettrace()
    if by == "tracer":
        sys.settrace(lambda *given: None)
    try:
        with ahead(slow(threads), 6, enabled=by != "option") as get:
            assert [get(step) for step in range(6)] == list(range(6))
    finally:
        sys.settrace(before)
    assert set(threads) == {threading.current_thread().name}


def test_an_error_in_a_batch_is_raised_where_the_batch_is_due():
    def make(step):
        sleep(0.002)
        if step == 2:
            raise OSError("the disk is gone")
        return step

    with ahead(make, 6) as get:
        assert [get(0), get(1)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            get(2)


def test_training_is_the_same_with_and_without(tmp_path, monkeypatch):
    draw, threads = Adding.draw, set()

    def slowly(task, generator, length):
        threads.add(threading.current_thread().name)
        sleep(0.002)
        return draw(task, generator, length)

    monkeypatch.setattr(Adding, "draw", slowly)
    options = ["task=adding", "task.lengths=[5,9]", "task.eval_batches=1", "task.batch_size=4", "model.hidden_size=8"]
    options += ["trainer.steps=12", "trainer.eval_every=5", "logger.tensorboard=false", "logger.progress=false"]
    weights = []
    for prefetch in ("true", "false"):
        place = tmp_path / prefetch
        train(config.compose([*options, f"trainer.prefetch={prefetch}", f"run_dir={place}"]))
        weights.append(torch.load(place / "checkpoints" / "last.pt", weights_only=False)["model"])
        assert ("batches_0" in threads) == (prefetch == "true")
        threads.clear()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
