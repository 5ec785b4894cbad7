"""Progress lines of a log file: their times, their estimate of the time left, and their text."""

import re
from datetime import datetime, timedelta

import pytest

from rnnlab import config
from rnnlab.training import pace, train
from rnnlab.training.pace import Pace, duration
from rnnlab.training.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def after(pace, clock, seconds, steps):
    """Let time pass: half of it in training, half in evaluations; 100 tokens a step."""
    clock.now += seconds
    pace.at.seconds += seconds / 2
    pace.at.step += steps
    pace.at.tokens += 100 * steps


def test_lines_become_rare():
    clock = Clock()
    one = Pace(Progress(), 10**6, clock=clock)
    seen = []
    for _ in range(5000):
        after(one, clock, 1.0, 1)
        if one.line():
            seen.append(clock.now)
    assert seen == [10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030, 3630, 4230, 4830]


def test_the_time_left_includes_evaluations_and_counts_from_where_the_process_started():
    clock, at = Clock(), Progress(step=400, seconds=1000.0, tokens=7)
    one = Pace(at, 1000, clock=clock)
    assert one.left() is None
    after(one, clock, 100.0, 200)
    assert one.left() == pytest.approx(400 * 100 / 200)
    one.loss = 1.23456
    said = one.told()
    assert said.startswith("step 600 of 1,000 (60%)  loss 1.235  400 tokens/s  elapsed 1:40  left 3:20, until ")
    end = datetime.strptime(said.partition("until ")[2], "%Y-%m-%d %H:%M")
    assert abs(end - (datetime.now() + timedelta(seconds=200))) < timedelta(seconds=70)


def test_a_budget_of_seconds_may_end_the_run_first():
    clock, at = Clock(), Progress()
    one = Pace(at, 10**9, seconds=60.0, clock=clock)
    after(one, clock, 40.0, 10)  # 20 seconds of training
    assert one.left() == pytest.approx(80.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (65, "1:05"), (3600, "1:00:00"), (90061, "1 day 1:01:01"), (172800, "2 days 0:00:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_run_without_a_terminal_prints_them(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pace, "FIRST", 0.0)
    options = ["task=hello", "model.hidden_size=4", "trainer.steps=6", "trainer.log_every=2", "trainer.device=cpu"]
    options += ["logger.tensorboard=false", f"run_dir={tmp_path / 'run'}"]
    caplog.set_level("INFO", "rnnlab")
    train(config.compose(options))
    lines = [
        record.message for record in caplog.records if record.message.startswith("step ") and " of " in record.message
    ]
    assert len(lines) == 6
    assert re.fullmatch(
        r"step 6 of 6 \(100%\)  loss [\d.]+  [\d,]+ tokens/s  elapsed 0:\d\d  left 0:00, until .{16}", lines[-1]
    )
    assert "\r" not in caplog.text
    caplog.clear()
    train(config.compose([*options[:-1], "logger.progress=false", f"run_dir={tmp_path / 'quiet'}"]))
    assert not [record for record in caplog.records if " of 6" in record.message]
