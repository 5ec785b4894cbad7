"""The contract suite over every cell and task found, and over some from outside the package."""

import inspect
import math

import pytest
import tiers
import torch
from outside.narrow import NarrowCell
from outside.reversal import EncoderDecoder, Reversal
from outside.shapes import Highway, LayerNormLSTM, MinGRU, Peephole, Projected, Regularised
from outside.spelling import SpelledDigits

from rnnlab import cells, config, contracts, lookup, models, tasks
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.training import train
from rnnlab.training.build import task_source
from rnnlab.trees import tensors_of

OPTIONS = {  # further settings under which a cell is another mathematics
    "rnn": [{"activation": "relu"}, {"bias": False}],
    "gru": [{"reset": "before"}, {"bias": False}, {"reset": "before", "bias": False}],
    "lstm": [{"bias": False}],
    "indrnn": [{"activation": "tanh"}, {"norm": "layer"}, {"norm": "layer", "bias": False}, {"bias": False}],
    "ligru": [{"norm": "none"}, {"bias": False}],
    "ran": [{"activation": "identity"}, {"bias": False}],
    "fastrnn": [{"activation": "relu"}, {"activation": "sigmoid"}, {"bias": False}],
    "fastgrnn": [{"w_rank": 2, "u_rank": 2}, {"bias": False}],
    "lightru": [{"bias": False}],
    "atr": [{"bias": False}],
    "cfn": [{"bias": False}],
    "star": [{"bias": False}],
    "minimalrnn": [{"bias": False}],
    "brc": [{"bias": False}],
    "nbrc": [{"bias": False}],
    "antisymmetric": [{"bias": False}],
    "gated_antisymmetric": [{"bias": False}],
    "peephole": [{"bias": False}],
    "multiplicative_lstm": [{"bias": False}],
    "multiplicative_rnn": [{"factors": 3}, {"bias": False}],
    "mi_rnn": [{"bias": False}],
    "mi_lstm": [{"bias": False}],
    "mi_gru": [{"bias": False}],
    "mogrifier": [{"rounds": 0}, {"rounds": 2, "rank": 2}, {"rank": 2, "bias": False}, {"bias": False}],
    "highway": [{"depth": 1}, {"depth": 5}],
    "wmc_lstm": [{"bias": False}],
    "lstm_1997": [{"squashing": "paper"}, {"bias": False}],
    "lstm_ablation": [
        {"input_gate": False},
        {"forget_gate": False},
        {"output_gate": False},
        {"input_activation": False},
        {"output_activation": False},
        {"peepholes": False},
        {"coupled": True},
        {"full_gate_recurrence": True},
        {"bias": False},
    ],
    "cifg": [{"bias": False}],
    "lstmp": [{"projection_size": 3}, {"bias": False}],
    "mut1": [{"bias": False}],
    "mut2": [{"bias": False}],
    "mut3": [{"bias": False}],
    "intersection": [{"bias": False}],
    "nas": [{"bias": False}],
    "residual_lstm": [{"bias": False}],
    "sgu": [{"bias": False}],
    "dsgu": [{"bias": False}],
    "taugru": [{"delay": 1}, {"bias": False}],
    "scrn": [{"context_size": 3}, {"bias": False}],
    "clockwork": [{"clocks": 2}, {"bias": False}],
    "mgu": [{"bias": False}],
    "janet": [{"beta": 0.0}, {"bias": False}],
    "ugrnn": [{"bias": False}],
    "minlstm": [{"bias": False}],
    "lru": [{"r_min": 0.5, "r_max": 0.9}],
    "rglru": [{"bias": False}, {"c": 2.0}],
    "qrnn": [
        {"pooling": "f"},
        {"pooling": "ifo"},
        {"window": 2},
        {"pooling": "f", "window": 2},
        {"pooling": "ifo", "window": 2},
        {"bias": False},
    ],
    "sru": [{"highway_bias": -2.0}, {"bias": False}],
    "sru_v1": [{"activation": "relu"}, {"activation": "identity"}, {"bias": False}],
    "hgrn": [{"lower_bound": 0.6}, {"bias": False}],
    "trnn": [{"bias": False}],
    "tgru": [{"bias": False}],
    "tlstm": [{"bias": False}],
    "mlstm": [{"heads": 2}, {"forget_gate": "exp"}, {"bias": False}],
    "s4d": [{"state_size": 2, "init": "inv"}],
    "linear_attention": [{"heads": 2, "decay": True}, {"norm": "rms"}, {"norm": "none", "feature_map": "identity"}],
    "retnet": [{"heads": 2}, {"key_size": 6, "norm": False}],
    "gla": [{"heads": 2, "key_size": 3}, {"norm": False}],
    "hgrn2": [{"heads": 2, "key_size": 3}, {"lower_bound": 0.6, "norm": False}],
    "mamba2": [{"heads": 2, "key_size": 3}, {"norm": False}],
    "deltanet": [{"heads": 2, "key_size": 3}, {"negative_eigenvalues": True, "norm": False}],
    "gated_deltanet": [{"heads": 2, "key_size": 3}, {"negative_eigenvalues": True, "norm": False}],
    "deltaproduct": [{"heads": 2, "key_size": 3}, {"products": 3, "gated": True}, {"negative_eigenvalues": False}],
    "rwkv7": [{"heads": 2, "key_size": 3}, {"norm": False, "rank": 2}],
    "ttt_linear": [{"learning_rate": 0.3}],
    "lmu": [{"order": 1, "theta": 3.0}],
    "slstm": [{"forget_gate": "exp"}, {"bias": False}],
    "esn": [{"leak": 0.3, "sparsity": 0.0}, {"spectral_radius": 0.0}],
    "cornn": [{"damping": "implicit"}, {"bias": False}],
    "unicornn": [{"bias": False}],
    "lem": [{"bias": False}],
    "lipschitz": [{"bias": False}],
    "ltc": [{"activation": "tanh"}, {"bias": False}],
    "cfc": [
        {"mode": "no_gate"},
        {"mode": "pure"},
        {"backbone_layers": 0},
        {"backbone_layers": 2, "activation": "silu"},
    ],
    "orthogonal": [{"map": "cayley", "rho": 2}, {"activation": "tanh"}, {"activation": "relu"}, {"activation": "abs"}],
}
CASES = [(name, options) for name in cells.available() for options in [{}, *OPTIONS.get(name, [])]]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("name", "options"), tiers.quick_if(CASES, lambda case: not case[1] and case[0] in tiers.CORE), ids=str
)
def test_every_cell_keeps_the_contract(name, options):
    contracts.check_cell(name, **options)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("cell", tiers.every(3, [Projected, Peephole, LayerNormLSTM, Regularised, Highway, MinGRU]))
def test_the_contract_carries_every_shape_of_cell(cell):
    contracts.check_cell(cell)


def test_a_regulariser_draws_its_masks_while_training_and_only_then():
    layer = Recurrent(Regularised(3, 8))
    inputs = torch.randn(5, 2, 3)
    assert not torch.equal(layer(inputs)[0], layer(inputs)[0])
    layer.eval()
    assert torch.equal(layer(inputs)[0], layer(inputs)[0])


def test_a_stack_takes_cells_of_every_width():
    stack = Stack([Recurrent(Projected(3, 8, projection_size=5)), Recurrent(MinGRU(5, 4)), Recurrent(NarrowCell(4, 6))])
    outputs, state = stack(torch.randn(7, 2, 3), lengths=torch.tensor([7, 2]))
    assert outputs.shape == (7, 2, 3)
    assert [tensor.shape for tensor in tensors_of(state)] == [(2, 5), (2, 8), (2, 4), (2, 6), (2, 6)]


def test_a_cell_from_outside_keeps_the_contract():
    contracts.check_cell(NarrowCell)
    contracts.check_cell("outside.narrow:NarrowCell", decay=0.5)


LONG = {"babi", "conversation", "image_caption", "translation", "video_caption"}  # their own tests have small cases
LONG |= {"pixels", "noisy_recall", "fuzzy_recall", "a_n_b_n_c_n"}  # like others here, and with tests of their own
LONG |= {"binary_multiplication", "compute_sqrt", "modular_arithmetic", "solve_equation", "odds_first", "even_pairs"}
LONG |= {"spoken_digits", "digit_strings", "polyphonic_music", "pixel_generation", "strokes", "motion"}


@pytest.mark.parametrize("name", tiers.quick_if(lookup.available(tasks), lambda name: name not in LONG))
def test_every_task_keeps_the_contract(name):
    # Four of the test's lengths, the shortest and the longest among them: evaluating at all 460 takes long.
    option = lookup.options(tasks.find(name)).get("test_lengths")
    few = {"test_lengths": [41, 500, 153]} if option and tuple(option.default) == (41, 500) else {}
    known = lookup.options(tasks.find(name))
    few |= {key: value for key, value in {"eval_size": 20, "pool": 50, "longest_output": 5}.items() if key in known}
    has_source = task_source(tasks.find(name)()) is not None
    contracts.check_task(name, model=models.find("encoder_decoder" if has_source else "sequence_model"), **few)


@pytest.mark.parametrize("name", tiers.quick_if(lookup.available(tasks), lambda name: name not in LONG))
def test_every_task_says_what_needs_no_learning(name):
    task = tasks.find(name)()
    for split in task.splits[:2]:
        for values in task.baselines(split).values():
            assert values
            assert values.keys() <= task.metrics.keys()
        assert task.baselines(split)


def test_tasks_from_outside_keep_the_contract():
    contracts.check_task("outside.spelling:SpelledDigits", digits=3)
    contracts.check_task(Reversal, model=EncoderDecoder)


def _broken(**methods):
    """The vanilla cell with some of its methods replaced."""
    return type("Broken", (cells.find("rnn"),), {"__doc__": "A broken cell.", "native": lambda self: None, **methods})


def _new(constants, x, h):
    U, b = constants
    return (x + h @ U.t() + b).tanh()


def _forgets_state(self, constants, x, state):
    return x, state


def _mixes_rows(self, constants, x, state):
    h = _new(constants, x, state[0])
    return h + h.mean(0), (h,)


def _draws(self, constants, x, state):
    h = _new(constants, x, state[0]) * torch.rand_like(x)
    return h, (h,)


def _writes(self, constants, x, state):
    x += 1
    h = _new(constants, x, state[0])
    return h, (h,)


def _sees_the_future(self, inputs):
    return (self.U, self.b), (inputs + inputs.sum(0)) @ self.W.t()


def _detaches(self, constants, x, state):
    h = _new(constants, x, state[0].detach())
    return h, (h,)


def _doubles_a_gradient_while_training(self, inputs):
    U = 2 * self.U - self.U.detach() if self.training else self.U
    return (U, self.b), inputs @ self.W.t()


def _grows(self, constants, x, state):
    h = _new(constants, x, state[0][:, : x.shape[1]])
    return h, (h.repeat(1, 2),)


def _differs_natively(self):
    native = cells.find("rnn").native(self)
    return native._replace(weights=(native.weights[0] * 1.001, *native.weights[1:]))


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ({"step": _forgets_state}, "never used"),
        ({"step": _mixes_rows}, "alone|changed another"),
        ({"step": _draws}, "drew a random number"),
        ({"step": _writes}, "changed its arguments"),
        ({"prepare": _sees_the_future}, "two parts|later input"),
        ({"step": _detaches}, "[Jj]acobian"),
        ({"prepare": _doubles_a_gradient_while_training}, "[Jj]acobian"),
        ({"step": _grows}, "returns a state of shapes"),
        ({"native": _differs_natively}, "native differs from the reference"),
    ],
)
def test_a_broken_cell_is_found_out(methods, says):
    with pytest.raises((AssertionError, RuntimeError, InputError), match=says):
        contracts.check_cell(_broken(**methods))


class _DependsOnSeed(SpelledDigits):
    def generator(self, split, step):
        return torch.Generator().manual_seed(self.seed + step)


class _HasIteratorState(SpelledDigits):
    def batch(self, split, step):
        self.calls = getattr(self, "calls", 0) + 1
        return super().batch(split, self.calls)


class _ForgetsMetric(SpelledDigits):
    metrics = {"loss": SpelledDigits.metrics["loss"]}


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (_DependsOnSeed, "depends on the run's seed"),
        (_HasIteratorState, "not a function of seed and step"),
        (_ForgetsMetric, "task.metrics"),
    ],
)
def test_a_broken_task_is_found_out(task, says):
    with pytest.raises(AssertionError, match=says):
        contracts.check_task(task)


def _train(tmp_path, *overrides):
    quiet = ["logger.tensorboard=false", "logger.progress=false"]
    return train(config.compose([*overrides, *quiet, f"run_dir={tmp_path}/run"]))


@pytest.mark.slow
def test_a_ctc_task_is_learned(tmp_path):
    summary = _train(
        tmp_path,
        "task=outside.spelling:SpelledDigits",
        "model=gru",
        "model.hidden_size=64",
        "optimizer.lr=1e-2",
        "trainer.steps=500",
        "trainer.eval_every=250",
    )
    assert summary["test"]["loss"] < 0.05
    assert summary["test"]["digit_errors"] < 0.01


@pytest.mark.slow
def test_an_encoder_decoder_with_attention_learns_to_reverse(tmp_path):
    summary = _train(
        tmp_path,
        "task=outside.reversal:Reversal",
        "model=outside.reversal:EncoderDecoder",
        "cell=lstm",
        "optimizer.lr=1e-2",
        "trainer.steps=600",
        "trainer.eval_every=300",
    )
    assert summary["test"]["loss"] < 0.05
    assert summary["test"]["accuracy"] > 0.99


def test_a_model_keeps_its_contract():
    contracts.check_model(SequenceModel, task="hello")
    contracts.check_model(SequenceModel, task="vowels", num_layers=2, norm="layer")
    contracts.check_model(EncoderDecoder, task=Reversal, num_layers=2)


class _LooksAhead(SequenceModel):
    """Its outputs depend on what comes after them, too."""

    def forward(self, batch, state=None):
        outputs, state = super().forward(batch, state)
        return outputs + outputs[-1:], state


class _LooksAside(SequenceModel):
    """A sequence's outputs depend on the others of its batch."""

    def forward(self, batch, state=None):
        outputs, state = super().forward(batch, state)
        return outputs - outputs.mean(1, keepdim=True), state


class _ReadsPadding(EncoderDecoder):
    """It attends to what stands behind the end of a source."""

    def begin(self, source=None, source_lengths=None, batch_size=1):
        return super().begin(source, None, batch_size)


class _LeavesSomething(SequenceModel):
    """A parameter that nothing reads."""

    def __init__(self, *given, hidden_size=8, num_layers=1):
        super().__init__(*given, hidden_size=hidden_size, num_layers=num_layers)
        self.unused = torch.nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("model", "task", "says"),
    [
        (_LooksAhead, "hello", "step by step"),
        (_LooksAside, "vowels", "other sequences"),
        (_ReadsPadding, Reversal, "depend on the padding of"),
        (_LeavesSomething, "hello", "unused"),
    ],
)
def test_a_broken_model_is_found_out(model, task, says):
    with pytest.raises(AssertionError, match=says):
        contracts.check_model(model, task=task)


def test_what_the_contract_documents_is_what_the_suite_runs():
    for check in contracts.CELL_CHECKS:
        assert inspect.getdoc(check), f"{check.__name__} says nothing of what it checks"


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([(9e-6, 0.0)], None),
        ([(1.1e-5, 0.0)], 0),
        ([(1.9e-3, 1e-3)], None),
        ([(3e-3, 1e-3)] * 25, 0),
        ([(math.nan, 1e-3)], 0),
        ([(math.nan, math.nan)], None),
        ([(math.nan, math.nan), (1e-4, 1e-6)], 0),
        ([(math.inf, 1.0), (0.0, 1.0)], 0),
        ([(1.0, 0.1), (0.1, 1.0)], None),
        ([(1.0, 1e-3), (0.0, 1.0)], 0),
    ],
)
def test_how_far_off_is_too_far_in_single_precision(pairs, found):
    """Up to 1e-5, or twice what the plain loop is off in the mean; one exact draw does not hide the others."""
    far = contracts.cell._too_far([[pair] for pair in pairs])
    assert (far and far[0]) == found
