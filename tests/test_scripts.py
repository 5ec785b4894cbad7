"""The scripts of a checkout run."""

import json
import subprocess
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]


def _script(name, *arguments):
    done = subprocess.run(
        [processes.programs() / "python", ROOT / "scripts" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_is_the_command():
    assert "\n  char_lm " in _script("train.py", "--help")


@pytest.mark.slow
def test_the_loop_is_compared_for_the_three_cells():
    table = _script("benchmark_loop.py", "rounds=1", "steps=2").splitlines()
    rows = [line.split() for line in table[2:]]
    assert [row[0] for row in rows] == ["rnn", "lstm", "gru"]
    assert all(float(row[3]) > 0 for row in rows)


def test_drawing_data_is_compared_with_a_step():
    table = _script("benchmark_data.py", "steps=2", "tasks=hello,adding").splitlines()
    rows = [line.split() for line in table[2:]]
    assert [row[0] for row in rows] == ["hello", "adding"]
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in rows)


def _run(folder, name, valid, test, status="finished"):
    """A finished run of the adding problem."""
    run = folder / "runs" / "acceptance" / "adding" / name
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    summary = {"status": status, "task": "adding", "steps": 300, "test": {"loss": test}}
    (run / "summary.json").write_text(json.dumps(summary))
    lines = [{"step": 100 * i, "split": "valid", "loss": loss} for i, loss in enumerate(valid, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_acceptance_tabulates_what_there_is(tmp_path):
    target = tmp_path / "table.md"
    for seed in range(3):
        _run(tmp_path, f"gru-s{seed}", [0.2, 0.001, 0.3], 0.1)  # reached, and lost again
        _run(tmp_path, f"tanh-s{seed}", [0.17, 0.165, 0.15], 0.1)
        if seed < 2:  # the third is still to come
            _run(tmp_path, f"lstm-s{seed}", [0.001], 0.1)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import acceptance, pathlib; "
        "pathlib.Path(sys.argv[2]).write_text(acceptance.table())"
    )
    subprocess.run(
        [processes.programs() / "python", "-c", code, ROOT / "scripts", target], cwd=tmp_path, check=True, timeout=300
    )
    rows = [
        line.split(" | ") for line in target.read_text().splitlines() if line.startswith(("| gru", "| lstm", "| tanh"))
    ]
    adding = {row[0].strip("| "): row[1:] for row in rows if "valid loss" in row[1] and "over" not in row[1]}
    assert adding["gru"] == ["valid loss by step 900: below 0.01", "0.001", "0.001", "0.001, 0.001, 0.001", "yes |"]
    assert adding["tanh"][1:] == ["0.15", "0.15", "0.15, 0.15, 0.15", "**no** |"]
    assert adding["lstm"][-1] == "not run |"


def test_acceptance_keeps_what_the_page_says_of_experiments_that_were_not_run_here(tmp_path):
    for seed in range(3):
        for name in ("gru", "lstm", "tanh"):
            _run(tmp_path, f"{name}-s{seed}", [0.2], 0.1)
    page = tmp_path / "page.md"
    page.write_text("# Old\n\n## adding\n\nold adding\n\n## parity\n\n| gru | old parity |\n\n## no_more\n\nold\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import acceptance, pathlib; page = pathlib.Path(sys.argv[2]); "
        "read = acceptance.read; "
        "acceptance.read = lambda name: read(name) | ({'pending': 'it takes an hour'} if name == 'mnist_5k' else {}); "
        "page.write_text(acceptance.table(page.read_text()))"
    )
    subprocess.run(
        [processes.programs() / "python", "-c", code, ROOT / "scripts", page], cwd=tmp_path, check=True, timeout=300
    )
    text = page.read_text()
    assert "old adding" not in text
    assert "\n## parity\n\n| gru | old parity |\n\n## permuted_digits\n" in text
    assert "no_more" not in text
    assert "\nNot run yet with these settings: it takes an hour.\n" in text
    assert "\nFinding: the ordering of the source does not appear" in text
    assert "## copying\n\nCopying, T=100" in text  # was not on the page


def test_acceptance_names_what_it_does_not_know(tmp_path):
    done = subprocess.run(
        [processes.programs() / "python", ROOT / "scripts" / "acceptance.py", "adding", "subtracting"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "unknown: subtracting; experiments: adding, " in done.stderr


@pytest.mark.parametrize("name", ["benchmark_loop.py", "benchmark_data.py"])
def test_an_argument_that_is_no_option_brings_the_usage(name):
    command = [processes.programs() / "python", ROOT / "scripts" / name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python scripts/{name} [" in done.stderr
    assert "Traceback" not in done.stderr
