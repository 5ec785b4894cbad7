"""Tables of a comparison for LaTeX, with the package booktabs, and a document that shows them with the figures."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from math import floor, inf, isfinite, log10
from statistics import median

from rnnlab.analysis.comparison import Comparison, Group, Section
from rnnlab.analysis.statistics import FEWEST_FOR_TEST, margin
from rnnlab.analysis.units import is_share
from rnnlab.analysis.verdict import and_

MOST_DECIMALS = 5
"""Numbers that would need more decimals are written with a common power of ten, which is in the heading."""

_SPECIAL = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": "'",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "−": "$-$",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\n": " ",
    "\t": " ",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
}


def escape(text: str) -> str:
    """Return LaTeX that prints a text as it is.

    Letters without an accent or a Latin base, such as Korean, need fonts that not every installation has: they are
    written as their number in Unicode, for example [U+AC00].
    """
    return "".join(_escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if " " <= sign <= "~" or ("LATIN" in unicodedata.name(sign, "") and ord(sign) < 0x180):
        return sign
    return f"[U+{ord(sign):04X}]"


def document(captions: dict[str, str]) -> str:
    """Return a document with ``tables.tex`` and a figure for each file name in ``figures/``, with its caption."""
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage[utf8]{inputenc}"]
    lines += [r"\usepackage{booktabs}", r"\usepackage{graphicx}", r"\begin{document}", r"\input{tables}"]
    for name, caption in captions.items():
        shown = [rf"\includegraphics[width=\linewidth]{{figures/{name}.pdf}}", rf"\caption{{{escape(caption)}}}"]
        lines += [r"\begin{figure}[p]", r"\centering", *shown, r"\end{figure}", r"\clearpage"]
    return "\n".join([*lines, r"\end{document}", ""])


def tables(comparison: Comparison) -> str:
    """Return one table for each section that has runs; the document needs the package booktabs."""
    shown = [section for section in comparison.sections if any(group.runs for group in section.groups)]
    return "\n".join(_table(section, number) for number, section in enumerate(shown, 1))


def _table(section: Section, number: int) -> str:
    groups = [group for group in section.groups if group.runs]
    margins = {id(group): margin(group.scores) for group in groups}
    values = [*(group.mean for group in groups), *section.baselines().values()]
    scale = 100.0 if is_share(section.metric) else 10.0 ** -_exponent(values)
    decimals = _decimals([value * scale for value in values], [m * scale for m in margins.values() if m])
    best = min(groups, key=lambda group: _badness(group, section), default=None)
    rows = []
    for group in groups:
        p = None if group is best else _p(section, best, group)
        score = _score(group.mean * scale, (margins[id(group)] or 0.0) * scale, decimals)
        is_bold = group is best or (p is not None and p >= 0.05)
        cells = [escape(group.label), str(len(group.runs)), rf"\textbf{{{score}}}" if is_bold else score]
        rows.append(
            [*cells, "--" if p is None else _p_text(p), f"{group.typical('parameters'):,.0f}".replace("nan", "--")]
        )
    baselines = [
        [rf"\emph{{{escape(who)}}}", "--", _score(value * scale, 0.0, decimals), "--", "--"]
        for who, value in section.baselines().items()
    ]
    unit = r"\%" if is_share(section.metric) else "" if scale == 1 else rf"$\times 10^{{{-round(log10(scale))}}}$"
    head = ["Group", "Runs", escape(section.name) + (f" ({unit})" if unit else ""), "$p$", "Parameters"]
    body = [_row(head), r"\midrule", *map(_row, rows), *([r"\midrule"] if baselines else []), *map(_row, baselines)]
    lines = [r"\begin{table}[tb]", r"\centering", rf"\caption{{{_caption(section, groups, bool(baselines))}}}"]
    lines += [
        rf"\label{{tab:comparison-{number}}}",
        r"\medskip",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        *body,
        r"\bottomrule",
    ]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _badness(group: Group, section: Section) -> float:
    return group.mean if section.metric.better == "lower" else -group.mean


def _p(section: Section, a: Group, b: Group) -> float | None:
    """Return the corrected p-value of two groups; None if they were not tested."""
    return next((p for one, other, _, p in section.pairs if {id(one), id(other)} == {id(a), id(b)}), None)


def _p_text(p: float) -> str:
    return "$<$0.001" if p < 0.001 else f"{p:.3f}"


def _exponent(values: Sequence[float]) -> int:
    """Return the power of ten to write in the heading; 0 if the numbers are readable without."""
    largest = max((abs(value) for value in values if isfinite(value)), default=0.0)
    power = floor(log10(largest)) if largest else 0
    return power if not -3 <= power <= 5 else 0


def _decimals(values: Sequence[float], margins: Sequence[float]) -> int:
    """Return the decimals that give the median margin two significant digits; without margins, the median value."""
    sizes = [abs(size) for size in margins or values if size and isfinite(size)]
    return min(MOST_DECIMALS, max(0, 1 - floor(log10(median(sizes))))) if sizes else 0


def _score(mean: float, half: float, decimals: int) -> str:
    if not isfinite(mean):
        return r"$\infty$" if mean == inf else r"$-\infty$" if mean == -inf else "--"
    text = f"{mean:,.{decimals}f}".replace("-", "$-$")
    return rf"{text} $\pm$ {half:,.{decimals}f}" if half else text


def _caption(section: Section, groups: Sequence[Group], has_baselines: bool) -> str:
    """Return the caption: the metric, the seeds, the test and its correction."""
    counts = sorted({len(group.runs) for group in groups})
    seeds = sorted({str(run.seed) for group in groups for run in group.runs}, key=lambda seed: (len(seed), seed))
    runs = f"{counts[0]} runs" if counts[:1] == counts else f"{counts[0]} to {counts[-1]} runs" if counts else "no run"
    where = and_(section.splits) if section.splits else "valid"
    sentences = [
        f"{section.task}: {section.name} on {where} ({section.metric.unit}; {section.metric.better} is better).",
        f"Mean of {runs} (seeds {_ranges(seeds)}) ± half the width of the 95% Student t interval.",
    ]
    if any(p is not None for *_, p in section.pairs):
        sentences.append(
            "Bold: the best mean, and every group that does not differ significantly from it (p ≥ 0.05, exact "
            "two-sided Wilcoxon signed-rank test on runs with the same seed, Holm's correction for all pairs)."
        )
    else:
        sentences.append(f"Bold: the best mean. No test: it needs {FEWEST_FOR_TEST} runs with the same seeds.")
    if has_baselines:
        sentences.append("Below the line: trivial baselines.")
    return escape(" ".join(sentences))


def _ranges(seeds: Sequence[str]) -> str:
    """Return seeds as text, with consecutive numbers as a range: ``0 to 4, 7``."""
    if not all(re.fullmatch(r"\d+", seed) for seed in seeds):
        return ", ".join(seeds)
    spans: list[list[int]] = []
    for seed in sorted(map(int, seeds)):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in spans)
