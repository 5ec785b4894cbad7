"""Hooks of MkDocs for the documentation site: README and CHANGELOG as pages, the cell atlas, the reference, equations.

The pages in docs/ are written for GitHub, too. What only the site can show is made here, while it is built.
"""

import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file by its path

import atlas

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site by the files outside docs/ that they show."""
LANGUAGES = {"ko": "한국어"}
"""Titles of folders with translations."""
REFERENCE = [
    "training.trained",
    "cells",
    "layers",
    "nn",
    "models",
    "heads",
    "tasks",
    "interface",
    "contracts",
    "training",
]
REFERENCE += ["generation", "engine", "diagnostics", "analysis", "benchmark", "export", "weights"]
"""Public modules of rnnlab; ``__all__`` of each lists what is public."""


def on_config(config: Any) -> Any:
    """Add the pages that are made here to the navigation."""
    for section in config.nav:
        if "Tutorial" in section:
            section["Tutorial"] = _pages("tutorial")
        if "Cells" in section:
            section["Cells"] += [
                {family: [{name: f"cells/{name}.md"} for name in names]} for family, names in atlas.families().items()
            ]
        if "Reference" in section:
            section["Reference"] += [{f"rnnlab.{name}": f"reference/{name}.md"} for name in REFERENCE]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and drawings that are made here."""
    made = {page: _moved((ROOT / name).read_text()) for name, page in PAGES.items()}
    for name in atlas.cells.available():
        made |= {f"cells/{name}.md": atlas.page(name), f"cells/{name}.svg": atlas.drawing(name)}
    made |= {f"reference/{name}.md": f"# rnnlab.{name}\n\n::: rnnlab.{name}\n" for name in REFERENCE}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add the table of scores and the links to the atlas."""
    if page.file.src_path == "atlas.md":
        markdown = markdown.replace("<!-- table of scores -->", atlas.overview())
    if page.file.src_path == "cells.md":
        markdown = re.sub(r"^(\| (?:\w+ \| )?)`(\w+)` \|", r"\1[`\2`](cells/\2.md) |", markdown, flags=re.M)
    for name, target in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({target}")
    return re.sub(r"\[([^\]]+)\]\(\.\./(?:tests|rnnlab|scripts|conf)[^)]*\)", r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Replace LaTeX by MathML, which browsers draw without a script."""
    pattern = r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>'
    kinds = {"span": "inline", "div": "block"}
    return re.sub(pattern, lambda m: convert(unescape(m[2]), display=kinds[m[1]]), html, flags=re.S)


def _pages(folder: str) -> list[Any]:
    """The pages of a folder of docs/ by their names, then the pages of its folders."""
    pages: list[Any] = [str(path.relative_to(DOCS)) for path in sorted((DOCS / folder).glob("*.md"))]
    return pages + [
        {LANGUAGES.get(one.name, one.name): _pages(f"{folder}/{one.name}")}
        for one in sorted((DOCS / folder).glob("*/"))
        if any(one.glob("*.md"))
    ]


def _moved(markdown: str) -> str:
    """The text of a file outside docs/ with its links as seen from docs/."""
    for name, target in PAGES.items():
        markdown = markdown.replace(f"]({name}", f"]({target}")
    return markdown.replace("](docs/", "](").replace("](LICENSE)", "](https://opensource.org/license/mit)")
