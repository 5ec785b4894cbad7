"""LaTeX tables of a comparison: their numbers, what is bold, and that they compile."""

import re
import shutil
import subprocess
from statistics import mean, stdev

import pytest
from made import compared, make
from scipy import stats

from rnnlab import __main__, analysis
from rnnlab.analysis import latex
from rnnlab.analysis.statistics import margin

COMMANDS = {"begin", "end", "centering", "caption", "label", "medskip", "toprule", "midrule", "bottomrule", "textbf"}
COMMANDS |= {"emph", "pm", "geq", "infty", "times", "textbackslash", "textasciitilde", "textasciicircum", "textbar"}
COMMANDS |= {"textless", "textgreater", "textquotedbl", "ldots", "sigma", "documentclass", "usepackage", "input"}
COMMANDS |= {"includegraphics", "linewidth", "clearpage"}
NASTY = '50% of_a #1 & {b} \\end{table} $x$ ~^ <|> "σ é 가" −…'


def read(text):
    """Read LaTeX strictly, and return the cells of each row of its tables; anything unknown or unbalanced fails."""
    assert text.isascii() or not re.search(r"[^\x00-\x7f\u00c0-\u017f]", text), "letters that need another font"
    opened, rows = [], []
    for line in text.splitlines():
        plain = re.sub(r"\\[\\&%$#_{}]", "", line)  # escaped signs
        for name in re.findall(r"\\([a-zA-Z]+)", plain):
            assert name in COMMANDS, name
        assert not re.search(r"\\(?![a-zA-Z])", plain), line
        assert not set(plain) & set("#%~"), line
        assert plain.count("$") % 2 == 0, line
        outside = re.sub(r"\$[^$]*\$", "", plain)
        assert not set(outside) & set("^<>|"), line
        assert "_" not in re.sub(r"(label|input|includegraphics)(\[[^]]*\])?\{[^}]*\}", "", outside), line
        depth = 0
        for sign in plain:
            depth += {"{": 1, "}": -1}.get(sign, 0)
            assert depth >= 0, line
        assert depth == 0, line
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
            if kind == "begin":
                opened.append(name)
            else:
                assert opened.pop() == name
        if line.endswith(r"\\"):
            assert opened[-1] == "tabular"
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))])
            assert len(rows[-1]) == 5
        else:
            assert not re.search(r"(?<!\\)&", line), line
    assert not opened
    return rows


def test_the_table_has_the_means_and_what_is_bold(folder):
    scores = {"gru": [1.0, 1.2, 1.1, 0.9, 1.3, 1.0], "lstm": [1.1, 1.1, 1.2, 1.0, 1.2, 1.1]}
    scores["rnn"] = [score + 1 for score in scores["gru"]]
    baselines = {"test": {"chance": {"loss": 3.5}}}
    for cell, values in scores.items():
        for seed, score in enumerate(values):
            make(folder, cell, seed, score=score, baselines=baselines)
    text = latex.tables(compared())
    head, gru, lstm, rnn, chance = read(text)
    assert head == ["Group", "Runs", "loss", "$p$", "Parameters"]
    assert gru == ["gru", "6", r"\textbf{1.08 $\pm$ 0.15}", "--", "100"]
    assert lstm[2].startswith(r"\textbf{1.12 $\pm$"), "not significantly worse"
    assert rnn[2:4] == [r"\textbf{2.08 $\pm$ 0.15}", "0.094"], "worse in each of 6 pairs, but corrected for 3 tests"
    assert chance == [r"\emph{chance}", "--", "3.50", "--", "--"]
    half = stats.t.ppf(0.975, 5) * stdev(scores["gru"]) / 6**0.5
    assert margin(scores["gru"]) == pytest.approx(half)
    assert gru[2] == rf"\textbf{{{mean(scores['gru']):.2f} $\pm$ {half:.2f}}}"
    assert "seeds 0 to 5" in text
    assert "Wilcoxon signed-rank test" in text
    assert "Holm's correction" in text


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_significant_difference_is_not_bold(folder, better):
    about = {"metrics": {"loss": {"unit": "of the steps right", "better": better}}}
    for seed in range(8):
        make(folder, "good", seed, score=0.9 if better == "higher" else 0.1, **about)
        make(folder, "bad", seed, score=0.5 + 0.01 * seed, **about)
    good, bad = read(latex.tables(compared()))[1:]
    assert good[2] == (r"\textbf{90.0}" if better == "higher" else r"\textbf{0.100}")
    assert bad[3] == "0.008"
    assert bad[2] == (r"53.5 $\pm$ 2.0" if better == "higher" else r"0.535 $\pm$ 0.020")


def test_without_a_test_only_the_best_is_bold_and_diverged_runs_are_infinite(folder):
    for seed in range(2):
        make(folder, "gru", seed, score=1e-6 * (1 + seed))
        make(folder, "lstm", seed, score=2e-6)
        make(folder, "rnn", seed, score=1.0, status="diverged" if seed else "finished")
    text = latex.tables(compared())
    head, gru, lstm, rnn = read(text)
    assert head[2] == r"loss ($\times 10^{-6}$)"
    assert gru[2].startswith(r"\textbf{1.5 $\pm$ ")
    assert (lstm[2], rnn[2]) == ("2.0", r"$\infty$")
    assert "No test: it needs 6 runs with the same seeds." in text


def test_special_signs_are_escaped():
    text = latex.escape(NASTY)
    read(text)
    assert text.startswith(r"50\% of\_a \#1 \& \{b\} \textbackslash{}end\{table\} \$x\$ \textasciitilde{}")
    assert "é [U+AC00]" in text


@pytest.mark.slow
def test_the_command_writes_a_document_that_compiles(folder, capsys):
    for cell in ("gru", NASTY):
        for seed in range(2):
            make(folder, cell, seed, score=1.0 + seed, baselines={"test": {NASTY: {"loss": 9.0}}})
            make(folder, cell, seed, task="of_an_other", score=2.0)
    assert __main__.main(["compare", "runs", "--format", "pdf", "--out", "out"]) == 0
    assert "out/comparison.tex" in capsys.readouterr().out
    read((folder / "out" / "tables.tex").read_text())
    document = (folder / "out" / "comparison.tex").read_text()
    read(document)
    shown = re.findall(r"\{(figures/[^}]+\.pdf)\}", document)
    assert len(shown) == len(list((folder / "out" / "figures").glob("*.pdf"))) > 10
    assert all((folder / "out" / name).read_bytes().startswith(b"%PDF") for name in shown)
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "comparison.tex"]
        done = subprocess.run(command, cwd=folder / "out", capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
        assert (folder / "out" / "comparison.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("undrawn")
def test_without_the_option_nothing_is_written_for_latex(folder):
    make(folder)
    out = analysis.write(compared(), "out")
    assert not [path for path in out.rglob("*") if path.suffix in (".tex", ".pdf")]


def test_another_format_is_refused(folder, capsys):
    make(folder)
    assert __main__.main(["compare", "runs", "format=docx"]) == 2
    assert "format='docx' is not one of html, pdf" in capsys.readouterr().err


def test_seeds_are_told_as_ranges():
    assert latex._ranges(["0", "1", "2", "7", "9", "10"]) == "0 to 2, 7, 9, 10"
    assert latex._ranges(["a", "1"]) == "a, 1"
