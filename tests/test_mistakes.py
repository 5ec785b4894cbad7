"""Honest mistakes at the command line: one clear sentence, exit code 2, no traceback, nothing written or lost."""

import dataclasses
import hashlib
import io
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import tiers
import torch

from rnnlab import __main__, cells, command, config
from rnnlab.interface import InputError
from rnnlab.training import device, train
from rnnlab.training.logger import console

TINY = ["task=hello", "model.hidden_size=4", "trainer.steps=4", "trainer.eval_every=4", "logger.progress=false"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, with a text in it."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 400)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run of the hello task."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(config.compose([*TINY, "logger.tensorboard=false", "run_dir=done"]))
    return folder


@pytest.fixture
def run(trained, here):
    """A finished run, which the test may change."""
    return shutil.copytree(trained / "done", here / "done")


def content(folder):
    """Every file below a folder with its digest, links and all."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mistake(capsys, *arguments):
    """The one sentence that a command line ends with."""
    before = content(Path.cwd())
    argv = sys.argv
    try:
        code = __main__.main(list(arguments))
    finally:
        sys.argv = argv
        console.handlers.clear()  # it writes to what pytest is about to close
        captured = capsys.readouterr()
    assert code == 2, captured.out + captured.err
    (line,) = captured.err.splitlines()
    assert line.startswith("rnnlab: ")
    assert content(Path.cwd()) == before, "something was written"
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    tiers.every(
        3,
        [
            (["model.hiden_size=3"], "unknown option 'model.hiden_size'; did you mean 'model.hidden_size'?"),
            (["+model.hiden_size=3"], "unknown option 'model.hiden_size'; did you mean 'model.hidden_size'?"),
            (["++model.hiden_size=3"], "unknown option 'model.hiden_size'; did you mean 'model.hidden_size'?"),
            (["modle=lstm"], "unknown option 'modle'; did you mean 'model'?"),
            (["+modle=lstm"], "unknown option 'modle'; did you mean 'model'?"),
            (["++modle.hidden_size=3"], "unknown option 'modle.hidden_size'; did you mean 'model.hidden_size'?"),
            (["sede=1"], "unknown option 'sede'; did you mean 'seed'?"),
            (["data.rot=x"], "unknown option 'data.rot'; did you mean 'data.root'?"),
            (["optimizer.momentun=0.9", "optimizer=sgd"], "did you mean 'optimizer.momentum'?"),
            (["cell=lstn"], "unknown cell 'lstn'; did you mean 'lstm'?"),
            (["task=table", "task.data=x.csv"], "unknown option 'task.data'; did you mean 'task.file'?"),
            (["task=char_lm", "task.path=x.txt"], "unknown option 'task.path'; did you mean 'task.corpus'?"),
            (["data=x"], "data='x' has no effect, as data is a group of options: data.root"),
            (["trainer=5"], "unknown trainer '5' (choices: default)"),
            (["logger=null"], "unknown logger 'null' (choices: default, mlflow, "),
            (["optimizer={a:1}"], "optimizer={...} has an unknown option; write optimizer.OPTION=VALUE"),
            (["optimizer.betas.x=3"], "an option cannot be set: invalid literal for int() with base 10: 'x'"),
            (
                ["model=transformer"],
                "unknown model 'transformer' (choices: block, encoder_decoder, gru, lstm, rnn, sequence_model, ",
            ),
            (["task=helo"], "unknown task 'helo'; did you mean 'hello'?"),
            (["experiment=none_such"], "unknown experiment 'none_such'"),
            (
                ["experiment=parity"],
                "did you mean 'acceptance/parity' or 'atlas/parity' or 'compare/parity' or 'state_tracking/parity'?",
            ),
            (["task=shakespeare"], "unknown task 'shakespeare'; did you mean experiment=shakespeare?"),
            (["model=mlstm"], "unknown model 'mlstm'; did you mean cell=mlstm?"),
            (["cell=stacked_rnn"], "unknown cell 'stacked_rnn'; did you mean model=stacked_rnn?"),
            (["cell=LSTM"], "unknown cell 'LSTM'; did you mean 'lstm'?"),
            (["optimizer=AdamW"], "unknown optimizer 'AdamW'; did you mean 'adamw'?"),
            (["lstm"], "'lstm' is not of the form key=value; did you mean cell=lstm or model=lstm?"),
            (["lr=0.1"], "unknown option 'lr'; did you mean 'optimizer.lr'?"),
            (["+lr=0.1"], "unknown option 'lr'; did you mean 'optimizer.lr'?"),
            (["steps=10"], "unknown option 'steps'; did you mean 'trainer.steps'?"),
            (["epochs=3"], "the length of a run is counted in training steps; did you mean 'trainer.steps'?"),
            (["trainer.epochs=3"], "the length of a run is counted in training steps; did you mean 'trainer.steps'?"),
            (["batch_size=3"], "unknown option 'batch_size'; did you mean 'task.batch_size'?"),
            (["model.batch_size=3"], "unknown option 'model.batch_size'; did you mean 'task.batch_size'?"),
            (["hidden_size=3"], "unknown option 'hidden_size'; did you mean 'model.hidden_size'?"),
            (["hiden_size=3"], "unknown option 'hiden_size'; did you mean 'model.hidden_size'?"),
            (["learning_rate=3"], "unknown option 'learning_rate'; did you mean 'optimizer.lr'?"),
            (["momentum=0.9"], "unknown option 'momentum'; this option exists for optimizer=rmsprop,sgd"),
            (["cell.forget_bias=1"], "this option exists for cell=lstm,lstm_ablation"),
            (["runs=foo"], "runs is not an option of a run; it is only allowed in an experiment file"),
            (["+acceptance=3"], "acceptance is not an option of a run"),
            (["acceptance.seeds=[1]"], "acceptance.seeds is not an option of a run"),
            (["~runs"], "'runs' does not exist"),
            (["experiment.lr=3"], "experiment.lr has no effect"),
            (["optimizer=adamw2"], "unknown optimizer 'adamw2'; did you mean 'adamw'?"),
            (["engine.backend=fast"], "unknown backend 'fast'; the choices are auto, reference, fused, scan, native"),
            (["engine.backend=native", "cell.reset=before"], "'native' cannot run GRU as configured"),
            (["cell.reset=maybe"], "reset='maybe' is not one of after, before"),
            (
                ["model.hidden_size=wide"],
                "model.hidden_size: Value 'wide' of type 'str' could not be converted to Integer",
            ),
            (["trainer.steps=1.5"], "trainer.steps: Value '1.5' of type 'float' could not be converted to Integer"),
            (["trainer.steps=15e-1"], "trainer.steps: Value '1.5' of type 'float' could not be converted to Integer"),
            (["trainer.steps=nan"], "trainer.steps: Value 'nan' of type 'float' could not be converted to Integer"),
            (["seed=99999999999999999999"], "seed=99999999999999999999 must be from -2**63"),
            (["-m", "cell=glob(zz*)"], "the sweep has no runs, because a glob matches nothing"),
            (["seed=1e30"], "must be from -2**63 to 2**64 - 1"),
            (["seed=[1]"], "seed"),
            (["task.split=half"], "task.split: 'half' is not a list; write it as [1,2]"),
            (["task=parity", "task.lengths=5"], "task.lengths: 5 is not a list; write it as [1,2]"),
            (["model.hidden_size=0"], "hidden_size=0 must be a whole number of at least 1"),
            (["model.num_layers=0"], "num_layers must be at least 1"),
            (["model.embedding_size=0"], "model.embedding_size=0 must be at least 1"),
            (["model.dropout=1"], "dropout=1.0 must be"),
            (["trainer.steps=0"], "trainer.steps=0 must be at least 1"),
            (["trainer.log_every=0"], "trainer.log_every=0"),
            (["trainer.clip_norm=-1"], "trainer.clip_norm=-1.0"),
            (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1.0"),
            (["task.seq_len=0"], "task.seq_len=0"),
            (["task.corpus=none.txt"], "task.corpus='none.txt' is neither a file"),
            (["trainer.precision=fp8"], "trainer.precision='fp8' is not one of fp32, tf32, bf16"),
            (["trainer.device=tpu"], "device='tpu' is not one of auto, cpu, cuda, cuda:N"),
            (["trainer.init_from=none.pt"], "there is no checkpoint none.pt"),
            (["cell=nowhere:Cell"], "needs the module 'nowhere', which is not on the Python path"),
            (["cell=math:Cell"], "module 'math' has no 'Cell'"),
            (["cell=collections:OrderedDict"], "must be a class derived from"),
            (["seed=1,2"], "add -m to sweep"),
            (["model.hidden_size=["], "cannot read the option 'model.hidden_size=['"),
            (["model.hidden_size"], "model.hidden_size"),
            (["~cell"], "cell=None is not a group of options"),
            (["run_dir=text.txt"], "run_dir='text.txt' is a file; give a directory"),
            (["run_dir=."], "is not empty and holds no run"),
            (["run_dir=/sys/rnnlab/run"], "cannot use /sys/rnnlab"),
            (["task.corpus=text.txt", "model.bidirectional=sum"], "a bidirectional model reads whole sequences"),
        ],
    ),
)
def test_a_mistake_in_training(here, capsys, arguments, says):
    assert says in mistake(capsys, "train", *arguments)


def test_an_experiment_file_whose_options_would_have_no_effect(here, capsys):
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/quick.yaml").write_text("# Quick.\ntrainer:\n  steps: 3\n")
    says = "experiment.trainer.steps has no effect; the first line of an experiment file must be '# @package _global_'"
    assert says in mistake(capsys, "train", "--config-dir", "mine", "experiment=quick")


@pytest.mark.parametrize(
    ("bytes_", "says"),
    [(b"", "is empty"), (b"abc", "too few"), (b"\xff\xfe", "not UTF-8"), (b"\0\1" * 9000, "not text")],
)
def test_a_corpus_that_is_none(here, capsys, bytes_, says):
    Path("corpus").write_bytes(bytes_)
    assert says in mistake(capsys, "train", "task.corpus=corpus")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate"], "run= is missing"),
        (["generate", "run=nowhere"], "nowhere is not the directory of a run"),
        (["generate", "run=."], "is not the directory of a run"),
        (["generate", "run=done", "promt=h"], "unknown option 'promt=h'; did you mean 'prompt'?"),
        (
            ["generate", "run=done", "prompt=hex"],
            "the character 'x' is not in the model's vocabulary of 4 characters: 'helo'",
        ),
        (["generate", "run=done", "length=many"], "length='many' is not of type int"),
        (["generate", "run=done", "interactive=perhaps"], "interactive='perhaps' is not of type bool"),
        (["evaluate", "run=done", "split=test"], "the task hello has no split 'test' (choices: train)"),
        (["evaluate", "done"], "the task hello has no split 'test' (choices: train)"),
        (["evaluate", "done", "split=test"], "the task hello has no split 'test' (choices: train)"),
        (["evaluate", "run=done", "done"], "unknown option 'done'"),
        (["evaluate", "done", "--split", "train"], "unknown option '--split'"),
        (["generate", "nowhere", "prompt=h"], "nowhere is not the directory of a run"),
        (["diagnose", "nowhere"], "nowhere is not the directory of a run"),
        (["evaluate", "run=done", "device=abacus"], "'abacus' is not one of"),
        (["trian"], "unknown command 'trian'; the commands are train, status, runs, plot, compare, "),
        (["cells", "all"], "unknown cell 'all'"),
    ],
)
def test_a_mistake_with_a_run(run, capsys, arguments, says):
    assert says in mistake(capsys, *arguments)


@pytest.mark.parametrize("value", ["3", "null", "[1,2]", "{a:1}"])
def test_a_value_for_a_group_of_options_is_a_mistake(value):
    for group in ("task", "logger", "experiment"):
        with pytest.raises(InputError, match=group):
            config.compose(["task=hello", f"{group}={value}"])
    for group in ("data", "budget"):
        with pytest.raises(InputError, match=rf"{group}.*(is a group of options|did you mean '{group}\.)"):
            config.compose(["task=hello", f"{group}={value}"])


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def _bomb():
    buffer = io.BytesIO()
    torch.save({"rnnlab": 1, "model": _Bomb()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["truncated", "foreign", "code", "pickle", "empty"])
@pytest.mark.parametrize("command", tiers.every(3, ["generate", "evaluate", "train"]))
def test_a_checkpoint_that_is_none(run, capsys, kind, command):
    whole = (run / "checkpoints" / "best.pt").read_bytes()
    broken = {
        "truncated": whole[: len(whole) // 2],
        "foreign": b"just some text",
        "code": _bomb(),
        "pickle": pickle.dumps(_Bomb()),
        "empty": b"",
    }[kind]
    for name in ("best.pt", "last.pt"):
        (run / "checkpoints" / name).write_bytes(broken)
    (run / "summary.json").unlink()
    options = [*TINY, "logger.tensorboard=false", "run_dir=done"] if command == "train" else ["run=done"]
    assert "cannot be loaded as a checkpoint" in mistake(capsys, command, *options)
    assert not Path("exploded").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(run, capsys):
    says = "device='cuda' is not available: torch finds no CUDA device; use cpu or auto"
    assert says in mistake(capsys, "train", "trainer.device=cuda")
    assert "torch finds no CUDA device" in mistake(capsys, "generate", "run=done", "device=cuda")


def test_bf16_where_the_device_lacks_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    with pytest.raises(InputError, match="bf16 is not supported by an old card; use fp32"):
        device.autocast(torch.device("cuda"), "bf16")


def _command(*arguments, **options):
    return processes.rnnlab(*arguments, **options)


def test_a_full_disk_ends_the_run_and_loses_nothing(here):
    # A limit on the size of a file stands for the disk: like a full disk it lets the write fail in the middle.
    options = [*TINY, "logger.tensorboard=false", "run_dir=run", "trainer.steps=320", "trainer.checkpoint_every=50"]
    arguments = ["train", *options, "trainer.log_every=1", "trainer.eval_every=1000"]
    done = _command(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, 45_000)))
    assert done.returncode == 2
    assert done.stderr.startswith("rnnlab: ")
    assert "Traceback" not in done.stderr
    again = _command(*arguments)  # there is room again
    assert "resuming at step" in again.stdout
    assert again.returncode == 0
    assert _command(*arguments, "run_dir=whole").returncode == 0
    ours, expected = (torch.load(f"{name}/checkpoints/last.pt", weights_only=True) for name in ("run", "whole"))
    assert all(torch.equal(ours["model"][key], tensor) for key, tensor in expected["model"].items())


def test_a_disk_that_is_full_within_a_checkpoint_is_named(here):
    # Of 300 kB torch's own writer notes the end only after the last byte, as an error that does not say so.
    arguments = ["train", "task.corpus=text.txt", "model.hidden_size=150", "trainer.steps=2", "trainer.eval_every=1"]
    options = ["task.batch_size=4", "task.seq_len=16", "logger.tensorboard=false", "run_dir=run"]
    limits = [(size, size) for size in (150_000, 300_000)]
    for limit in limits:
        done = _command(*arguments, *options, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))  # noqa: B023
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert re.fullmatch(r"rnnlab: cannot use run/checkpoints/(best|last)\.pt: File too large", line)


OWN_CELL = """
from torch.nn.functional import linear

from rnnlab.cells import Cell
from rnnlab.cells.base import input_weights, recurrent_weights


class Mine(Cell):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W, self.U = input_weights(1, hidden_size, input_size), recurrent_weights(1, hidden_size)

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W)

    def step(self, constants, x, state):
        (h,) = state
        BODY
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return h +", "mine.py, line 18: SyntaxError: invalid syntax; add --traceback to see the traceback"),
        ("return y, (h,)", "mine.py, line 18, in step: NameError: name 'y' is not defined; add --traceback"),
        ("return linear(h, x)[0, :, 9], (h,)", "mine.py, line 18, in step: "),
        ("raise KeyError", "mine.py, line 18, in step: KeyError; add --traceback"),
        ("return h + x", "the step of Mine must return (output, new state), the state a tuple of tensors"),
        (
            "return h + x, [h + x]",
            "the step of Mine returns a state of shapes [[2, 4]], not a tuple of shapes [[2, 4",
        ),
        (
            "return h + x, (h, x)",
            "the step of Mine returns a state of shapes [[2, 4], [2, 4]], not a tuple of shapes",
        ),
    ],
)
@pytest.mark.parametrize("backend", tiers.every(2, ["auto", "reference"]))
def test_a_mistake_in_a_cell_of_ones_own(here, body, says, backend):
    Path("mine.py").write_text(OWN_CELL.replace("BODY", body))
    done = _command("train", *TINY, "cell=mine:Mine", f"engine.backend={backend}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    expected = says if backend == "auto" else says.replace("[2, 4", "[1, 4")
    assert line.startswith(f"rnnlab: {expected}")


def test_the_traceback_of_a_mistake_in_a_cell_of_ones_own(here):
    Path("mine.py").write_text(OWN_CELL.replace("BODY", "raise KeyError"))
    told = _command("train", *TINY, "cell=mine:Mine", "--traceback").stderr
    assert "Traceback" in told
    assert "    raise KeyError" in told


def test_a_cell_that_is_not_finished_is_told_what_it_lacks(here):
    Path("mine.py").write_text(OWN_CELL.replace("step", "stop").replace("BODY", "return h, state"))
    assert "Mine has no step(constants, x, state)" in _command("train", *TINY, "cell=mine:Mine").stderr
    Path("mine.py").write_text(OWN_CELL.replace("prepare", "prepared").replace("BODY", "return h, state"))
    assert "Mine has no prepare(inputs)" in _command("train", *TINY, "cell=mine:Mine").stderr


def test_a_mistake_in_a_cell_of_ones_own_does_not_stop_a_sweep(here):
    Path("mine.py").write_text(OWN_CELL.replace("BODY", "return y, (h,)"))
    done = _command("train", "-m", *TINY, "cell=mine:Mine,rnn")
    assert done.returncode == 2
    assert "mine.py, line 18, in step: NameError" in done.stderr
    assert len(list(here.glob("runs/hello/*/summary.json"))) == 1


def test_a_mistake_of_rnnlab_itself_is_not_put_on_the_user(here, monkeypatch):
    found = command.find("cells")
    code = compile("def fails(arguments):\n    return {}['nothing']", found.__file__, "exec")
    exec(code, space := {})
    monkeypatch.setattr(found, "run", space["fails"])
    with pytest.raises(KeyError):
        __main__.main(["cells"])


def test_traceback_shows_all_to_who_wants_it(here):
    done = _command("train", *TINY, "model.hidden_size=0", "--traceback")
    assert "Traceback" in done.stderr
    assert "hidden_size=0 must be" in done.stderr
    assert "Traceback" not in _command("train", *TINY, "model.hidden_size=0").stderr


def test_a_mistake_in_a_sweep_does_not_stop_the_others(here):
    done = _command("train", "-m", *TINY, "model.hidden_size=0,5")
    assert done.returncode == 2
    assert "hidden_size=0 must be" in done.stderr
    assert len(list(here.glob("runs/hello/*/summary.json"))) == 1


def test_help_is_quick_and_lists_every_choice():
    for arguments in (["--help"], ["train", "--help"], []):
        done = _command(*arguments)
        assert done.returncode == 0
        for choice in ("char_lm", "stacked_rnn", "adamw", "cosine", "shakespeare", "Vanilla recurrent network"):
            assert choice in done.stdout
        # A preset within a folder too, and the longest name apart from what is said of it.
        assert re.search("^  compare/adding  +\\w", done.stdout, re.MULTILINE)
        assert re.search("^  acceptance/chomsky_modular_arithmetic  +\\w", done.stdout, re.MULTILINE)
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    loaded = subprocess.run(
        [sys.executable, "-m", "rnnlab", "--help"], env=environment, capture_output=True
    ).stderr.decode()
    assert "torch" not in loaded, "help waits for torch"
    assert "hydra" not in loaded, "help waits for hydra"


@pytest.mark.parametrize("name", [name for name in command.NAMES if name != "train"])
def test_each_command_lists_its_options(name, capsys):
    assert __main__.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"rnnlab {name}")
    assert all(len(line) <= 120 for line in printed.splitlines())
    kind = getattr(command.find(name), "Options", None)
    for field in dataclasses.fields(kind) if kind else ():
        given = f"--{field.name.replace('_', '-')}" if name == "compare" else f"{field.name}="
        given = given.replace("data_root", "data.root")
        assert given in printed
        assert field.metadata["help"][:20] in printed
        if field.default is not dataclasses.MISSING and name != "compare" and field.default != "":
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert f"{given}{shown.split(',')[0]}" in printed


def test_every_file_of_a_command_is_a_command():
    others = {"errors", "options", "overview"}
    assert {path.stem for path in Path(command.__file__).parent.glob("[a-z]*.py")} - others == set(command.NAMES)


def test_the_table_of_cells_is_readable():
    lines = _command("cells").stdout.splitlines()
    heads, *rows = [re.split(r"\s{2,}", line) for line in lines[: lines.index("")]]
    assert {row[heads.index("cell")] for row in rows} == set(cells.available())
    assert all(len(row) == len(heads) for row in rows)
    lstm = dict(zip(heads, next(row for row in rows if row[2] == "lstm"), strict=True))
    assert lstm["family"] == "classic"
    assert lstm["year"] == "1997"
    assert lstm["parameters"] == f"{4 * 128 * (128 + 128 + 1):,}"
    assert lstm["backends"] == "reference,fused,native"
