"""The score of Delétang et al. (arXiv:2207.02098), counted symbol by symbol, beside what an evaluation reports."""

import pytest
import torch

from rnnlab import tasks
from rnnlab.interface import Tokens
from rnnlab.outputs import IGNORE
from rnnlab.training.device import autocast
from rnnlab.training.evaluation import evaluate

ANSWERS = {  # how many symbols the answer to a word of n symbols has, an end and what is filled up after it among them
    "even_pairs": lambda n: 1,
    "parity": lambda n: 1,
    "cycle_navigation": lambda n: 1,
    "modular_arithmetic": lambda n: 1,
    "reverse_string": lambda n: n,
    "stack_manipulation": lambda n: n + 1,
    "modular_arithmetic_brackets": lambda n: 1,
    "solve_equation": lambda n: 1,
    "duplicate_string": lambda n: 2 * n,
    "missing_duplicate": lambda n: 1,
    "odds_first": lambda n: n,
    "binary_addition": lambda n: n + 1,
    "binary_multiplication": lambda n: n,
    "compute_sqrt": lambda n: -(-n // 2),
    "bucket_sort": lambda n: n,
}
ENDED = {"stack_manipulation": 2, "binary_addition": 2, "binary_multiplication": 2}


class Guesser(torch.nn.Module):
    """Random outputs, the same for every batch of one shape, right more often early in a sequence."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def begin(self, source=None, source_lengths=None, batch_size=1):
        return ()

    def forward(self, batch, state=None):
        steps, size = batch.inputs.shape
        outputs = torch.rand(steps, size, self.task.output_size, generator=torch.Generator().manual_seed(steps))
        hints = torch.nn.functional.one_hot(batch.targets.clamp_min(0), self.task.output_size)
        return outputs + hints / (1 + torch.arange(steps)[:, None, None] / 5), ()


def published_score(task, model):
    """Of every length: the scored symbols that are right over all scored symbols of a batch, the mean over batches."""
    by_length = {}
    for step in range(task.num_batches("test")):
        batch = task.batch("test", step)
        guesses, targets = model(batch)[0].argmax(-1).t().tolist(), batch.targets.t().tolist()
        right = count = 0
        for guess, answer in zip(guesses, targets, strict=True):
            for said, wanted in zip(guess, answer, strict=True):
                if wanted == IGNORE:
                    continue
                right, count = right + (said == wanted), count + 1
                if wanted == task.end:
                    break
        by_length.setdefault(int(task.lengths("test", step)[0]), []).append(right / count)
    return {length: sum(shares) / len(shares) for length, shares in by_length.items()}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_accuracy_is_the_published_score(name):
    task = tasks.find(name)(test_lengths=[11, 83, 24], batch_size=16, eval_batches=2)
    model = Guesser(task)
    report = evaluate(model, task, "test", torch.device("cpu"), autocast(torch.device("cpu"), "fp32"))
    expected = published_score(task, model)
    assert list(report.by_length) == list(expected) == [11, 35, 59, 83]
    for length, share in expected.items():
        assert 0.1 < share < 0.99 or ANSWERS[name](length) == 1  # neither all nor nothing, so that it can be wrong
        assert report.by_length[length] == pytest.approx(share)
    assert report.values["accuracy"] == pytest.approx(sum(expected.values()) / len(expected))


@pytest.mark.parametrize("name", ANSWERS)
def test_words_answers_and_lengths_are_as_published(name):
    task = tasks.find(name)()
    assert (task.ranges["valid"][-1], task.ranges["test"]) == (40, range(41, 501))
    assert task.ranges["valid"][0] == task.shortest <= 3
    assert task.input == Tokens(task.symbols + 1)  # one-hot by the model's encoder; the last says "answer now"
    assert task.end == ENDED.get(name)
    for length in (3, 8, 41):
        batch = task.draw(torch.Generator().manual_seed(length), length)
        read = length - (name == "modular_arithmetic" and length % 2 == 0)
        assert len(batch.inputs) == read + ANSWERS[name](length)
        assert (batch.inputs[read:] == task.symbols).all()
        assert (batch.inputs[:read] < task.symbols).all()
        assert (batch.targets[:read] == IGNORE).all()
        assert (batch.targets[read:] >= 0).all()  # all of an answer is trained, what follows its end too
