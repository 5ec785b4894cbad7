"""Run the code of the tutorial, write its outputs into the pages, and write the notebook.

python scripts/tutorial.py [folder=runs/tutorial] [only=01_sequences,03_hello]
python scripts/tutorial.py cells=PAGE.md|NOTEBOOK.ipynb

The first form runs each chapter in its own process in FOLDER and puts what each block prints into the English page. It
copies code and outputs to the Korean page and writes docs/tutorial/rnnlab_tutorial.ipynb. The second form runs the code
of one file in the working directory and prints the outputs of the blocks as a JSON list.
"""

import io
import json
import os
import re
import subprocess
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
NOTEBOOK = TUTORIAL / "rnnlab_tutorial.ipynb"
SHELL = "%%bash\n"
BLOCK = re.compile(
    r"^```(?P<language>python|bash)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code of a page.

    language: ``python`` or ``bash``.
    code: the code.
    output: what the page shows below it; None if the page shows no output.
    """

    language: str
    code: str
    output: str | None = None


def chapters() -> list[Path]:
    """The English pages in order."""
    return sorted(TUTORIAL.glob("[0-9]*.md"))


def korean(page: Path) -> Path:
    """The translation of an English page."""
    return TUTORIAL / "ko" / page.name


def blocks(file: Path) -> list[Block]:
    """The blocks of code of a page, or the code cells of a notebook, in order."""
    if file.suffix != ".ipynb":
        return [Block(**found.groupdict()) for found in BLOCK.finditer(file.read_text())]
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    codes = ["".join(cell["source"]) for cell in cells]
    return [
        Block("bash", code.removeprefix(SHELL)) if code.startswith(SHELL) else Block("python", code) for code in codes
    ]


def execute(parts: list[Block]) -> list[str]:
    """Run blocks in order in this process, those of Python in one namespace; return what each prints.

    Raises:
        SystemExit: a block fails; the message contains its code.
    """
    names: dict = {"__name__": "__main__"}
    printed = []
    for number, part in enumerate(parts):
        try:
            if part.language == "bash":
                done = subprocess.run(["bash", "-euc", part.code], capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(done.stdout + done.stderr)
                printed.append(done.stdout)
            else:
                with redirect_stdout(io.StringIO()) as out:
                    exec(compile(part.code, f"block {number}", "exec"), names)
                printed.append(out.getvalue())
        except Exception:
            sys.exit(f"{part.code}\n{traceback.format_exc()}")
    return printed


def run(file: Path, folder: Path) -> list[str]:
    """Run the code of a page or notebook in ``folder`` in a new process; return what each block prints."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "error", __file__, f"cells={file.resolve()}"]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{file.name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def with_outputs(text: str, outputs: list[str]) -> str:
    """A page with new outputs below the blocks that show one."""
    remaining = iter(outputs)

    def renewed(found: re.Match) -> str:
        output = next(remaining)
        head = f"```{found['language']}\n{found['code']}```\n"
        return head if found["output"] is None else f"{head}\n```text\n{tidy(output)}```\n"

    return BLOCK.sub(renewed, text)


def with_blocks_of(page: str, translation: str) -> str:
    """A translation with the code and the outputs of the page."""
    found = [match[0] for match in BLOCK.finditer(page)]
    if len(BLOCK.findall(translation)) != len(found):
        sys.exit(f"a page has {len(found)} blocks of code, its translation {len(BLOCK.findall(translation))}")
    remaining = iter(found)
    return BLOCK.sub(lambda match: next(remaining), translation)


def tidy(output: str) -> str:
    """An output as a page shows it: without trailing white space, with a final line break."""
    return "\n".join(line.rstrip() for line in output.rstrip().splitlines()) + "\n"


def notebook(pages: list[Path]) -> str:
    """The notebook of the pages (nbformat 4.5), with a cell for each block of code and for the text between blocks."""
    cells = []
    for page in pages:
        text, end = page.read_text(), 0
        for found in BLOCK.finditer(text):
            cells += [_markdown(text[end : found.start()]), _code(Block(**found.groupdict()))]
            end = found.end()
        cells.append(_markdown(text[end:]))
    cells = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cell for cell in cells if cell["source"])]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def _code(block: Block) -> dict:
    source = (SHELL if block.language == "bash" else "") + block.code.rstrip()
    shown = block.output and {"name": "stdout", "output_type": "stream", "text": block.output.splitlines(keepends=True)}
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [shown] if shown else [],
        "source": source.splitlines(keepends=True),
    }


def main(arguments: list[str]) -> None:
    """Run one file, or run the chapters and write pages and notebook."""
    options = {"folder": "runs/tutorial", "only": "", "cells": ""}
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if not given.keys() <= options.keys():
        sys.exit(__doc__)
    options |= given
    if options["cells"]:
        print(json.dumps(execute(blocks(Path(options["cells"])))))
        return
    chosen = options["only"].split(",") if options["only"] else [page.stem for page in chapters()]
    for page in chapters():
        if page.stem in chosen:
            outputs = run(page, Path(options["folder"]))
            page.write_text(with_outputs(page.read_text(), outputs))
            korean(page).write_text(with_blocks_of(page.read_text(), korean(page).read_text()))
            print(f"{page.name}: {len(outputs)} blocks", flush=True)
    NOTEBOOK.write_text(notebook(chapters()))


if __name__ == "__main__":
    main(sys.argv[1:])
