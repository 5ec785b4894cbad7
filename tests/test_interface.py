import math

import pytest
import torch

from rnnlab.interface import Batch, InputError, Metric
from rnnlab.trees import map_state, tensors_of


def test_batch_moves_whole_and_keeps_what_is_absent_absent():
    batch = Batch(torch.zeros(3, 2), torch.zeros(3, 2), lengths=torch.tensor([3, 1]))
    moved = batch.to(torch.device("meta"))
    assert {moved.inputs.device.type, moved.targets.device.type, moved.lengths.device.type} == {"meta"}
    assert moved.target_lengths is None
    assert moved.fresh is None
    assert batch.inputs.device.type == "cpu", "the batch itself stays where it was"


def test_batch_moves_every_field():
    tensors = {name: torch.zeros(2) for name in ("inputs", "targets", "lengths", "target_lengths", "fresh")}
    moved = Batch(**tensors).to(torch.device("meta"))
    assert all(getattr(moved, name).device.type == "meta" for name in tensors)


def test_num_tokens_counts_the_steps_that_count():
    inputs, targets = torch.zeros(5, 3, 2), torch.zeros(3)
    assert Batch(inputs, targets).batch_size == 3
    assert Batch(inputs, targets).num_tokens == 15
    tokens = Batch(inputs, targets, lengths=torch.tensor([5, 1, 2]), target_lengths=torch.tensor([1, 1, 1])).num_tokens
    assert tokens == 8
    assert isinstance(tokens, int)


def test_map_state_keeps_the_structure():
    state = (torch.tensor([1.0]), (torch.tensor([2]), torch.tensor([3.0])))
    h, (count, c) = map_state(lambda tensor: tensor * 10, state)
    assert (h.item(), count.item(), c.item()) == (10, 20, 30)
    assert count.dtype == torch.int64
    assert map_state(lambda tensor: tensor + 1, torch.tensor(1.0)) == torch.tensor(2.0)
    assert map_state(lambda tensor: tensor, ()) == ()


def test_map_state_pairs_what_corresponds():
    first = (torch.tensor(1.0), (torch.tensor(2.0),))
    second = (torch.tensor(10.0), (torch.tensor(20.0),))
    assert map_state(lambda a, b: b - a, first, second) == (torch.tensor(9.0), (torch.tensor(18.0),))
    with pytest.raises(ValueError, match="zip"):
        map_state(lambda a, b: a, first, second[:1])


def test_tensors_of_goes_depth_first():
    state = (torch.tensor(1), ((torch.tensor(2),), torch.tensor(3)), (), torch.tensor(4))
    assert [int(tensor) for tensor in tensors_of(state)] == [1, 2, 3, 4]
    assert [int(tensor) for tensor in tensors_of(torch.tensor(5))] == [5]


def test_a_metric_knows_its_better_direction():
    loss, accuracy = Metric("nats"), Metric("share", better="higher")
    assert loss.improves(1.0, 2.0)
    assert not loss.improves(2.0, 1.0)
    assert accuracy.improves(2.0, 1.0)
    assert not accuracy.improves(1.0, 2.0)
    for metric in (loss, accuracy):
        assert not metric.improves(1.0, 1.0), "equal is not better"
        assert not metric.improves(math.nan, 1.0), "a run that broke is not better"
    assert loss.improves(1.0, math.inf)


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
