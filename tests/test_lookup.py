import types

import pytest

from rnnlab import cells, lookup
from rnnlab.cells.classic.gru import GRU
from rnnlab.interface import InputError

OUTSIDE = """
from rnnlab.cells import Cell
from rnnlab.cells.classic.rnn import RNN

class Mine(RNN):
    def __init__(self, input_size, hidden_size, *, sharpness=1.0):
        super().__init__(input_size, hidden_size)
        self.sharpness = sharpness

class NoCell:
    pass

def make_cell(input_size, hidden_size):
    return RNN(input_size, hidden_size)
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "lookup_outside.py").write_text(OUTSIDE)
    (tmp_path / "lookup_broken.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)


def functions():
    """A module of functions: two of its own, one taken from elsewhere, and something that is no function."""
    module = types.ModuleType("somewhere.schedulers")
    exec("def cosine(*, steps=3): pass\ndef constant(): pass\nlimit = 4", module.__dict__)
    module.pytest_raises = pytest.raises
    return module


def test_built_in_names_are_the_files():
    assert {"gru", "lstm", "rnn"} <= set(cells.available())
    assert cells.available() == sorted(cells.available())
    assert "base" not in cells.available()
    assert not any(name.startswith("_") for name in cells.available())


def test_names_of_a_module_are_its_own_functions():
    module = functions()
    assert lookup.available(module) == ["constant", "cosine"]
    assert lookup.find("cosine", module) is module.cosine
    with pytest.raises(InputError, match=r"unknown scheduler 'cosin'; did you mean 'cosine'\? \(choices: constant"):
        lookup.find("cosin", module)
    with pytest.raises(InputError, match="unknown scheduler 'limit'"):
        lookup.find("limit", module)


def test_every_built_in_cell_is_found():
    assert cells.find("gru") is GRU
    for name in cells.available():
        assert issubclass(cells.find(name), cells.Cell)


@pytest.mark.parametrize(("misspelt", "meant"), [("ltsm", "lstm"), ("lstmm", "lstm"), ("grru", "gru")])
def test_a_misspelt_name_suggests_the_nearest(misspelt, meant):
    with pytest.raises(InputError, match=f"unknown cell '{misspelt}'; did you mean '{meant}'"):
        cells.find(misspelt)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(InputError, match="unknown cell 'zzz'") as error:
        cells.find("zzz")
    assert "did you mean" not in str(error.value)


def test_choices_are_listed_only_where_they_are_few_or_none_is_near():
    many = [f"name{i}" for i in range(13)]
    assert lookup.nearest("name", ["name1", "other"]) == "; did you mean 'name1'? (choices: name1, other)"
    assert lookup.nearest("nam12", many) == "; did you mean 'name12'?"
    assert lookup.nearest("zzz", many) == f" (choices: {', '.join(many)})"
    assert lookup.nearest("zzz", []) == " (choices: none)"


@pytest.mark.usefixtures("outside")
def test_a_class_from_anywhere_on_the_path():
    cell = cells.create("lookup_outside:Mine", input_size=2, hidden_size=3, sharpness=2.0)
    assert type(cell).__name__ == "Mine"
    assert (cell.input_size, cell.hidden_size, cell.sharpness) == (2, 3, 2.0)


def test_a_missing_module_is_named():
    with pytest.raises(InputError, match=r"'no_such_module:Mine' needs the module 'no_such_module'.*Python path"):
        cells.find("no_such_module:Mine")


@pytest.mark.usefixtures("outside")
def test_a_module_that_another_module_needs_is_named():
    with pytest.raises(InputError, match="'lookup_broken:Mine' needs the module 'a_module_that_nobody_has'"):
        cells.find("lookup_broken:Mine")


@pytest.mark.usefixtures("outside")
def test_a_missing_class_is_named():
    with pytest.raises(InputError, match="module 'lookup_outside' has no 'Yours'"):
        cells.find("lookup_outside:Yours")


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("name", ["lookup_outside:NoCell", "lookup_outside:make_cell"])
def test_another_kind_is_refused(name):
    with pytest.raises(InputError, match=f"cell '{name}' must be a class derived from rnnlab.cells.base.Cell"):
        cells.find(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("math:pi", "must be a class or a function"),
        (":X", "not of the form package.module:Name"),
        (".a:X", "not of the form package.module:Name"),
        ("math:", "not of the form package.module:Name"),
    ],
)
def test_what_is_no_name_of_a_class_is_refused(name, says):
    with pytest.raises(InputError, match=says):
        cells.find(name)


def test_private_functions_are_no_choices():
    module = types.ModuleType("things")
    exec("def cosine(): ...\ndef _helper(): ...", module.__dict__)
    assert lookup.available(module) == ["cosine"]


def test_options_are_the_keyword_only_parameters():
    def function(supplied, other=1, *, steps, rate=0.5):
        pass

    assert list(lookup.options(function)) == ["steps", "rate"]
    assert lookup.options(function)["rate"].default == 0.5


@pytest.mark.usefixtures("outside")
def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(InputError, match="cell 'gru' has no option 'resett'; did you mean 'reset'"):
        cells.create("gru", input_size=2, hidden_size=3, resett="after")
    with pytest.raises(InputError, match=r"'lookup_outside:Mine' has no option 'bias' \(choices: sharpness\)"):
        cells.create("lookup_outside:Mine", input_size=2, hidden_size=3, bias=False)
    with pytest.raises(InputError, match="has no option 'x'"):
        lookup.check_options({"steps": 1, "x": 2}, functions().cosine, "scheduler 'cosine'")
    lookup.check_options({"steps": 1}, functions().cosine, "scheduler 'cosine'")
