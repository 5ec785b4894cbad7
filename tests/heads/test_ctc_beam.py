"""Prefix beam search of the CTC head against the enumeration of all paths."""

from collections import defaultdict
from itertools import groupby, product

import pytest
import torch

from rnnlab.heads import CTC
from rnnlab.interface import InputError


def likeliest(outputs, blank):
    """The labels with the largest sum of the probabilities of all their paths, with that sum."""
    rows = outputs.double().softmax(-1).tolist()
    totals = defaultdict(float)
    for path in product(range(blank + 1), repeat=len(rows)):
        probability = 1.0
        for row, symbol in zip(rows, path, strict=True):
            probability *= row[symbol]
        totals[tuple(symbol for symbol, _ in groupby(path) if symbol != blank)] += probability
    return max(totals, key=totals.get)


@pytest.mark.parametrize(("labels", "steps"), [(1, 1), (1, 7), (2, 5), (3, 4)])
def test_a_wide_beam_finds_the_most_probable_labels(labels, steps):
    head = CTC(labels)
    for seed in range(12):
        outputs = 2 * torch.randn(steps, 1, labels + 1, generator=torch.Generator().manual_seed(seed))
        (found,) = head.beam_search(outputs, beam_size=1000)
        assert tuple(found.tolist()) == likeliest(outputs[:, 0], labels)


def test_paths_of_the_same_labels_are_summed():
    """Two blanks are the best path, 0.36; the label has three paths, 0.64."""
    outputs = torch.tensor([0.4, 0.6]).log().expand(2, 1, 2)
    assert CTC(1).decode(outputs)[0].tolist() == []
    assert CTC(1).beam_search(outputs)[0].tolist() == [0]


def test_lengths_are_respected_and_sequences_are_independent():
    head = CTC(3)
    outputs = 2 * torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([6, 1, 4, 3])
    found = head.beam_search(outputs, lengths, beam_size=1000)
    for n, count in enumerate(lengths.tolist()):
        assert tuple(found[n].tolist()) == likeliest(outputs[:count, n], 3)


def test_long_sequences_do_not_underflow():
    """Where one path has almost all probability, its labels are the result."""
    path = torch.randint(0, 11, (400, 2), generator=torch.Generator().manual_seed(2))
    outputs = 12 * torch.nn.functional.one_hot(path, 11).float()
    for greedy, beam in zip(CTC(10).decode(outputs), CTC(10).beam_search(outputs, beam_size=4), strict=True):
        assert beam.tolist() == greedy.tolist()
        assert len(beam) > 280


def test_invalid_input_is_refused():
    with pytest.raises(InputError, match="beam_size=0 must be at least 1"):
        CTC(2).beam_search(torch.zeros(3, 1, 3), beam_size=0)
    with pytest.raises(InputError, match="not finite"):
        CTC(2).beam_search(torch.full((3, 1, 3), torch.nan))
