"""The adding problem against a solver that reads one sequence number by number."""

from collections import Counter

import pytest
import torch

from rnnlab.interface import InputError
from rnnlab.tasks.memory.adding import Adding


def draw(task, length, seed=0):
    """Numbers, marks and targets of every sequence, NaN as None."""
    batch = task.draw(torch.Generator().manual_seed(seed), length)
    assert batch.inputs.shape == (length, task.batch_size, 2)
    assert batch.targets.shape == (length, task.batch_size, 1)
    for inputs, targets in zip(batch.inputs.transpose(0, 1), batch.targets[..., 0].t(), strict=True):
        yield *inputs.t().tolist(), [None if target != target else target for target in targets.tolist()]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 10, 99, 100, 601])
def test_the_target_is_the_sum_of_the_two_numbers_that_are_marked(length):
    for numbers, marks, targets in draw(Adding(batch_size=32), length):
        marked = [step for step, mark in enumerate(marks) if mark == 1]
        assert len(marked) == 2
        assert marks.count(0) == length - 2
        assert marked[0] < length // 2 <= marked[1]
        assert all(0 <= number < 1 for number in numbers)
        assert targets[:-1] == [None] * (length - 1)
        assert targets[-1] == pytest.approx(sum(numbers[step] for step in marked), abs=1e-6)


def test_every_pair_of_places_is_as_probable_as_any_other():
    drawn = 20_000
    marked = Counter(
        tuple(step for step, mark in enumerate(marks) if mark) for _, marks, _ in draw(Adding(batch_size=drawn), 7)
    )
    assert set(marked) == {(one, other) for one in range(3) for other in range(3, 7)}
    assert all(abs(count - drawn / 12) < 5 * (drawn / 12) ** 0.5 for count in marked.values())


def test_the_docstring_s_example_adds_up():
    lines = [line.split() for line in Adding.__doc__.splitlines()]
    number, mark, target = (
        next(line[1:] for line in lines if line[:1] == [row]) for row in ("number", "mark", "target")
    )
    assert mark.count("1") == 2
    assert [mark[:3].count("1"), len(mark)] == [1, 6]
    assert target[:-1] == ["-"] * 5
    assert float(target[-1]) == pytest.approx(sum(float(n) for n, m in zip(number, mark, strict=True) if m == "1"))


def test_who_always_says_1_has_the_errors_stated():
    task = Adding(batch_size=50_000, eval_batches=1)
    batch = task.batch("test", 0)
    ones = torch.ones_like(batch.targets)
    (squared, count), (absolute, counts) = task.loss(ones, batch), task.measure(ones, batch)["mae"]
    stated = task.baselines("test")["always 1"]
    assert stated == {
        "loss": pytest.approx(float(squared / count), rel=0.02),
        "mae": pytest.approx(float(absolute.sum() / counts.sum()), rel=0.02),
    }


def test_a_single_step_cannot_be_marked_twice():
    with pytest.raises(InputError, match="the shortest length must be at least 2"):
        Adding(lengths=[1, 9])
