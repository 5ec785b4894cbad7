"""The tutorial: its code runs and prints what the pages show, and translation, figures and notebook match the pages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))
import tutorial  # noqa: E402
import tutorial_diagrams as diagrams  # noqa: E402
import tutorial_figures as figures  # noqa: E402

sys.path.remove(str(SCRIPTS))
CHAPTERS = tutorial.chapters()
PAGES = [*sorted(tutorial.TUTORIAL.glob("*.md")), *sorted((tutorial.TUTORIAL / "ko").glob("*.md"))]
IMAGES = tutorial.TUTORIAL / "images"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def _shape(page):
    """What a translation must not change: code, outputs, levels of headings, rows of tables, formulas and figures."""
    text = page.read_text()
    prose = FENCE.sub("", text)
    return {
        "code": FENCE.findall(text),
        "headings": re.findall(r"^#+(?= )", prose, re.MULTILINE),
        "rows": [row.count("|") for row in re.findall(r"^\|.*$", prose, re.MULTILINE)],
        "formulas": [re.sub(r"\\text\{.*?\}", "", formula) for formula in re.findall(r"\$\$.*?\$\$", prose, re.DOTALL)],
        "figures": [Path(target).name.replace(".ko", "") for target in re.findall(r"!\[.*?\]\((.*?)\)", prose)],
    }


@pytest.mark.parametrize("page", [*CHAPTERS, tutorial.TUTORIAL / "index.md"], ids=lambda page: page.stem)
def test_the_translation_has_the_structure_of_the_page(page):
    assert _shape(tutorial.korean(page)) == _shape(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_and_figures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
        figure = page.parent / target
        if figure.suffix == ".svg" and (IMAGES / f"{figure.name.split('.')[0]}.ko.svg").exists():
            assert figure.name.endswith(".ko.svg") == (page.parent.name == "ko"), "a page shows words in its language"


def test_every_page_is_translated_and_in_the_contents():
    assert {page.name for page in PAGES if page.parent.name == "ko"} == {
        page.name for page in PAGES if page.parent.name != "ko"
    }
    for contents in ("index.md", "ko/index.md"):
        linked = re.findall(r"^\| \[.*?\]\((.*?)\)", (tutorial.TUTORIAL / contents).read_text(), re.MULTILINE)
        assert linked == [page.name for page in CHAPTERS]


def test_figures_are_small_and_have_two_colour_schemes():
    shown = {name for page in CHAPTERS for name in re.findall(r"\(images/(\w+)\.svg\)", page.read_text())}
    files = list(IMAGES.iterdir())
    assert {file.name.split(".")[0] for file in files} == shown
    assert sum(file.stat().st_size for file in files) < 600_000
    for file in files:
        text = file.read_text()
        assert len(text.encode()) < 60_000, file.name
        assert "prefers-color-scheme:dark" in text
        assert "fill:var(--paper)" in text
        if ".ko." in file.name:
            assert text == diagrams.translated(file.with_name(file.name.replace(".ko", "")).read_text())


@pytest.mark.parametrize("name", ["patterns", "unrolled", "truncated", "lstm", "gru"])
def test_a_drawing_is_up_to_date(name):
    assert (IMAGES / f"{name}.svg").read_text() == figures.FIGURES[name](Path())


def test_the_notebook_is_up_to_date():
    text = tutorial.NOTEBOOK.read_text()
    assert text == tutorial.notebook(CHAPTERS), "run scripts/tutorial.py"
    content = json.loads(text)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", one) for one in ids)
    common = {"cell_type", "id", "metadata", "source"}
    for cell in content["cells"]:
        is_code = cell["cell_type"] == "code"
        assert set(cell) == (common | {"execution_count", "outputs"} if is_code else common)
        assert is_code or cell["cell_type"] == "markdown"
        assert all(isinstance(line, str) for line in cell["source"])
        for output in cell.get("outputs", []):
            assert set(output) == {"name", "output_type", "text"}
    codes = [block.code.rstrip() for page in CHAPTERS for block in tutorial.blocks(page)]
    assert [block.code for block in tutorial.blocks(tutorial.NOTEBOOK)] == codes


def test_the_notebook_is_valid():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(tutorial.NOTEBOOK, as_version=4))


def test_outputs_are_put_below_their_blocks():
    page = '```python\nprint("a ")\n```\n\n```text\nold\n```\n\nText.\n\n```bash\ntrue\n```\n'
    (first, second) = tutorial.BLOCK.finditer(page)
    assert (first["output"], second["output"]) == ("old\n", None)
    renewed = tutorial.with_outputs(page, ["a \n\n", "not shown\n"])
    assert renewed == page.replace("old", "a")
    translation = page.replace("Text.", "글.").replace('"a "', '"b"')
    assert tutorial.with_blocks_of(renewed, translation) == renewed.replace("Text.", "글.")
    with pytest.raises(SystemExit, match="2 blocks of code, its translation 0"):
        tutorial.with_blocks_of(page, "글.")
    parts = [
        tutorial.Block("python", "x = 2\n"),
        tutorial.Block("bash", "echo 1\n"),
        tutorial.Block("python", "print(x)"),
    ]
    assert tutorial.execute(parts) == ["", "1\n", "2\n"]
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        tutorial.execute([tutorial.Block("python", "1 / 0")])
    with pytest.raises(SystemExit, match="broken"):
        tutorial.execute([tutorial.Block("bash", "echo broken; false; true")])


SAMPLED = ("samples/", "temperature=0.5")
"""Code that prints text drawn from a trained network: rounding changes it from one processor to another."""


def _agree(shown, found):
    """Whether two outputs have the same words, and numbers within 25% (or 2 in the last place shown)."""
    if NUMBER.sub("#", " ".join(shown.split())) != NUMBER.sub("#", " ".join(found.split())):
        return False
    pairs = zip(NUMBER.findall(shown.replace("−", "-")), NUMBER.findall(found.replace("−", "-")), strict=True)
    return all(_close(one, other) for one, other in pairs)


def _close(one, other):
    place = len(one.partition(".")[2].partition("e")[0])
    wanted, found = float(one), float(other)
    near = 2.01 * 10**-place if "." in one and "e" not in one else 0
    if "e" in one or "e" in other:  # norms over many steps: their order of magnitude
        return wanted * found > 0 and 0.1 <= wanted / found <= 10
    return abs(wanted - found) <= max(0.25 * abs(wanted), near)


def test_outputs_are_compared_by_words_and_numbers():
    assert _agree("loss 0.50 of  3", "loss 0.60 of 3")
    assert not _agree("loss 0.50 of 3", "loss 0.70 of 3")
    assert not _agree("loss 0.50", "gain 0.50")
    assert _agree("0.001", "0.003")
    assert _agree("2e-09", "4e-09")
    assert not _agree("2e-09", "3e-07")


def _printed(file, folder):
    # Slow pages show samples of a model, which `processes` shortens: they run as a user runs them.
    programs = processes.programs() if file.stem in QUICK else Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = ["python", "-W", "error", str(SCRIPTS / "tutorial.py"), f"cells={file}"]
    limit = 3600  # the notebook takes minutes, several times as many on a busy machine
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


QUICK = ("01_sequences", "02_vanilla")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.stem in QUICK else [pytest.mark.slow]) for page in CHAPTERS],
    ids=lambda page: page.stem,
)
def test_a_chapter_prints_what_it_shows(page, tmp_path):
    parts = tutorial.blocks(page)
    for part, output in zip(parts, _printed(page, tmp_path), strict=True):
        if part.output is None:
            continue
        if any(mark in part.code for mark in SAMPLED):
            assert len(output) > 200
        else:
            assert _agree(part.output, tutorial.tidy(output)), f"{part.code}\n{part.output}\n{output}"


@pytest.mark.slow
def test_a_figure_shows_the_numbers_of_its_run(tmp_path):
    page = next(page for page in CHAPTERS if page.stem == "03_hello")
    (tmp_path / page.name).write_text("```bash\n" + tutorial.blocks(page)[0].code + "```\n")
    _printed(tmp_path / page.name, tmp_path)
    shown, found = (
        " ".join(re.findall(r">([^<>]+)</text>", svg))
        for svg in ((IMAGES / "hello.svg").read_text(), figures.hello(tmp_path / "runs"))
    )
    assert shown.count("0.99") == 4
    assert _agree(shown, found)


@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end(tmp_path):
    outputs = _printed(tutorial.NOTEBOOK, tmp_path)
    assert len(outputs) == len(tutorial.blocks(tutorial.NOTEBOOK))
    assert sum("equal" in output for output in outputs) >= 8
