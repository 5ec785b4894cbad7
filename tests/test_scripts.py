"""The scripts of a checkout run."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import yaml

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
def test_cells_are_measured_at_equal_state_size():
    """GLA with a width of 16 has two heads of 8 values and 4 keys, half as many."""
    for options, widths in ([["cells=lstm,tgru"], ["32", "16"]], [["cells=gla", "cell.heads=2"], ["16"]]):
        table = _script("benchmark_zoo.py", "state_size=64", "size=4x2x8", "rounds=1", *options).splitlines()
        rows = [line.strip("| ").split(" | ") for line in table if line.startswith("| `")]
        assert [row[1:3] for row in rows] == [[width, "64"] for width in widths]
        assert all(float(row[5]) > 0 for row in rows)


@pytest.mark.slow
def test_the_loop_is_compared_for_the_three_cells():
    table = _script("benchmark_loop.py", "rounds=1", "steps=2").splitlines()
    rows = [line.split() for line in table[2:]]
    assert [row[0] for row in rows] == ["rnn", "lstm", "gru"]
    assert all(float(row[3]) > 0 for row in rows)


@pytest.mark.slow
def test_blocks_are_compared_with_blocks_of_torch():
    """The script itself checks that both have the same outputs."""
    for options in ([], ["norm=layer", "convolution=0"]):
        table = _script("benchmark_block.py", "rounds=1", "sizes=4x2x8,5x3x16", *options).splitlines()
        rows = [line.split() for line in table[2:]]
        assert [(row[0], row[1]) for row in rows] == [(c, s) for c in ("gru", "lstm") for s in ("4x2x8", "5x3x16")]
        assert all(float(number) > 0 for row in rows for number in row[2:])


@pytest.mark.slow
def test_matrix_states_are_compared_with_chunks_and_the_loop():
    """The script itself checks that all columns have the same outputs."""
    table = _script("benchmark_heads.py", "rounds=1", "loop=1", "sizes=12x2x8", "heads=2", "chunks=3,5,12").splitlines()
    names = [line.partition("over the layer: ")[2].split()[::2] for line in table[1:]]
    assert names == [["loop", "chunk3", "chunk12", "products"], ["loop", "chunk1"]]


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
    summary["metrics"] = {"loss": {"unit": "mean squared error", "better": "lower"}}
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
    assert "\n## parity\n\n| gru | old parity |\n\n## parity_eigenvalues\n" in text
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
    assert "unknown: subtracting; experiments: a5_tracking, adding, " in done.stderr


@pytest.mark.parametrize("name", ["benchmark_loop.py", "benchmark_data.py"])
def test_an_argument_that_is_no_option_brings_the_usage(name):
    command = [processes.programs() / "python", ROOT / "scripts" / name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python scripts/{name} [" in done.stderr
    assert "Traceback" not in done.stderr


def _result(folder, run, seed, exact, bleu, status="finished", name="numbers", **machine):
    """A finished run of an experiment of the results."""
    place = folder / "runs" / "results" / name / f"{run}-s{seed}"
    (place / "written" / "test").mkdir(parents=True)
    (place / "config.yaml").write_text("seed: 0\n")
    (place / "metrics.jsonl").write_text("")
    summary = {
        "status": status,
        "task": "translation",
        "cell": run,
        "steps": 600,
        "parameters": 1_234_567,
        "seconds": 100.0 + 20 * seed,
        "machine": {"processor": "Abacus 9", "cores": 2, "threads": 1, "device": "cpu"} | machine,
        "test": {"exact": exact, "bleu": bleu, "chrf": 40.0, "loss": 0.1},
        "metrics": {name: {"unit": "", "better": "higher"} for name in ("exact", "bleu", "chrf")},
    }
    (place / "summary.json").write_text(json.dumps(summary))
    scores = f"BLEU = {bleu} 47.6/0.4 (BP = 0.2) nrefs:1|case:mixed|tok:13a\nchrF2 = 2.73 nrefs:1|nc:6\nexact {exact}\n"
    (place / "written" / "test" / "scores.txt").write_text(scores)


def _results(folder, code):
    """Run code after an import of results, in a folder with runs."""
    start = "import sys; sys.path.insert(0, sys.argv[1]); import results, pathlib; "
    done = subprocess.run(
        [processes.programs() / "python", "-c", start + code, ROOT / "scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _section(page, name):
    return page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def _rows(section):
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    header, *rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_results_tabulates_what_there_is(tmp_path):
    for seed in range(3):
        _result(tmp_path, "gru", seed, exact=0.992 + 0.002 * seed, bleu=99.5)
        _result(tmp_path, "rnn", seed, exact=[0.5, 0.999, 1.0][seed], bleu=80, device="Slide Rule 5")
    _result(tmp_path, "lstm", 1, exact=1.0, bleu=100)
    _result(tmp_path, "lstm", 2, exact=1.0, bleu=100, status="stopped")
    section = _section(_results(tmp_path, "print(results.table())"), "numbers")
    rows = _rows(section)
    assert rows["gru"] == {
        "run": "gru",
        "cell": "gru",
        "seeds": "0, 1, 2",
        "test exact, mean (each seed)": "0.994 (0.992, 0.994, 0.996)",
        "test bleu, mean (each seed)": "99.5 (99.5, 99.5, 99.5)",
        "parameters": "1,234,567",
        "training time of a run": "120 s",
        "processor": "Abacus 9, 1 thread",
        "goal": "test exact above 0.99: yes",
    }
    assert rows["rnn"]["goal"] == "test exact above 0.99: **no**"  # the best seed does not count
    assert rows["rnn"]["processor"] == "Slide Rule 5"
    assert rows["lstm"]["seeds"] == "1 (of 3)"
    assert rows["lstm"]["goal"] == "test exact above 0.99: not run"
    assert "Signature of sacrebleu: BLEU `nrefs:1|case:mixed|tok:13a`." in section
    assert "chrF2" not in section  # numbers.yaml does not show chrF
    assert section.count("Signature") == 1  # exact has none


def test_results_shows_a_diverged_run_as_such(tmp_path):
    for seed in range(3):
        _result(tmp_path, "gru", seed, exact=1.0, bleu=100, status="diverged" if seed == 1 else "finished")
    row = _rows(_section(_results(tmp_path, "print(results.table())"), "numbers"))["gru"]
    assert row["test exact, mean (each seed)"] == "diverged (1, diverged, 1)"
    assert row["goal"] == "test exact above 0.99: **no**"


def test_results_compares_a_run_with_another(tmp_path):
    for seed, without in enumerate((25.0, 26.0, 26.5)):
        _result(tmp_path, "gru_attention", seed, exact=0.1, bleu=30 + seed, name="tatoeba")
        if seed < 2:
            _result(tmp_path, "gru_no_attention", seed, exact=0.1, bleu=without, name="tatoeba")
    goals = []
    for third in (26.0, 27.5):  # 31 is above the mean by 5.33, and then by 4.83
        rows = _rows(_section(_results(tmp_path, "print(results.table())"), "tatoeba"))
        goals.append(rows["gru_attention"]["goal"])
        shutil.rmtree(tmp_path / "runs/results/tatoeba/gru_no_attention-s2", ignore_errors=True)
        _result(tmp_path, "gru_no_attention", 2, exact=0.1, bleu=third, name="tatoeba")
    goals.append(_rows(_section(_results(tmp_path, "print(results.table())"), "tatoeba"))["gru_attention"]["goal"])
    start = "test bleu above 26: yes; test bleu above gru_no_attention by 5: "
    assert goals == [start + "not run", start + "yes", start + "**no**"]


def test_results_keeps_the_rows_of_runs_that_are_not_here(tmp_path):
    for seed in range(3):
        _result(tmp_path, "gru", seed, exact=1.0, bleu=99.5)
        _result(tmp_path, "lstm", seed, exact=1.0, bleu=99.5)
    page = tmp_path / "page.md"
    write = "page = pathlib.Path('page.md'); before = page.read_text() if page.exists() else ''; "
    write += "page.write_text(results.table(before))"
    _results(tmp_path, write)
    first = page.read_text()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    _results(tmp_path, write)
    assert page.read_text() == first
    _result(tmp_path, "lstm", 0, exact=0.25, bleu=25)
    page.write_text(first + "\n## no_more\n\nold\n")
    _results(tmp_path, write)
    old, new = (_rows(_section(text, "numbers")) for text in (first, page.read_text()))
    assert new["gru"] == old["gru"]
    assert new["lstm"]["test exact, mean (each seed)"] == "0.25 (0.25)"
    assert new["rnn"]["goal"] == "not run"
    assert "no_more" not in page.read_text()
    pending = "read = results.read; results.read = lambda name: read(name) | {'pending': 'it takes an hour'}; "
    (tmp_path / "runs").rename(tmp_path / "elsewhere too")
    _results(tmp_path, pending + write)
    section = _section(page.read_text(), "numbers")
    assert "\nNot run yet with these settings: it takes an hour.\n" in section
    assert _rows(section)["gru"]["goal"] == "not run"


def test_long_runs_of_the_results_train_on_demand(tmp_path):
    code = (
        "print(*[[run for name, run, given, seed in results.chosen(names, long) if seed == 0] "
        "for names, long in ((['multi30k'], False), (['multi30k'], True), ([], False))], sep='\\n')"
    )
    short, everything, all_short = (
        json.loads(line.replace("'", '"')) for line in _results(tmp_path, code).splitlines()
    )
    assert short == ["gru"]
    assert everything == ["gru", "gru_long"]
    assert {"gru_attention", "gru", "lstm"} <= set(all_short)
    assert "gru_long" not in all_short


def test_results_names_what_it_does_not_know(tmp_path):
    done = subprocess.run(
        [processes.programs() / "python", ROOT / "scripts" / "results.py", "numbers", "letters", "fast=true"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "unknown: letters, fast; experiments: " in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_can_have_its_own_seeds(tmp_path):
    code = (
        "runs = {'gru': ['cell=gru'], 'long': {'overrides': ['cell=lstm'], 'long': True, 'seeds': [5]}}; "
        "results.read = lambda name: {'seeds': [0, 1], 'runs': runs}; "
        "print(results.chosen(['numbers'], False)); print(results.chosen(['numbers'], True))"
    )
    short, long = map(ast.literal_eval, _results(tmp_path, code).splitlines())
    assert short == [("numbers", "gru", ["cell=gru"], 0), ("numbers", "gru", ["cell=gru"], 1)]
    assert long == [*short, ("numbers", "long", ["cell=lstm"], 5)]


@pytest.mark.slow
def test_results_trains_a_recipe_once(tmp_path):
    """The whole way from a file to the page, with a recipe of two training steps."""
    code = (
        "read = results.read; short = ['task.eval_size=20', 'trainer.steps=2', 'trainer.eval_every=2', "
        "'model.hidden_size=8', 'task.longest_output=5']; "
        "results.read = lambda name: read(name) | "
        "{'seeds': [0], 'runs': {'gru': ['cell=gru', *short]} if name == 'numbers' else {}, 'goals': []}; "
        "results.main(['numbers', 'jobs=1', 'out=page.md'])"
    )
    first = _results(tmp_path, code)
    assert "runs/results/numbers/gru-s0: finished" in first
    row = _rows(_section((tmp_path / "page.md").read_text(), "numbers"))["gru"]
    assert row["cell"] == "gru"
    assert row["seeds"] == "0"
    assert row["processor"].endswith(", 1 thread")
    checkpoint = tmp_path / "runs" / "results" / "numbers" / "gru-s0" / "checkpoints" / "last.pt"
    written = checkpoint.stat().st_mtime_ns
    _results(tmp_path, code)
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "file", sorted((ROOT / "conf" / "experiment" / "results").glob("*.yaml")), ids=lambda f: f.stem
)
def test_a_recipe_states_its_goal_and_its_sources(file):
    about = yaml.safe_load(file.read_text())["results"]
    assert len(set(about["seeds"])) == 3
    assert about["goals"] or "note" in about  # a run without a goal is a measurement; the note says what it measures
    for goal in about["goals"]:
        assert goal["value"] in about["metrics"]
        assert {goal["run"], goal.get("above_run", goal["run"])} <= set(about["runs"])
        assert {"above", "below", "margin"} & set(goal)
    assert about["published"] or about["note"], "give published numbers, or say why there are none"
    for published in about["published"]:
        assert set(published) == {"result", "model", "convention", "source"}


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_without_one(tmp_path):
    pytest.importorskip("triton", minversion="3.7")
    environment = {"DEVICE": "cpu", "TRITON_INTERPRET": "1", "OUT": tmp_path, "PARTS": "compile measure train report"}
    environment |= {"OPTIONS": "sizes=3x2x20 cells=lstm,mingru steps=2", "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "gpu_check.sh"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    measured = {(row["cell"], row["precision"], row["way"]): row for row in rows if row["part"] == "measure"}
    ways = [
        ("lstm", "torch.nn"),
        ("lstm", "whole"),
        ("lstm", "per step"),
        ("mingru", "whole"),
    ]  # mingru has no products
    expected = {(cell, precision, way) for precision in ("ieee", "tf32", "bf16") for cell, way in ways}
    assert {*measured} == expected | {("lstm", "ieee", "recorded"), ("mingru", "ieee", "recorded")}
    for (_, precision, _), row in measured.items():
        least, most = (1e-4, 0.05) if precision == "bf16" else (1e-9, 1e-5)
        assert least < row["output error"] < most
        assert least < row["gradient error"] < most
        assert row["training"] > 0 < row["inference"]
    assert "\n0 failures\n" in done.stdout
    assert done.stdout.count(" tokens a second, test loss ") == 3
    verdicts = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith(("pass", "FAIL", "not measured"))
    ]
    assert len(verdicts) == 5
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.txt" for name in environment["PARTS"].split()),
        "results.jsonl",
    }


def test_the_report_of_a_gpu_says_which_goals_are_met(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import gpu_report

    def row(cell, size, precision, way, auto, time, **more):
        found = {"part": "measure", "cell": cell, "size": size, "precision": precision, "way": way, "auto": auto}
        numbers = {"inference": time, "training": 2 * time, "peak": 1, "output error": 1e-7, "gradient error": 1e-6}
        return {**found, **numbers, **more}

    rows = [
        row("lstm", "256x64x64", "tf32", "torch.nn", "whole", 3),
        row("lstm", "256x64x64", "tf32", "whole", "whole", 2),
        row("peephole", "256x64x64", "tf32", "whole", "whole", 3.5),  # 1.75 times the time of the LSTM
        row("gru", "256x64x512", "ieee", "torch.nn", "per step", 9),
        row("gru", "256x64x512", "ieee", "per step", "per step", 4, training=5),  # 2.25 and 3.6 times as fast
        row("gru", "256x64x512", "ieee", "recorded", "-", 7, training=20),  # 1.75 and 4 times the time
        {"part": "measure", "cell": "rnn", "size": "256x64x512", "precision": "bf16", "way": "whole", "auto": "whole"}
        | {"problem": "RuntimeError: an illegal memory access"},
        {"part": "compile", "cell": "lstm", "size": "256x64x64", "way": "auto", "took": 4.0},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gpu_report.report(tmp_path / "results.jsonl", "cpu")
    said = capsys.readouterr().out
    verdicts = [line.split(None, 1) for line in said.splitlines() if line.startswith(("pass", "FAIL", "not measured"))]
    assert [(verdict, text.partition(":")[0], text.rpartition(": ")[2]) for verdict, text in verdicts] == [
        ("pass", "whole, LSTM where auto chooses it", "2 of 2 cases"),
        ("FAIL", "whole, other cells", "0 of 2 cases"),
        ("pass", "per step, float32, widths 256 to 1024", "2 of 2 cases"),
        ("FAIL", "any cell", "1 of 2 cases"),
        ("pass", "first use", "1 of 1 cases"),
    ]
    assert "least 1.75, demanded 2.00: gru 256x64x512 ieee per step inference" in said
    assert "1 failures\n  measure rnn 256x64x512 bf16 whole: RuntimeError: an illegal memory access" in said
