"""The cell atlas: one page of Markdown and one drawing for each cell, for the documentation site.

python scripts/atlas.py FOLDER writes them to a folder; the site makes them while it is built. A page takes equations
and options from the docstring and signature of the cell, sizes and times from the tables of docs/cells.md, and scores
from docs/scores.csv, so nothing is written twice.
"""

import csv
import inspect
import json
import math
import re
import statistics
import sys
import unicodedata
from collections import defaultdict
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path

from rnnlab import cells, lookup
from rnnlab.diagnostics.step import draw
from rnnlab.training.flops import cost_of

ROOT = Path(__file__).resolve().parents[1]
INPUT_SIZE, HIDDEN_SIZE = 128, 128
TASKS = {  # title, unit, score of a model that ignores its inputs, whether a lower score is better
    "adding": ("adding, 30 steps", "mean squared error", 0.167, True),
    "parity": ("parity of 20 bits", "accuracy", 0.5, False),
    "copying": ("copying 4 symbols over 8 steps", "accuracy", 0.25, False),
    "mqar": ("recall of 4 values by key", "accuracy", 0.0625, False),
}


def families() -> dict[str, list[str]]:
    """Return the names of the cells by family, the oldest first."""
    found = defaultdict(list)
    for name in sorted(cells.available(), key=lambda name: (cells.describe(name).year, name)):
        found[cells.describe(name).family].append(name)
    return dict(sorted(found.items()))


def page(name: str) -> str:
    """Return the page of a cell."""
    about = cells.describe(name)
    return "\n".join(
        [
            f"# {about.title}",
            "",
            f"`cell={name}` · {about.family} · {about.paper}",
            "",
            "## Equations",
            "",
            _docstring(name),
            "",
            "## One time step",
            "",
            f'<div class="drawing" markdown>![One time step of {name}]({name}.svg){_shape(name)}</div>',
            "",
            f"`x` and other inputs of the step were computed for all time steps at once; [how to read]"
            f"(../atlas.md#read-a-drawing). `rnnlab explain cell={name} draw={name}.svg` makes this drawing, and "
            f"`rnnlab explain cell={name}` prints the code.",
            "",
            *_options(name),
            *_size(name),
            *_scores(name),
        ]
    )


def _docstring(name: str) -> str:
    """The text of a cell's docstring between its title and its arguments, with MathML for the equations."""
    text = inspect.getdoc(cells.find(name)).split("\nArgs:")[0].partition("\n")[2]
    parts = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        for indented, lines in groupby(block.splitlines(), lambda line: line.startswith("    ")):
            kept = list(lines)
            prose = "\n".join(kept).replace("\nDiffers", "\n\nDiffers")  # a paragraph of its own
            parts.append(mathml(kept) if indented else prose)
    return "\n\n".join(parts)


def _options(name: str) -> list[str]:
    """The table of a cell's options."""
    kind = cells.find(name)
    text = inspect.getdoc(kind).partition("\nArgs:\n")[2]
    entries = re.findall(
        r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", text, re.M
    )  # one entry may describe several options
    described = {key: " ".join(words.split()) for keys, words in entries for key in keys.split(", ")}
    rows = [
        f"| `cell.{key}` | `{json.dumps(one.default)}` | {described.get(key, '').replace('|', chr(92) + '|')} |"
        for key, one in lookup.options(kind).items()
        if one.default is not lookup.REQUIRED
    ]
    return ["## Options", "", "| option | default | meaning |", "|---|---|---|", *rows, ""] if rows else []


def _size(name: str) -> list[str]:
    """The table of a cell's size and speed."""
    cell = cells.create(name, input_size=INPUT_SIZE, hidden_size=HIDDEN_SIZE)
    cost, listed = cost_of(cell), tables()
    rows = [
        ("parameters", f"{sum(p.numel() for p in cell.parameters() if p.requires_grad):,}"),
        ("numbers of state for each sequence", f"{cost.state:,}"),
        ("operations of matrix products in a time step", f"{cost.products:,}"),
        ("other operations in a time step", f"{cost.elements:,}"),
    ]
    headings = {
        "backend": "backend for training on a CPU",
        "over floor (small)": "time over that of the matrix products alone, 64x32x128",
        "over floor (large)": "time over that of the matrix products alone, 128x64x256",
        "torchrecurrent": "time of torchrecurrent over that of rnnlab",
        "time": "time at 1,024 numbers of state, relative to `lstm`",
        "verified against": "verified against",
    }
    rows += [(title, listed[name][key]) for key, title in headings.items() if listed[name].get(key)]
    return [
        "## Size and speed",
        "",
        f"For {INPUT_SIZE} input features, `hidden_size={HIDDEN_SIZE}` and the default options. "
        "[Cells](../cells.md#list-of-cells) explains the times and names the processors.",
        "",
        "| quantity | value |",
        "|---|---|",
        *(f"| {title} | {value} |" for title, value in rows),
        "",
    ]


@cache
def tables() -> dict[str, dict[str, str]]:
    """Return the columns of all tables of docs/cells.md that have a row for each cell, by cell."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    heads: list[str] = []
    for line in (ROOT / "docs" / "cells.md").read_text().splitlines():
        columns = [column.strip() for column in line.strip("|").split("|")] if line.startswith("|") else []
        if "cell" in columns:
            heads = columns
        elif columns and {"over floor (small)", "hidden_size"} & set(heads) and not columns[0].startswith("---"):
            found[columns[heads.index("cell")].strip("`")] |= dict(zip(heads, columns, strict=True))
    return found


@cache
def scores() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the scores of docs/scores.csv by task, cell and learning rate, one for each seed."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with (ROOT / "docs" / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["task"]][row["cell"]][row["lr"]].append(float(row["score"]))
    return found


def best(task: str, name: str) -> tuple[float, str, list[float]] | None:
    """Return a cell's mean score at its better learning rate, this rate and the score of each seed.

    A rate with a run that diverged counts as the worst. None if the cell has no scores.
    """
    lower = TASKS[task][3]
    means = {rate: statistics.fmean(found) for rate, found in scores()[task].get(name, {}).items()}
    if not means:
        return None
    worst = math.inf if lower else -math.inf
    rate = (min if lower else max)(means, key=lambda rate: worst if math.isnan(means[rate]) else means[rate])
    return means[rate], rate, scores()[task][name][rate]


def _scores(name: str) -> list[str]:
    """The table of a cell's scores."""
    rows = []
    for task, (title, unit, chance, lower) in TASKS.items():
        found = best(task, name)
        if found is None:
            continue
        others = [one[0] for other in cells.available() if (one := best(task, other))]
        rank = 1 + sum(other < found[0] if lower else other > found[0] for other in others)
        seeds = ", ".join(map(shown, found[2]))
        rows.append(
            f"| {title} | {unit} | {shown(found[0])} | {seeds} | {found[1]} | {chance:g} | {rank} of {len(others)} |"
        )
    if not rows:
        return []
    return [
        "## Scores",
        "",
        "Two layers with 10,000 parameters in all, after 600 training steps: see the [protocol](../atlas.md#scores).",
        "",
        "| task | unit | mean | each seed | learning rate | chance | rank |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def shown(score: float) -> str:
    """Return a score with three digits."""
    return "diverged" if math.isnan(score) else f"{score:.3f}" if score >= 0.01 else f"{score:.1g}"


def _solved() -> list[str]:
    """The table of the number of cells that solve each task."""
    rows = ["| task | criterion | cells that solve the task | names |", "|---|---|---|---|"]
    for task, (title, unit, _, lower) in TASKS.items():
        found = {name: one[0] for name in cells.available() if (one := best(task, name))}
        solved = [name for name, score in found.items() if (score < 0.01 if lower else score > 0.95)]
        names = ", ".join(f"`{name}`" for name in solved)
        meaning = f"{unit} {'below 0.01' if lower else 'above 0.95'}"
        rows.append(f"| {title} | {meaning} | {len(solved)} of {len(found)} | {names} |")
    return rows


def overview() -> str:
    """Return the table of the scores of all cells, after the learning rates and seeds of the runs."""
    runs = [found for cells_of in scores().values() for found in cells_of.values()]
    rates = sorted({rate for found in runs for rate in found}, key=float)
    seeds = {len(values) for found in runs for values in found.values()}
    lines = [
        f"Learning rates: {', '.join(rates)}. Runs at a learning rate: {' or '.join(map(str, sorted(seeds)))}.",
        "",
    ]
    lines += [*_solved(), ""]
    lines += ["| family | cell | " + " | ".join(f"{title} ({unit})" for title, unit, *_ in TASKS.values()) + " |"]
    lines.append("|---|---|" + "---|" * len(TASKS))
    for family, names in families().items():
        for name in names:
            found = [best(task, name) for task in TASKS]
            columns = " | ".join("" if one is None else shown(one[0]) for one in found)
            lines.append(f"| {family} | [`{name}`](cells/{name}.md) | {columns} |")
    return "\n".join(lines)


TOKEN = re.compile(
    r"(?P<word>layer_norm|highway_bias|[a-zA-Z]{2,})|(?P<letter>[^\W\d_ᵀ])(?P<mark>[\u0300-\u036f]?)|(?P<number>\d[\d.]*)"
    r"|(?P<other>.)"
)
SCRIPT = re.compile(r"_(\{[^}]*\}|[^\Wᵀ²¹]+)|\^(\{[^}]*\}|\([^)]*\)|[^\Wᵀ²¹]+)|(['ᵀ²⁻¹]+)")
"""A subscript, a superscript, or a superscript that Unicode has as characters."""
MARKS = {"\u0303": "~", "\u0304": "¯", "\u0302": "^"}
RAISED = str.maketrans("'ᵀ²⁻¹", "′T2−1")


def mathml(equations: list[str]) -> str:
    """Return equations as MathML, one row for each line; text after a wide space becomes a remark.

    Args:
        equations: lines such as ``h_t = tanh(W x_t + U h_{t-1} + b)``.
    """
    rows = []
    for line in equations:
        if not line.strip():
            continue
        first, *others = re.split(r"\s{3,}", line.strip())
        shown = [_aligned(first)]
        shown += [f"<mtd>{_row(one) if _is_equation(one) else _text(one)}</mtd>" for one in others]
        rows.append(f"<mtr>{''.join(shown)}</mtr>")
    return f'<math display="block"><mtable class="equations">{"".join(rows)}</mtable></math>'


def _is_equation(text: str) -> bool:
    return " = " in text and not re.search(r'"|^(if|with|at|norm|gated) ', text)


def _text(text: str) -> str:
    return f"<mtext>{escape(text)}</mtext>"


def _aligned(equation: str) -> str:
    left, equals, right = equation.partition(" = ")
    if not equals:
        return f"<mtd></mtd><mtd></mtd><mtd>{_row(equation)}</mtd>"
    return f"<mtd>{_row(left)}</mtd><mtd><mo>=</mo></mtd><mtd>{_row(right)}</mtd>"


def _row(text: str) -> str:
    """An expression as MathML."""
    parts, at, text = [], 0, unicodedata.normalize("NFD", text)
    while at < len(text):
        token = TOKEN.match(text, at)
        at, part = token.end(), _token(token)
        low, high = "", ""
        while script := SCRIPT.match(text, at):
            below, above, raised = script.groups()
            if below:  # two letters are two indices, as in A_ij
                low += "".join(map(_row, below)) if len(below) == 2 else _row(below.strip("{}"))
            high += _row(above.strip("{}()")) if above else _raised(raised) if raised else ""
            at = script.end()
        if low or high:
            kind = "msubsup" if low and high else "msub" if low else "msup"
            scripts = "".join(f"<mrow>{one}</mrow>" for one in (low, high) if one)
            part = f"<{kind}>{part}{scripts}</{kind}>"
        parts.append(part)
    return "".join(parts)


def _token(token: re.Match) -> str:
    """A name, a number or a sign as MathML."""
    if token["letter"]:
        letter = f"<mi>{token['letter']}</mi>"
        return f"<mover>{letter}<mo>{MARKS.get(token['mark'])}</mo></mover>" if token["mark"] else letter
    if token["word"] or token["number"]:
        return f"<mi>{token['word']}</mi>" if token["word"] else f"<mn>{token['number']}</mn>"
    if token["other"] == " ":
        return '<mspace width="0.22em"/>'
    return f'<mo stretchy="false" lspace="0" rspace="0">{escape(token["other"].replace("-", "−"))}</mo>'


def _raised(text: str) -> str:
    signs = text.translate(RAISED)
    return "".join(f"<mo>{sign}</mo>" if sign in "′−" else f"<mi>{sign}</mi>" for sign in signs)


def main() -> None:
    """Write all pages and drawings to a folder."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in cells.available():
        (folder / f"{name}.md").write_text(page(name))
        (folder / f"{name}.svg").write_text(drawing(name))


def _shape(name: str) -> str:
    """The class of a drawing that is too wide to be fitted into the page; the reader scrolls it."""
    return "{ .wide }" if int(re.search(r'width="(\d+)"', drawing(name))[1]) > 950 else ""


@cache
def drawing(name: str) -> str:
    """Return the drawing of a cell."""
    return draw(cells.create(name, input_size=16, hidden_size=16))


if __name__ == "__main__":
    main()
