"""Options that contradict each other, or make no cell, are refused in one sentence."""

import pytest

from rnnlab import cells
from rnnlab.interface import InputError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm_ablation", {"coupled": True, "input_gate": False}, "couples input and forget gate"),
        (
            "lstm_ablation",
            {"full_gate_recurrence": True, "input_gate": False, "forget_gate": False, "output_gate": False},
            "no gate is left",
        ),
        ("lstm_ablation", {"forget_bias": 1.0, "coupled": True}, "no bias of a forget gate"),
        ("lstm_ablation", {"forget_bias": 1.0, "bias": False}, "no bias of a forget gate"),
        ("lstm_1997", {"squashing": "relu"}, "squashing='relu' is not one of tanh, paper"),
        ("lstmp", {"projection_size": 0}, "projection_size=0; it must be at least 1"),
        ("clockwork", {"clocks": 0}, "clocks=0; there must be at least 1"),
        ("scrn", {"alpha": 1.0}, "alpha=1.0 keeps nothing or everything"),
        ("scrn", {"context_size": 0}, "context_size=0; it must be at least 1"),
    ],
    ids=str,
)
def test_what_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        cells.create(name, input_size=3, hidden_size=4, **options)


def test_a_forget_gate_begins_open_where_asked():
    cell = cells.create("lstm_ablation", input_size=3, hidden_size=4, forget_bias=1.0)
    assert cell.b.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
