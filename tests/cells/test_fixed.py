"""What a cell or an encoder holds beside its parameters: right in every dtype, and after the meta device."""

import pytest
import torch

from rnnlab import cells
from rnnlab.layers import Recurrent
from rnnlab.models._stacked import OneHot

T, B, F, H = 5, 2, 3, 8


@pytest.fixture
def nan_in_new_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills memory that nobody wrote with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cells.available())
def test_a_cell_made_on_the_meta_device_has_all_its_numbers_once_its_weights_are_loaded(name, nan_in_new_memory):
    torch.manual_seed(0)
    cell = cells.create(name, input_size=F, hidden_size=H)
    with torch.device("meta"):
        empty = cells.create(name, input_size=F, hidden_size=H)
    empty.to_empty(device="cpu")
    empty.load_state_dict(cell.state_dict())
    inputs = torch.randn(T, B, F)
    assert torch.equal(Recurrent(empty, "reference")(inputs)[0], Recurrent(cell, "reference")(inputs)[0])


def test_one_hot_vectors_after_the_meta_device(nan_in_new_memory):
    with torch.device("meta"):
        encoder = OneHot(4)
    encoder.to_empty(device="cpu")
    assert torch.equal(encoder(torch.tensor([2, 0])), torch.tensor([[0.0, 0, 1, 0], [1.0, 0, 0, 0]]))
    assert encoder.half()(torch.tensor([3])).dtype == torch.float16


@pytest.mark.parametrize("name", [name for name in cells.available() if name != "esn"])  # whose buffers are random
def test_a_float32_cell_that_is_converted_has_the_buffers_of_a_float64_one(name):
    converted = cells.create(name, input_size=F, hidden_size=H).double()
    torch.set_default_dtype(torch.float64)
    try:
        cell = cells.create(name, input_size=F, hidden_size=H)
    finally:
        torch.set_default_dtype(torch.float32)
    for (label, ours), (_, theirs) in zip(converted.named_buffers(), cell.named_buffers(), strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs), label


def test_buffers_stay_where_they_are_as_long_as_nothing_is_converted():
    cell = cells.create("lmu", input_size=F, hidden_size=H)
    before = cell.A.data_ptr()
    assert cell.float().A.data_ptr() == before
    assert list(cell.state_dict()) == ["e_x", "e_h", "e_m", "W", "U", "V", "A", "B"]
    assert not any("period" in key for key in cells.create("clockwork", input_size=F, hidden_size=H).state_dict())
