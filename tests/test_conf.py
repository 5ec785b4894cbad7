"""Every file of conf/ composes, fits the signature of what it configures, and builds."""

import inspect
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import rnnlab.conf
import tiers
import yaml
from omegaconf import OmegaConf

from rnnlab import cells, config, lookup, models, tasks
from rnnlab.command import cells as cells_command
from rnnlab.command import overview
from rnnlab.interface import InputError
from rnnlab.training import optimizers, schedulers
from rnnlab.training.build import build
from rnnlab.training.logger import Logger
from rnnlab.training.trainer import Trainer

CONF = Path(rnnlab.conf.__path__[0])
FILES = [
    (path.parts[0], "/".join(path.with_suffix("").parts[1:]))
    for path in sorted(file.relative_to(CONF) for file in CONF.glob("*/**/*.yaml"))
]
CELLS = [("cell", name) for name in cells.available()]
TASKS = [file for file in FILES if file[0] == "task"]  # the contract test builds each of them
OTHERS = [file for file in FILES if file[0] != "task"]
QUICK = [
    *tiers.quick_if(TASKS, lambda file: file[1] in ("char_lm", "parity", "copying", "sine_mixture", "vowels")),
    *tiers.quick_if(OTHERS, lambda file: file[0] != "experiment" or "/" not in file[1]),
    *tiers.every(12, CELLS),
]
HOMES = {"task": tasks, "cell": cells, "model": models, "optimizer": optimizers, "scheduler": schedulers}
BASES = {"task": tasks.Task, "cell": cells.Cell, "model": models.Model}


@cache
def _composed(group, choice):
    return config.compose([f"{group}={choice}"])


def _function(group, section):
    if group not in HOMES:
        return {"trainer": Trainer, "logger": Logger}[group]
    return lookup.find(section.get("class", section["name"]), HOMES[group], BASES.get(group))


@pytest.mark.parametrize(("group", "choice"), tiers.every(3, (file for file in FILES if file[0] != "experiment")))
def test_a_file_says_exactly_what_the_signature_says(group, choice):
    section = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text())
    section.pop("defaults", None)
    options = lookup.options(_function(group, section))
    if group == "logger" and choice != "default":  # such files can be combined: each sets one option
        assert section == {choice: True}
        assert _composed(group, choice)[group][choice] is True
        return
    given = {key: value for key, value in section.items() if key not in ("name", "class")}
    assert list(given) == list(options)
    if group in HOMES:
        assert section["name"] == choice
    if "class" not in section:  # a preset may differ from the defaults, that is what it is for
        typed = _composed(group, choice)[group]
        defaults = {name: option.default for name, option in options.items()}
        assert {key: typed[key] for key in given} == {
            key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()
        }


@pytest.mark.parametrize("group", sorted(HOMES.keys() - {"cell"}))
def test_every_built_in_has_a_file_and_every_file_is_found(group):
    files = {choice for folder, choice in FILES if folder == group}
    assert set(lookup.available(HOMES[group])) <= files | {"sequence_model"}


def test_a_built_in_without_a_file_has_the_options_of_its_signature(capsys):
    composed = config.compose(["cell=lstm", "cell.bias=false"])["cell"]
    assert composed == {"name": "lstm", "bias": False, "forget_bias": 0.0, "recurrent_init": "orthogonal"}
    with pytest.raises(InputError, match="unknown cell 'lsmt'; did you mean 'lstm'"):
        config.compose(["cell=lsmt"])
    assert cells_command.run(["lstm"]) == 0
    said = capsys.readouterr().out
    assert "f_t = σ(W_f x_t + U_f h_{t-1} + b_f)" in said
    assert said.endswith('Defaults: cell.bias=true cell.forget_bias=0.0 cell.recurrent_init="orthogonal"\n')


def test_a_file_of_the_user_may_change_the_defaults_of_a_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    for name in ("lstm", "patient"):
        (tmp_path / "conf" / "cell" / f"{name}.yaml").write_text(f"name: {name}\nclass: lstm\nforget_bias: 1.0\n")
        composed = config.compose([f"cell={name}"])["cell"]
        assert composed["forget_bias"] == 1.0
        assert composed["recurrent_init"] == "orthogonal"
    assert re.search(r"\n  patient *\n", overview.overview()), "the file has no comment to show"


def test_files_of_packages_are_read_once_and_those_of_the_user_every_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    config.compose([])
    read, load = [], OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: read.append(file.name) or load(file))
    file = tmp_path / "conf" / "cell" / "patient.yaml"
    for bias in (1.0, 2.0):
        file.write_text(f"name: patient\nclass: lstm\nforget_bias: {bias}\n")
        assert config.compose(["cell=patient"])["cell"]["forget_bias"] == bias
    assert read == [str(file)] * 2


def test_a_composition_leaves_no_trace_in_a_later_one():
    plain = config.compose(["cell=lstm"])
    config.compose(["cell=lstm", "cell.forget_bias=1", "model.zoneout=[0.5]", "~model.norm", "optimizer=sgd"])
    assert config.compose(["cell=lstm"]) == plain


def test_the_help_has_a_line_for_every_cell():
    lines = overview.overview().partition("\ncell=\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == cells.available()
    assert all(len(line.split(maxsplit=1)[1]) > 15 and len(line) <= 160 for line in lines)


@pytest.mark.parametrize(("group", "choice"), QUICK)
def test_every_choice_composes_and_builds(group, choice, tmp_path):
    needs_source = (group, choice) == ("model", "encoder_decoder")
    resolved = deepcopy(config.compose(["task=translation"]) if needs_source else _composed(group, choice))
    # What is tested is the file, not the data: the default of each task needs none.
    embedded = lookup.options(_function("task", resolved["task"]))
    chosen = {"corpus", "images", "file", "source", "languages"} & embedded.keys() & resolved["task"].keys()
    resolved["task"] |= {key: embedded[key].default for key in chosen}
    task, model = build(resolved)
    outputs, _ = model(task.batch("train", 0))
    assert outputs.shape[-1] == task.output_size


def test_every_file_begins_with_a_line_for_the_help():
    for group, choice in FILES:
        lines = (CONF / group / f"{choice}.yaml").read_text().splitlines()
        first = next(line for line in lines if not line.startswith("# @package"))
        assert first.startswith("# "), f"the help shows the first line of {group}/{choice}"
        assert len(first) <= 120


@pytest.mark.parametrize(
    ("overrides", "cell"),
    [
        ([], "gru"),
        (["model=lstm"], "lstm"),
        (["model=stacked_rnn"], "rnn"),
        (["model=lstm", "cell=rnn"], "rnn"),
        (["cell=rnn", "model=lstm"], "rnn"),
        (["experiment=hello"], "rnn"),
        (["experiment=hello", "cell=gru", "cell.bias=true"], "gru"),
        (["experiment=hello", "model=lstm"], "lstm"),
    ],
)
def test_an_explicit_cell_wins_over_the_preset(overrides, cell):
    assert config.compose(overrides)["cell"]["name"] == cell


def test_an_experiment_file_of_the_user_may_choose_the_cell(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /cell: lstm\n  - override /model: rnn\n"
    )
    overrides = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    assert config.compose(overrides)["cell"]["name"] == "lstm"
    assert config.compose([*overrides, "cell=gru"])["cell"]["name"] == "gru"


def test_a_class_from_outside_stands_where_a_name_can():
    resolved = config.compose(["cell=outside.narrow:NarrowCell", "cell.decay=0.5", "task=outside.reversal:Reversal"])
    assert resolved["cell"] == {"name": "outside.narrow:NarrowCell", "decay": 0.5}
    assert resolved["task"] == {"name": "outside.reversal:Reversal", "longest": 6, "batch_size": 64}


def test_the_presets_are_what_their_names_say():
    presets = {name: config.compose([f"model={name}"]) for name in ("rnn", "stacked_rnn", "lstm", "gru")}
    assert {p["model"]["class"] for p in presets.values()} == {"sequence_model"}
    assert presets["stacked_rnn"]["model"]["num_layers"] >= 2
    assert [presets[name]["model"]["num_layers"] for name in ("rnn", "lstm", "gru")] == [1, 1, 1]


def test_every_option_is_documented_where_it_is_defined():
    files = [(group, CONF / group / f"{choice}.yaml") for group, choice in FILES if group != "experiment"]
    functions = [(group, _function(group, yaml.safe_load(file.read_text()))) for group, file in files]
    for group, function in [*functions, *(("cell", cells.find(name)) for name in cells.available())]:
        if inspect.isclass(function):
            for option in lookup.options(function):
                documented = "".join(base.__doc__ or "" for base in function.__mro__)  # options may be inherited
                assert re.search(rf"\b{option}(, \w+)*:", documented), (
                    f"{group}.{option} is not in {function.__name__}'s Args"
                )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trainer.steps=1e3", 1000),
        ("trainer.steps=1.0", 1),
        ("seed=2e1", 20),
        ("task.lengths=[1e1,2e1]", [10, 20]),
        ("task.curriculum=[1e1,250]", [10, 250]),
        ("trainer.target=1e3", 1000.0),
        ("model.zoneout=[1e0]", [1.0]),
    ],
)
def test_a_whole_number_may_be_written_as_a_float(option, value):
    group, _, name = option.partition("=")[0].rpartition(".")
    resolved = config.compose(["task=parity", option])
    found = resolved[group][name] if group else resolved[name]
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, list):
        assert [type(item) for item in found] == [type(item) for item in value]
