"""README and docs do what they say: every file they show is written, every command they give is run."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import processes
import pytest
import tiers

from rnnlab import cells
from rnnlab.training.flops import cost_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _run(command, folder):
    path = [processes.programs(), Path(sys.executable).parent, os.environ["PATH"]]
    environment = {**os.environ, "PATH": ":".join(map(str, path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# The tests of these commands and tasks have the parts.
LONG = ("benchmark", "resuming", "compare", "diagnose", "sweeps")
LONG += ("export", "own_text", "tasks", "layers", "blocks", "recall")
LONG += ("captions", "conversation", "question_answering", "translate")
LONG += ("speech", "music", "images", "strokes", "motion", "own_data", "atlas")


@pytest.mark.parametrize("page", tiers.quick_if(PAGES, lambda page: page.stem not in LONG), ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path):
    said = ""
    for language, text in BLOCK.findall(page.read_text()):
        name = re.match(r"(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\n", text)
        if language == "bash":
            said += _run(["bash", "-euc", text], tmp_path)
        elif language == "make":  # the environment is there already: what the targets would do is enough
            for line in text.splitlines():
                _run([*line.split(), "--dry-run", "--always-make"], ROOT)
        elif name:
            file = tmp_path / name.group(1)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif language == "python" and "import" in text:
            _run(["python", "-W", "error", "-c", text], tmp_path)
        else:
            assert language in ("python", ""), f"a {language} block that nobody runs"
    if page.stem == "README":
        assert "\nhello\n" in said
    if page.stem in ("first_cell", "first_task"):
        assert "the contract holds" in said
    if page.stem in ("engine", "gpu"):
        shown = [text for language, text in BLOCK.findall(page.read_text()) if not language]
        assert len(shown) == {"engine": 4, "gpu": 2}[page.stem]
        assert all(text in said for text in shown), "the page shows what the command prints"
    if page.stem == "resuming":
        assert "resuming at step" in said
        assert "is not trained again" in said


@pytest.mark.slow
def test_one_file_makes_a_cell_part_of_rnnlab(tmp_path):
    page = (ROOT / "docs" / "first_cell.md").read_text()
    (cell,) = (text for language, text in BLOCK.findall(page) if language == "python" and "class " in text)
    (file,) = set(re.findall(r"`(rnnlab/cells/\S+\.py)`", page))
    shutil.copytree(ROOT / "rnnlab", tmp_path / "rnnlab")
    shutil.copytree(ROOT / "conf", tmp_path / "rnnlab" / "conf")
    (tmp_path / file).write_text(cell)
    name = Path(file).stem
    train = ["train", "task=hello", f"cell={name}", "cell.bias=false", "trainer.steps=2", "run_dir=run"]
    code = f"""
        import rnnlab.contracts
        from rnnlab.__main__ import main
        print(rnnlab.__file__)
        rnnlab.contracts.check_cell({name!r})
        for arguments in (["cells"], ["cells", {name!r}], ["--help"], {train!r}):
            assert main(arguments) == 0
    """
    python = [sys.executable, "-c", textwrap.dedent(code)]
    said = _run(python, tmp_path)  # imports the copy
    assert str(tmp_path / "rnnlab") in said
    assert re.search(rf"{file.split('/')[2]} +2017 +{name} ", said)
    assert "f_t = σ(U_f h_{t-1})" in said
    assert re.search(rf"  {name} +{re.escape(cell.split(chr(34) * 3)[1])}", said)


def test_the_table_of_cells_is_that_of_the_code():
    lines = (ROOT / "docs" / "cells.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \w+ \| `\w+` \|", line)]
    shown = {row[1].strip("`"): (row[0], row[2], row[3], row[-1]) for row in rows}
    for name in cells.available():
        cell, about = cells.create(name, input_size=3, hidden_size=4), cells.describe(name)
        assert shown.pop(name) == (about.family, about.paper, ", ".join(cell.states), cell.verified)
    assert not shown


COST = re.compile(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d,.]+) \| ([\d,.]+) \| [\d.]+ \|$", re.MULTILINE)
COSTS = {name: shown for name, *shown in COST.findall((ROOT / "docs" / "cells.md").read_text())}


def test_the_costs_of_all_cells_are_listed():
    assert list(COSTS) == cells.available()


@pytest.mark.parametrize("name", tiers.quick_if(COSTS, {"mlstm", "retnet", "tgru"}.__contains__))
def test_the_cost_of_a_cell_is_that_of_the_code(name):
    width, *shown = COSTS[name]
    cost = cost_of(cells.create(name, input_size=128, hidden_size=int(width)))
    assert shown == [f"{cost.state:,}", f"{cost.products / 1000:,.1f}", f"{cost.elements / 1000:,.1f}"]
    assert cost.state == pytest.approx(1024, rel=0.05)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
