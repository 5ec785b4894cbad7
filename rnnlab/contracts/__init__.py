"""Public checks of the contracts of cells, tasks and models, inside this package and outside it.

    from rnnlab.contracts import check_cell, check_model, check_task, fuzz
    check_cell(MyCell)
    check_task(MyTask, seq_len=20)
    check_model(MyModel, task=MyTask)
    print(fuzz(200))

A broken contract raises an AssertionError whose message says what is wrong.
"""

from rnnlab.contracts.cell import CELL_CHECKS, check_cell
from rnnlab.contracts.fuzz import fuzz
from rnnlab.contracts.model import check_model
from rnnlab.contracts.task import check_task

__all__ = ["CELL_CHECKS", "check_cell", "check_model", "check_task", "fuzz"]
