"""README and docs do what they say: every file they show is written, every command they give is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _run(command, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
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
            _run([sys.executable, "-W", "error", "-c", text], tmp_path)
        else:
            assert language in ("python", ""), f"a {language} block that nobody runs"
    if page.stem == "README":
        assert "\nhello\n" in said
    if page.stem in ("first_cell", "first_task"):
        assert "the contract holds" in said
    if page.stem == "engine":
        shown = [text for language, text in BLOCK.findall(page.read_text()) if not language]
        assert len(shown) == 4
        assert all(text in said for text in shown), "the page shows what the command prints"
    if page.stem == "resuming":
        assert "going on at step" in said
        assert "is not trained again" in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
