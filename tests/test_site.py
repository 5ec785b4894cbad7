"""The documentation site: it builds without a warning, every page is in it, and the drawings show every operation."""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiers

from rnnlab import cells
from rnnlab.__main__ import main
from rnnlab.diagnostics.step import SILENT, draw, drawing
from rnnlab.engine.traced import program_of
from rnnlab.report.diagram import Box, Diagram, Line

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def _script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


atlas = _script("atlas")


@pytest.mark.parametrize("name", tiers.quick_if(cells.available(), {"lstm", "gru", "mlstm", "taugru"}.__contains__))
def test_a_drawing_has_every_operation_once(name):
    cell = cells.create(name, input_size=8, hidden_size=16)
    program = program_of(cell)
    found = drawing(cell, program)
    assert Counter(node for nodes in found.nodes.values() for node in nodes) == Counter(program.nodes)
    boxes = found.diagram.boxes
    assert len(found.diagram.feedback) == len(cell.states)
    read = {line.start for line in found.diagram.lines}
    left = [box for box in boxes if box not in read and box.kind != "result"]
    dead = [box for box in left if box.kind != "leaf"]
    assert not dead, "an operation leads to the new state or the output"
    for box, nodes in found.nodes.items():  # a field for each operation that changes values, or one for all of a group
        shown = [node for node in nodes if node.operation not in SILENT]
        assert len(box.texts) <= max(len(shown), 1), (box.texts, nodes)
    root = ElementTree.fromstring(draw(cell))
    texts = Counter(text.text for text in root.iter(f"{SVG}text"))
    assert all(texts[f"{state}ₜ"] and texts[f"{state}ₜ₋₁"] for state in cell.states)


def test_the_lines_of_a_drawing_follow_the_program():
    cell = cells.create("lstm", input_size=3, hidden_size=4)
    diagram = drawing(cell, program_of(cell)).diagram
    ends = Counter((line.start.texts, line.tail, line.end.texts) for line in diagram.lines)
    assert ends[("hₜ₋₁",), "", ("U ·", "+ b")] == 1
    assert {tail: end for (_, tail, end), _ in ends.items() if tail} == {
        "i": ("σ",),
        "f": ("σ",),
        "g": ("tanh",),
        "o": ("σ",),
    }
    assert ends[("cₜ₋₁",), "", ("×",)] == ends[("+",), "", ("cₜ",)] == ends[("+",), "", ("tanh",)] == 1
    assert ends[("×",), "", ("hₜ",)] == ends[("×",), "", ("yₜ",)] == 1


def test_the_layout_avoids_crossings_and_overlaps():
    tops = [Box((f"a{n}",), "leaf") for n in range(4)]
    ends = [Box((f"b{n}",), "function") for n in range(4)]
    diagram = Diagram([*tops, *ends], [Line(tops[n], ends[3 - n]) for n in range(4)])
    diagram.svg("reversed")
    order = sorted(range(4), key=lambda n: tops[n].y)
    assert order == sorted(range(4), key=lambda n: ends[3 - n].y)
    for column in (tops, ends):
        heights = sorted(box.y for box in column)
        assert all(below - above >= 26 for above, below in itertools.pairwise(heights))
    assert all(start.x + start.size[0] < end.x for start in tops for end in ends)


def test_explain_draws_a_cell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "cell=gru", "draw=gru.svg"]) == 0
    assert ElementTree.parse("gru.svg").getroot().find(f"{SVG}title").text == "One time step of GRU"
    assert main(["explain", "cell=gru", "draw=gru.svg"]) == 2
    assert "draw=gru.svg exists" in capsys.readouterr().err


def _rows(text):
    return [re.sub(r"<[^>]+>", "", row) for row in re.findall(r"<mtr>(.*?)</mtr>", text)]


def test_equations_become_mathml():
    text = atlas.mathml(["h_t = tanh(W x_{t-1} - b_u)   reset=1", "S_tᵀ = σ(f̃^2)"])
    assert ElementTree.fromstring(text).tag == "math"
    assert _rows(text) == ["ht=tanh(Wxt−1−bu)reset=1", "StT=σ(f~2)"]
    assert "<msub><mi>x</mi><mrow><mi>t</mi>" in text
    assert "<msubsup><mi>S</mi><mrow><mi>t</mi></mrow><mrow><mi>T</mi></mrow></msubsup>" in text
    assert "<msup><mover><mi>f</mi><mo>~</mo></mover><mrow><mn>2</mn></mrow></msup>" in text


@pytest.mark.parametrize("name", tiers.quick_if(cells.available(), {"lstm", "rwkv7"}.__contains__))
def test_every_cell_has_a_page(name):
    page = atlas.page(name)
    (equations, *_) = re.findall(r"<math.*?</math>", page)
    assert ElementTree.fromstring(equations).iter("mtr")
    for heading in ("Equations", "One time step", "Size and speed", "Scores"):
        assert f"\n## {heading}\n" in page
    cell = cells.create(name, input_size=128, hidden_size=128)
    assert f"| parameters | {sum(p.numel() for p in cell.parameters() if p.requires_grad):,} |" in page
    options = re.findall(r"^\| `cell\.(\w+)` \| `[^`]*` \| (.*) \|$", page, re.M)
    assert all(meaning for _, meaning in options), "an option without a description"


def test_all_cells_have_scores_for_every_task():
    for task in atlas.TASKS:
        assert sorted(atlas.scores()[task]) == cells.available()
    assert set(atlas.TASKS) == {path.stem for path in (ROOT / "conf" / "experiment" / "atlas").glob("*.yaml")}
    shown = re.findall(r"\(cells/(\w+)\.md\)", atlas.overview())
    assert sorted(shown) == cells.available()


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in listed, page.name
    made = {"index.md", "contributing.md", "changelog.md"}
    assert all((ROOT / "docs" / name).exists() for name in listed - made)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index", "cells/lstm", "cells/s4d", "reference/cells"):
        html = (tmp_path / f"{page}.html").read_text()
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', html), "needs the network"
    assert len(list((tmp_path / "cells").glob("*.svg"))) == len(cells.available())
    reference = (tmp_path / "reference" / "layers.html").read_text()
    assert 'id="rnnlab.layers.Recurrent"' in reference


def test_the_better_learning_rate_counts(monkeypatch):
    nan = float("nan")
    runs = {"adding": {"gru": {"3e-3": [0.2, 0.4], "1e-2": [0.1, 0.3]}, "rnn": {"3e-3": [0.2], "1e-2": [nan]}}}
    runs["parity"] = {"gru": {"3e-3": [0.2, 0.4], "1e-2": [0.1, 0.3]}, "rnn": {"1e-2": [nan]}}
    monkeypatch.setattr(atlas, "scores", lambda: runs)
    assert atlas.best("adding", "gru") == (pytest.approx(0.2), "1e-2", [0.1, 0.3])
    assert atlas.best("parity", "gru") == (pytest.approx(0.3), "3e-3", [0.2, 0.4])
    assert atlas.best("adding", "rnn")[:2] == (0.2, "3e-3")
    assert atlas.shown(atlas.best("parity", "rnn")[0]) == "diverged"
    assert atlas.best("adding", "lstm") is None


def _run(script, *arguments):
    command = [sys.executable, ROOT / "scripts" / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_scores_are_measured_once(tmp_path):
    arguments = ["cells=rnn", "tasks=copying", "seeds=0", "rates=3e-3", f"out={tmp_path / 'scores.csv'}"]
    _run("atlas_scores.py", *arguments)
    head, row = (tmp_path / "scores.csv").read_text().splitlines()
    assert head == "cell,task,lr,seed,hidden_size,score"
    assert row.startswith("rnn,copying,3e-3,0,")
    assert float(row.split(",")[-1]) > 0.4, "chance is 0.25"
    (tmp_path / "scores.csv").write_text(f"{head}\n{row[:-1]}7\n")
    _run("atlas_scores.py", *arguments)
    assert (tmp_path / "scores.csv").read_text() == f"{head}\n{row[:-1]}7\n"


@pytest.mark.slow
def test_peers_are_measured():
    lines = _run("benchmark_peers.py", "cells=gru", "sizes=4x2x8", "rounds=1").splitlines()
    times = dict(re.findall(r"^gru 4x2x8 (\S+).*?: ([\d.]+) ms", "\n".join(lines), re.M))
    assert {"rnnlab", "torch.nn"} <= set(times)
    assert all(float(time) > 0 for time in times.values())
