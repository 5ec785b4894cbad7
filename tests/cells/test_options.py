"""Options that contradict each other, or make no cell, are refused in one sentence."""

import pytest
import torch

from rnnlab import cells
from rnnlab.interface import InputError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm_ablation", {"coupled": True, "input_gate": False}, "needs input_gate=true and forget_gate=true"),
        (
            "lstm_ablation",
            {"full_gate_recurrence": True, "input_gate": False, "forget_gate": False, "output_gate": False},
            "needs input_gate, forget_gate or output_gate",
        ),
        ("lstm_ablation", {"forget_bias": 1.0, "coupled": True}, "must be 0 without a forget gate with a bias"),
        ("lstm_ablation", {"forget_bias": 1.0, "bias": False}, "must be 0 without a forget gate with a bias"),
        ("lstm_1997", {"squashing": "relu"}, "squashing='relu' is not one of tanh, paper"),
        ("lstmp", {"projection_size": 0}, "projection_size=0 must be at least 1"),
        ("clockwork", {"clocks": 0}, "clocks=0 must be at least 1"),
        ("scrn", {"alpha": 1.0}, "alpha=1.0 must be at least 0 and below 1"),
        ("scrn", {"context_size": 0}, "context_size=0 must be at least 1"),
        ("taugru", {"delay": 0}, "delay=0 must be at least 1"),
    ],
    ids=str,
)
def test_what_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        cells.create(name, input_size=3, hidden_size=4, **options)


def test_the_units_of_slstm_begin_with_all_spans():
    i, f, z, o = cells.create("slstm", input_size=3, hidden_size=9).b.detach().chunk(4)
    assert (float(f[0]), float(f[-1])) == pytest.approx((5, -7))
    assert (f.diff() < 0).all()
    assert not torch.cat([i, z, o, cells.create("slstm", input_size=3, hidden_size=9, forget_gate="exp").b]).any()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lstm_ablation", {"forget_bias": 1.0}, [0, 1, 0, 0]),
        ("lstm", {"forget_bias": 1.0}, [0, 1, 0, 0]),
        ("ugrnn", {}, [1, 0]),
        ("intersection", {}, [0, 0, 1, 1]),
        ("cfn", {}, [1, -1]),
        ("highway", {"depth": 1}, [0, -2]),
        ("fastgrnn", {}, [1, 1]),
    ],
    ids=str,
)
def test_biases_begin_where_the_paper_has_them(name, options, expected):
    cell = cells.create(name, input_size=3, hidden_size=4, **options)
    assert cell.b.tolist() == [float(value) for value in expected for _ in range(4)]
