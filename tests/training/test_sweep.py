"""Sweeps: planned, run side by side, killed, begun again, looked at while they run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import processes
import pytest
import tiers

from rnnlab import __main__, config
from rnnlab import conf as conf_module
from rnnlab.interface import InputError
from rnnlab.training import run as run_module
from rnnlab.training import sweep, train
from rnnlab.training.directory import Busy, RunDirectory
from rnnlab.training.pace import duration

SMALL = ["task=adding", "task.lengths=[9,9]", "task.test_lengths=[9,9]", "task.batch_size=4", "task.eval_batches=1"]
SMALL += ["model.hidden_size=4", "trainer.eval_every=20", "logger.tensorboard=false", "logger.progress=false"]
TINY = [*SMALL, "trainer.steps=20"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory; paths in the tests are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "rnnlab", "train", "-m", *arguments]


def rnnlab(*arguments, **options):
    return processes.rnnlab("train", "-m", *arguments, **options)


def states(folder="runs"):
    found, problems = sweep.survey(folder)
    assert not problems
    return sorted(one.state for one in found)


@pytest.mark.slow
def test_a_plan_is_every_combination():
    found = config.plan([*TINY, "cell=rnn,gru", "seed=range(3)", "hydra.sweep.dir=here", "-m"])
    assert found.folder == Path("here")
    assert len({job.run_dir for job in found.jobs}) == len(found.jobs) == 6
    for job in found.jobs:
        assert job.error is None
        assert config.compose([*TINY, *job.overrides.split()], "here")["run_dir"] == job.run_dir


def test_a_plan_of_an_experiment_file():
    """The sweep may stand in the file, its folder too."""
    folder, jobs, _ = config.plan(["-m", "experiment=compare/adding", "seed=7,8"])
    assert folder == Path("runs/compare")
    assert [job.overrides for job in jobs if "gru" in job.overrides] == [
        f"model=gru optimizer.lr={rate} seed={seed} experiment=compare/adding"
        for rate in (0.002, 0.008)
        for seed in (7, 8)
    ]
    assert all(job.run_dir.startswith("runs/compare/adding/") for job in jobs)


def test_a_plan_knows_what_will_be_refused():
    _, jobs, _ = config.plan([*TINY, "cell=rnn,grru", "-m"])
    assert [job.run_dir is None for job in jobs] == [False, True]
    assert "did you mean 'gru'" in jobs[1].error
    assert config.plan(["-m", "hydra/sweeper=basic", "seed=0"]).jobs


@pytest.mark.parametrize(
    ("swept", "values"),
    tiers.every(
        3,
        [
            ("cell=glob(mut*)", {"mut1", "mut2", "mut3"}),
            ("cell=glob(ls*,exclude=lstm_*)", {"lstm", "lstmp"}),
            ("cell=choice(rnn,gru)", {"rnn", "gru"}),
            ("cell=sort(rnn,gru,reverse=true)", {"rnn", "gru"}),
            ("seed=shuffle(range(3))", {"0", "1", "2"}),
            ("seed=range(1,8,3)", {"1", "4", "7"}),
            ("optimizer.lr=1e-3,1e-2", {"0.001", "0.01"}),
            ("model.zoneout=[0.1],[0.2]", {"[0.1]", "[0.2]"}),
            ("model.dropout=interval(0,1)", None),
        ],
    ),
)
def test_every_form_of_a_sweep(swept, values):
    if values is None:
        with pytest.raises(InputError, match="does not support sweep type"):
            config.plan(["-m", *TINY, swept])
        return
    found = config.plan(["-m", *TINY, swept])
    key = swept.partition("=")[0]
    given = [override.lstrip("+") for one in found.overrides for override in one]
    assert {override.partition("=")[2] for override in given if override.startswith(f"{key}=")} >= values
    assert len(found.jobs) == len({job.run_dir for job in found.jobs}) == len(values)


def launched(monkeypatch, *arguments, code=0):
    """The configurations that a command line would train."""
    trained = []
    monkeypatch.setattr(run_module, "train", lambda resolved: trained.append(resolved) or {"status": "finished"})
    monkeypatch.setattr("rnnlab.command.train._say_what_next", lambda summary: None)
    monkeypatch.setattr(sweep, "is_dealt_with", lambda run_dir: True)
    assert __main__.main(["train", *arguments]) == code
    return trained


@pytest.fixture
def conf(folder):
    """A folder of choices for ``--config-dir``, and one below a name with a space."""
    for home in ("mine", "my conf"):
        (folder / home / "cell").mkdir(parents=True)
        (folder / home / "experiment").mkdir()
        cell = "name: wide\nclass: gru\nreset: before\nbias: true\nrecurrent_init: orthogonal\n"
        (folder / home / "cell" / "wide.yaml").write_text(f"# A GRU of mine.\n{cell}")
        quick = "# @package _global_\ndefaults:\n  - override /cell: wide\ntrainer:\n  steps: 3\n"
        (folder / home / "experiment" / "quick.yaml").write_text(quick)


@pytest.mark.parametrize(
    "flags",
    [
        ["--config-dir", "mine"],
        *(
            pytest.param(flags, marks=pytest.mark.slow)
            for flags in (["--config-dir=mine"], ["-cd", "mine"], ["-cd", "my conf"], ["-cd=mine"])
        ),
    ],
)
@pytest.mark.parametrize("choice", ["cell=wide", "experiment=quick"])
def test_choices_in_a_folder_of_ones_own(conf, monkeypatch, flags, choice):
    """For a run and for a sweep, before and after the overrides."""
    options = [option for option in TINY if not option.startswith("trainer.steps")]
    one = launched(monkeypatch, *flags, *options, choice)
    several = launched(monkeypatch, *options, choice, "-m", *flags, "seed=0,1")
    assert [resolved["cell"]["name"] for resolved in [*one, *several]] == ["wide"] * 3
    assert {resolved["seed"] for resolved in several} == {0, 1}
    plans = [json.loads(path.read_text()) for path in Path("runs").glob("sweep-*.json")]
    assert [job["run_dir"] for job in plans[0]["jobs"]] == [
        str(Path(r["run_dir"]).relative_to("runs")) for r in several
    ]


def test_what_runs_is_what_was_planned(monkeypatch):
    """In the same order, also where chance decides it."""
    trained = launched(monkeypatch, "-m", *TINY, "seed=shuffle(range(6))", "cell=rnn,grru", code=2)
    (path,) = Path("runs").glob("sweep-*.json")
    jobs = json.loads(path.read_text())["jobs"]
    assert [r["run_dir"] for r in trained] == [f"runs/{job['run_dir']}" for job in jobs if job["run_dir"]]
    assert len(trained) == 6
    assert sum(job["error"] is not None for job in jobs) == 6


def test_a_sweep_of_which_nothing_can_be_trained_writes_nothing(folder, monkeypatch, capsys):
    assert launched(monkeypatch, "-m", *TINY, "cell=grru,lstmm", code=2) == []
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition("did you mean ")[2] for line in told] == ["'gru'?", "'lstm'?"]
    assert not list(folder.iterdir())


def test_a_run_dir_that_hydra_completes(monkeypatch):
    """Interpolations of Hydra's own see the same in the plan and in the run."""
    options = [*TINY, "seed=3,4", "run_dir=runs/${hydra:runtime.choices.cell}-${seed}-${hydra:job.num}"]
    trained = launched(monkeypatch, "-m", *options)
    (path,) = Path("runs").glob("sweep-*.json")
    assert [job["run_dir"] for job in json.loads(path.read_text())["jobs"]] == ["gru-3-0", "gru-4-1"]
    assert [resolved["run_dir"] for resolved in trained] == ["runs/gru-3-0", "runs/gru-4-1"]


def test_the_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    for arguments in (["-m", "seed=0,1"], ["seed=2"]):
        for resolved in launched(monkeypatch, *TINY, *arguments, "hydra.sweep.dir=~/swept"):
            assert resolved["run_dir"].startswith(f"{folder}/home/swept/adding/")
    assert len(list(folder.glob("home/swept/sweep-*.json"))) == 1
    (given,) = launched(monkeypatch, *TINY, "-m", "run_dir=~/a", "hydra.sweep.dir=~/one")
    assert given["run_dir"] == f"{folder}/home/a"
    (plan,) = folder.glob("home/one/sweep-*.json")
    assert json.loads(plan.read_text())["jobs"][0]["run_dir"] == f"{folder}/home/a"
    assert not (folder / "~").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "--cfg", "job"], "--cfg and --multirun cannot be given together"),
        (["--info", "config", "-m"], "--info and --multirun cannot be given together"),
        (["--package", "task", "-m"], "--package has no effect without --cfg"),
        (["--resolve"], "--resolve has no effect without --cfg"),
        (["--config-dir", "nowhere", "-m"], "--config-dir nowhere is not a directory"),
        (["--config-path=nowhere"], "--config-path nowhere is not a directory"),
        (["--config-dir"], "expected one argument"),
        (["-m", "--config-name", "nothing"], "unknown config 'nothing'"),
        (["--lr", "3"], "unrecognized arguments: --lr"),
        (["--experimental-rerun", "x"], "--experimental-rerun is not supported"),
        (
            ["hydra.job.chdir=true"],
            "hydra.job.chdir=True has no effect; relative paths are relative to the working directory",
        ),
        (["-m", "hydra.job.chdir=true", "seed=0,1"], "hydra.job.chdir=True has no effect"),
        (["hydra.run.dir=x"], "hydra.run.dir=x has no effect; use run_dir=DIR to set"),
        (["-m", "hydra.sweep.subdir=${hydra.job.num}"], "hydra.sweep.subdir=${hydra.job.num} has no effect"),
        (["hydra/launcher=joblib"], "hydra/launcher=joblib has no effect on a single run; add -m"),
        (["hydra.launcher.n_jobs=2"], "unknown option 'hydra.launcher.n_jobs'"),
    ],
)
def test_flags_that_cannot_be_honoured(folder, capsys, arguments, message):
    assert __main__.main(["train", *TINY, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not list(folder.iterdir())


def test_flags_that_show_something(conf, capsys):
    for arguments, shown in (
        (["--cfg", "job", "--package", "cell", "-cd", "mine", "cell=wide"], "class: gru"),
        (["--cfg=job", "--resolve", "--package", "trainer", "trainer.log_every=${trainer.steps}"], "log_every: 20"),
        (["--config-path", "whole"], None),
    ):
        if shown is None:  # a folder that holds everything
            shutil.copytree(conf_module.__path__[0], "whole")
            arguments, shown = [*arguments, "--cfg", "job", "--package", "seed"], "0"
        assert __main__.main(["train", *TINY, *arguments]) == 0
        assert shown in capsys.readouterr().out


def test_plans_come_back_and_are_joined(folder):
    jobs = [sweep.Job("seed=0", "runs/a"), sweep.Job("seed=x", None, "no number")]
    path = sweep.write_plan(Path("runs"), ["seed=0,x"], jobs)
    assert sweep.write_plan(Path("runs"), ["seed=0,x"], jobs) == path, "the same command has the same plan"
    sweep.write_plan(Path("runs"), ["seed=0"], jobs[:1])
    found, problems = sweep.read_plans(Path("runs"))
    assert not problems
    assert {(Path(job.run_dir or "none"), job.error) for job in found} == {
        (Path("runs/a"), None),
        (Path("none"), "no number"),
    }
    (folder / "runs" / "sweep-0.json").write_text("{")
    assert "is not the plan of a sweep" in sweep.survey("runs")[1][0]


def test_what_was_refused_is_shown_as_it_was_typed(folder, capsys):
    """Hydra puts a backslash before colons."""
    Path("mine.py").write_text("")
    told = rnnlab(*TINY, "cell=rnn,mine:Mine")
    assert told.returncode == 2
    assert "\\" not in told.stderr
    assert __main__.main(["status", "runs"]) == 0
    assert "cell=mine:Mine" in capsys.readouterr().out


def test_nothing_that_can_be_read_is_exit_code_2(folder, capsys):
    Path("runs").mkdir()
    Path("runs/sweep-0.json").write_text("{")
    assert __main__.main(["status", "runs"]) == 2
    assert "is not the plan of a sweep" in capsys.readouterr().err


def test_the_state_of_every_run():
    """Finished, diverged, stopped, waiting and refused, from what lies in the directories."""
    train(config.compose([*TINY, "seed=0"]))
    diverged = train(config.compose([*TINY, "seed=1", "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip_norm=0"]))
    assert diverged["status"] == "diverged"
    stopped = config.compose([*TINY, "seed=2"])["run_dir"]
    with RunDirectory(stopped).claim(config.compose([*TINY, "seed=2"])):
        Path(stopped, "metrics.jsonl").write_text('{"step": 5, "split": "train", "seconds": 10.0}\n{"step": 6, "spl')
        assert states() == ["diverged", "finished", "running"]
    waiting = config.compose([*TINY, "seed=3"])["run_dir"]
    sweep.write_plan(Path("runs"), ["x"], [sweep.Job("seed=3", waiting), sweep.Job("seed=y", None, "no number")])
    found, _ = sweep.survey("runs")
    assert sorted(one.state for one in found) == ["diverged", "finished", "refused", "stopped", "waiting"]
    left = {one.state: one.left for one in found}
    assert left["stopped"] == pytest.approx(10 / 5 * (20 - 5))
    assert left["waiting"] == next(one.seconds for one in found if one.state == "finished")
    told = sweep.table(found)
    time = duration(left["stopped"] + left["waiting"])
    assert f"1 finished, 1 diverged, 1 stopped, 1 waiting, 1 refused; about {time} left" in told
    assert "no number" in told


def test_links_are_followed_and_a_run_is_told_once(folder):
    away = folder / "away"
    train(config.compose([*TINY, f"run_dir={away}/one"]))
    Path("runs").mkdir()
    Path("runs/link").symlink_to(away)
    Path("runs/again").symlink_to(away / "one")
    Path("runs/back").symlink_to(folder / "runs")
    sweep.write_plan(Path("runs"), ["x"], [sweep.Job("seed=0", str(away / "one"))])
    (found,) = sweep.survey("runs")[0]
    assert (found.state, found.name) == ("finished", "again")
    Path("linked").symlink_to("runs")
    assert [one.state for one in sweep.survey("linked")[0]] == ["finished"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folder"),
        (["nowhere"], "not a directory"),
        (["."], "holds no runs"),
        (["a", "b"], "give the folder"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert __main__.main(["status", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_looking_at_a_run_never_keeps_it_from_being_trained():
    settings = config.compose([*TINY])
    directory = RunDirectory(settings["run_dir"])
    for _ in range(20):
        with directory.claim(settings):
            assert directory.is_claimed()
        assert not directory.is_claimed()
    with directory.claim(settings), pytest.raises(Busy), RunDirectory(settings["run_dir"]).claim(settings):
        pass


def test_a_sweep_leaves_runs_of_other_processes_to_them(capfd):
    """Two processes may work on one sweep; what one is at, the other passes by."""
    settings = config.compose([*TINY, "seed=0"])
    with RunDirectory(settings["run_dir"]).claim(settings):
        done = rnnlab(*TINY, "seed=0,1")
    assert done.returncode == 0
    assert "the sweep continues with the next run" in done.stdout
    assert states() == ["finished", "stopped"]


@pytest.mark.slow
def test_side_by_side(folder):
    """With joblib: every run is there, threads are divided, the exit code knows of refusals in other processes."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    arguments = [*TINY, "cell=rnn,gru", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = rnnlab(*arguments, "hydra.sweep.dir=mine", env=environment)
    assert done.returncode == 0, done.stderr
    assert states("mine") == ["finished"] * 4
    summaries = [json.loads(path.read_text()) for path in folder.rglob("summary.json")]
    assert {summary["machine"]["threads"] for summary in summaries} == {max(1, os.cpu_count() // 2)}
    assert "[gru-rnn-s0-" in done.stdout, "lines say which run they are of"
    again = rnnlab(*arguments, "hydra.sweep.dir=mine", env=environment)
    assert again.returncode == 0
    assert again.stdout.count("is not trained again") == 4
    refused = rnnlab(*TINY, "cell=rnn", "optimizer.lr=0.1,-1", "hydra/launcher=joblib", env=environment)
    assert refused.returncode == 2
    assert "learning rate" in refused.stderr


@pytest.mark.slow
def test_sent_off_as_to_a_cluster(folder):
    """With submitit each run is a job of its own, whose files lie within the sweep's folder."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    arguments = [*TINY, "seed=0,1", *launcher, "hydra.sweep.dir=mine"]
    done = rnnlab(*arguments)
    assert done.returncode == 0, done.stderr
    assert states("mine") == ["finished"] * 2
    assert {path.name for path in folder.iterdir()} == {"mine"}
    said = "".join(path.read_text() for path in (folder / "mine" / ".submitit").rglob("*_log.out"))
    assert "[gru-rnn-s0-" in said or "[gru-s0-" in said, "lines say which run they are of"
    assert rnnlab(*arguments).returncode == 0
    said = "".join(path.read_text() for path in (folder / "mine" / ".submitit").rglob("*_log.out"))
    assert said.count("is not trained again") == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runs of a killed sweep end by themselves")
def test_killed_in_the_middle_and_begun_again(folder):
    """SIGKILL to the sweep stops its runs too, and begins no other; the same command takes up what is left."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = [
        *SMALL,
        "trainer.steps=20,6000,40",
        "seed=0,1",
        "trainer.checkpoint_every=20",
        "trainer.eval_every=3000",
    ]
    arguments += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(folder.rglob("last.pt"))) == 4, process)
        workers = holders(folder / "runs")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(is_alive(worker) for worker in workers))
    assert states() == ["finished", "finished", "stopped", "stopped", "waiting", "waiting"]
    found, _ = sweep.survey("runs")
    for one in found:
        if one.state != "waiting":
            summary = RunDirectory(folder / "runs" / one.name).summary()
            assert one.step == summary["steps"], "how far it is saved, not the last measurement"
    done = rnnlab(*arguments)
    assert done.returncode == 0, done.stderr
    assert states() == ["finished"] * 6
    assert done.stdout.count("is not trained again") == 2
    assert done.stdout.count("resuming at step") == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists in /proc which process holds a file")
def test_a_run_that_is_killed_among_others(folder):
    """SIGKILL to one run's process, as when memory runs out: a sentence, an exit code, and the same command goes on."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = [*SMALL, "trainer.steps=3000", "seed=0,1", "trainer.checkpoint_every=20", "trainer.eval_every=3000"]
    arguments += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(folder.rglob("last.pt"))) == 2, process)
    os.kill(min(holders(folder / "runs")), signal.SIGKILL)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "rnnlab: the process of a run was killed" in told
    assert "Traceback" not in told.partition("rnnlab:")[2]
    wait_for(lambda: states() == ["stopped"] * 2)
    done = rnnlab(*arguments)
    assert done.returncode == 0, done.stderr
    assert states() == ["finished"] * 2
    assert done.stdout.count("resuming at step") == 2


def holders(folder):
    """The processes that are training below a folder: they hold its runs' locks."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            held = [os.readlink(file) for file in (process / "fd").iterdir()]
            if any(name.endswith(".lock") and name.startswith(str(folder)) for name in held):
                found.add(int(process.name))
    return found


def is_alive(process):
    """Not gone, and not a zombie either, which an init that does not collect them leaves behind."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def test_what_is_left_under_a_budget_of_seconds():
    """Training ends with the seconds, whatever the steps."""
    settings = config.compose([*TINY, "trainer.steps=1000000", "budget.seconds=30"])
    place = Path(settings["run_dir"])
    with RunDirectory(place).claim(settings):
        (place / "metrics.jsonl").write_text('{"step": 5, "split": "train", "seconds": 10.0}\n')
        (found,) = sweep.survey("runs")[0]
    assert found.left == 20


def wait_for(condition, process=None):
    until = time.monotonic() + 200
    while not (found := condition()):
        assert time.monotonic() < until, "it does not come about"
        assert process is None or process.poll() is None, "the sweep was over before it could be killed"
        time.sleep(0.02)
    return found


def test_a_launcher_that_is_not_installed():
    with pytest.raises(InputError, match=r"hydra/launcher=rayy is not installed; pip install 'rnnlab\[sweep\]'"):
        config.plan(["-m", "hydra/launcher=rayy"])
