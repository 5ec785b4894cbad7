"""Read many runs, group them, compare them statistically, and report them on one page."""

from rnnlab.analysis.comparison import Comparison
from rnnlab.analysis.groups import compare
from rnnlab.analysis.report import markdown, write
from rnnlab.analysis.runs import Run, read

__all__ = ["Comparison", "Run", "compare", "markdown", "read", "write"]
