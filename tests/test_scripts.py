"""The scripts of a checkout run."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _script(name, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_is_the_command():
    assert "task=\n  char_lm" in _script("train.py", "--help")


def test_the_loop_is_compared_for_the_three_cells():
    table = _script("benchmark_loop.py", "rounds=1", "steps=2").splitlines()
    rows = [line.split() for line in table[2:]]
    assert [row[0] for row in rows] == ["rnn", "lstm", "gru"]
    assert all(float(row[3]) > 0 for row in rows)


def test_the_picture_shows_every_run(tmp_path):
    for model, losses in {"rnn": [3.0, 2.0], "gru": [2.5, 1.5]}.items():
        run = tmp_path / model
        run.mkdir()
        (run / "summary.json").write_text(json.dumps({"model": model}))
        lines = [{"step": step, "split": "valid", "loss": loss} for step, loss in enumerate(losses)]
        lines.append({"step": 1, "split": "train", "loss": 9.0})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    target = tmp_path / "images" / "loss.svg"
    _script("plot_models.py", target, tmp_path / "rnn", tmp_path / "gru")
    picture = target.read_text()
    assert "<!-- rnn  2.00 -->" in picture
    assert "<!-- gru  1.50 -->" in picture
