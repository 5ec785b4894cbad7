"""`rnnlab bench`: the products of the floor, equal results of all implementations, tables and files.

No test asserts a time, because the tests run on shared machines.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields
from itertools import permutations
from pathlib import Path

import pytest
import tiers
import torch
from outside.shapes import Elementwise

from rnnlab import __main__, benchmark, cells, engine
from rnnlab.benchmark import Candidate, Settings, contenders, peers, report, timing
from rnnlab.benchmark.contenders import Missing
from rnnlab.benchmark.floor import Counted, floor, products
from rnnlab.benchmark.settings import KINDS, PEERS, Size
from rnnlab.command.bench import Options
from rnnlab.layers import Recurrent

SIZE = Size(3, 2, 4)
QUICK = ["sizes=3x2x4", "rounds=2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def candidate(name, **options):
    return Candidate(name, name, options)


def bench(*arguments):
    assert __main__.main(["bench", *arguments]) == 0


@pytest.mark.parametrize(
    ("name", "options", "whole", "steps"),
    [
        ("rnn", {}, [(6, 4, 4)], [(2, 4, 4)]),
        ("lstm", {}, [(6, 4, 16)], [(2, 4, 16)]),
        ("gru", {}, [(6, 4, 12)], [(2, 4, 12)]),
        ("gru", {"reset": "before", "bias": False}, [(6, 4, 12)], [(2, 4, 4), (2, 4, 8)]),
        ("outside.shapes:Highway", {}, [(6, 4, 8)], [(2, 4, 8), (2, 4, 8)]),
        ("outside.shapes:Projected", {"projection_size": 3}, [(6, 4, 16)], [(2, 3, 16), (2, 4, 3)]),
        ("outside.shapes:MinGRU", {}, [(6, 4, 8)], []),
    ],
)
def test_the_products_of_a_cell(name, options, whole, steps):
    found = products(candidate(name, **options).create(4), torch.zeros(SIZE))
    assert found.whole == whole
    assert sorted(found.steps) == steps


def test_the_products_of_a_single_sequence():
    assert products(candidate("rnn").create(4), torch.zeros(3, 1, 4)) == ([(3, 4, 4)], [(1, 4, 4)])


def test_the_floor_computes_every_product_and_its_two_gradients():
    work = contenders.work_of(candidate("gru", reset="before").create(4), SIZE, 1, torch.device("cpu"))
    alone = floor(work)
    with Counted() as noted:
        alone.inference()
    assert sorted(noted.found) == [(2, 4, 4)] * 3 + [(2, 4, 8)] * 3 + [(6, 4, 12)]
    with Counted() as noted:
        alone.training()
    back = [(2, 4, 4), (2, 8, 4)] * 3 + [(6, 12, 4), (12, 6, 4), (8, 6, 4), (4, 6, 4)]
    assert sorted(noted.found) == sorted([(2, 4, 4)] * 3 + [(2, 4, 8)] * 3 + [(6, 4, 12)] + back)


def test_a_cell_without_a_floor_gives_the_reason(monkeypatch):
    cell = Elementwise(lambda x, h, v: (x + h * v).sort(-1).values)
    with pytest.raises(Missing, match=r"the products of a step are unknown: .* its step uses sort"):
        products(cell, torch.zeros(SIZE))
    monkeypatch.setattr(Candidate, "create", lambda *given: Elementwise(lambda x, h, v: x + h * v))
    settings = Settings((candidate("elementwise"),), (SIZE,), rounds=1, peers=())
    row = benchmark.measure(settings.candidates[0], SIZE, settings)
    assert row["products"] is None
    assert list(row["seconds"]) == ["ours"]
    assert row["missing"] == {"floor": "Elementwise does no matrix product"}


def _gradient(contender, inputs):
    inputs.grad = None
    return torch.tensor(contender.training().tolist())


@pytest.mark.parametrize("peer", ["torch.nn", "naive", "jax"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rnn", {}),
        ("rnn", {"activation": "relu", "bias": False}),
        ("lstm", {"forget_bias": 1.0}),
        ("lstm", {"bias": False}),
        ("gru", {}),
        ("gru", {"bias": False}),
        ("gru", {"reset": "before"}),
        ("mingru", {}),
        ("mingru", {"bias": False}),
    ],
)
def test_peers_have_the_same_outputs_and_gradients(name, options, peer):
    if peer == "jax":
        pytest.importorskip("jax")
    cell = candidate(name, **options).create(4)
    for parameter in cell.parameters():  # zeros would hide a missing term
        torch.nn.init.normal_(parameter)
    work = contenders.work_of(cell, SIZE, 1, torch.device("cpu"))
    ours = contenders.of_layer("ours", Recurrent(cell, "reference"), work)
    if peer == "torch.nn" and cell.native() is None:
        with pytest.raises(Missing, match=f"no layer for {type(cell).__name__} as configured"):
            peers.CONTENDERS[peer](work)
        return
    theirs = peers.CONTENDERS[peer](work)
    torch.testing.assert_close(torch.tensor(theirs.inference().tolist()), ours.inference())
    torch.testing.assert_close(_gradient(theirs, work.inputs), _gradient(ours, work.inputs))


@pytest.mark.parametrize("peer", ["torch.nn", "naive"])
def test_peers_have_the_same_outputs_and_gradients_with_lengths(peer):
    cell = candidate("lstm", forget_bias=1.0).create(4)
    work = contenders.work_of(cell, SIZE._replace(batch_size=6), 1, torch.device("cpu"), lengths=True)
    assert set(work.lengths.tolist()) <= {1, 2, 3}
    ours, theirs = contenders.of_layer("ours", Recurrent(cell, "fused"), work), peers.CONTENDERS[peer](work)
    torch.testing.assert_close(theirs.inference(), ours.inference())
    assert (ours.inference()[2, work.lengths < 3] == 0).all()
    torch.testing.assert_close(_gradient(theirs, work.inputs), _gradient(ours, work.inputs))


@pytest.mark.parametrize("peer", ["torchrecurrent", "jax"])
def test_a_peer_without_lengths_is_missing(peer):
    pytest.importorskip(peer)
    work = contenders.work_of(candidate("lstm").create(4), SIZE, 1, torch.device("cpu"), lengths=True)
    with pytest.raises(Missing, match="takes no lengths"):
        peers.CONTENDERS[peer](work)


def test_products_of_weights_alone_are_not_part_of_the_floor():
    found = products(candidate("orthogonal").create(4), torch.zeros(5, 3, 4))  # prepare computes a matrix exponential
    assert found == ([(15, 4, 4)], [(3, 4, 4)])


def test_torchrecurrent_layers_are_found_by_the_name_of_the_cell():
    pytest.importorskip("torchrecurrent")
    for name in ("Peephole", "MGU"):
        kind = type(name, (cells.find("outside.shapes:Peephole"),), {})
        work = contenders.work_of(kind(4, 4), SIZE, 1, torch.device("cpu"))
        theirs = peers.CONTENDERS["torchrecurrent"](work)
        assert theirs.inference().shape == (3, 2, 4)
        assert _gradient(theirs, work.inputs).shape == (3, 2, 4)


def test_the_tables_and_the_files(here, capsys):
    before = torch.get_num_threads()
    bench("cells=lstm,outside.shapes:Peephole", "sizes=3x2x4,2x1x4", "rounds=2", "out=results/mine", "threads=2")
    assert torch.get_num_threads() == before
    said = capsys.readouterr().out
    medians, fastest = said.split("\nmedians ")[1].split("\nfastest rounds")
    for table in (medians, fastest):
        title, heading, *lines = table.splitlines()
        for name in ("over floor", *PEERS):
            assert name in title
        assert heading.split()[:6] == ["cell", "backend", "T", "B", "H", "floor"]
        lines = [line.split() for line in lines[:6]]
        assert [line[0] for line in lines] == ["lstm"] * 3 + ["outside.shapes:Peephole"] * 3
        assert [line[1:5] for line in lines[:2]] == [["fused", "3", "2", "4"], ["fused", "2", "1", "4"]]
        assert lines[2][1:3] == ["geometric", "mean"]
        assert len(lines[0]) == len(heading.split()) - 1 - lines[0].count("missing")  # "floor ms" is two words
    assert "torch.nn is missing for outside.shapes:Peephole: torch.nn has no layer" in said
    assert said.splitlines()[-1] == "Written: results/mine.json and results/mine.png"

    result = json.loads(Path("results/mine.json").read_text())
    assert result["machine"]["processor"]
    assert (result["machine"]["threads"], result["machine"]["torch"]) == (2, torch.__version__)
    assert result["settings"]["sizes"] == ["3x2x4", "2x1x4"]
    assert [(row["cell"], row["T"], row["B"], row["H"]) for row in result["results"][:2]] == [
        ("lstm", 3, 2, 4),
        ("lstm", 2, 1, 4),
    ]
    for row in result["results"]:
        assert set(row["seconds"]) | set(row["missing"]) == {"floor", "ours", *PEERS}
        for times in row["seconds"].values():
            assert [len(times[kind]) for kind in KINDS] == [2, 2]
            assert min(times["training"] + times["inference"]) > 0
    assert result["results"][0]["products"] == {"whole": [[6, 4, 16]], "steps": [[2, 4, 16]]}
    assert Path("results/mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_ratio_and_its_mean():
    seconds = {"ours": {"training": [2.0, 4.0, 9.0]}, "naive": {"training": [8.0, 6.0, 7.0]}}
    row = {"seconds": seconds}
    assert report.ratio(row, "naive", "ours", "training", max) == 8 / 9
    assert report.ratio(row, "naive", "ours", "training", min) == 3
    assert report.ratio(row, "jax", "ours", "training", min) is None
    assert report._mean([2.0, None, 8.0]) == pytest.approx(4)


def test_every_round_times_every_contender_in_an_order_of_its_own(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "time_of", lambda contender, kind, inputs: order.append((contender.name, kind)) or 1.0)
    settings = Settings((candidate("rnn"),), (SIZE,), rounds=40, peers=("naive",))
    benchmark.measure(settings.candidates[0], SIZE, settings)
    names = ["floor", "ours", "naive"]
    warming = [(name, kind) for name in names for kind in KINDS]
    assert order[: len(warming)] == warming
    rounds = list(zip(*[iter(order[len(warming) :])] * len(names), strict=True))
    assert [{kind for _, kind in one} for one in rounds] == [{kind} for kind in KINDS] * 40
    orders = [tuple(name for name, _ in one) for one in rounds]
    assert set(orders) == set(permutations(names)), "each comes after each other"


@pytest.mark.slow
def test_nothing_is_overwritten(here, capsys):
    for name in ("bench.json", "bench-3.png"):
        Path(name).write_text("mine")
    for _ in range(2):
        bench("cells=rnn", *QUICK)
    assert sorted(path.name for path in here.iterdir()) == [
        "bench-2.json",
        "bench-2.png",
        "bench-3.png",
        "bench-4.json",
        "bench-4.png",
        "bench.json",
    ]
    assert Path("bench.json").read_text() == Path("bench-3.png").read_text() == "mine"


def test_missing_packages_are_named(here, capsys, monkeypatch):
    for name in ("torchrecurrent", "jax", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    bench("cells=lstm", *QUICK, "out=bench.json")
    said = capsys.readouterr().out
    for name in ("torchrecurrent", "jax"):
        assert f"{name} is missing for lstm: {name} is not installed; use pip install 'rnnlab[bench]'" in said
    line = next(line for line in said.splitlines() if line.startswith("lstm"))
    assert line.split()[-2:] == ["missing", "missing"]
    assert said.endswith("No figure: matplotlib is not installed; use pip install 'rnnlab[plots]'\n")
    assert [path.name for path in here.iterdir()] == ["bench.json"]


def test_a_failing_peer_does_not_end_the_benchmark(monkeypatch):
    def fails(work):
        raise TypeError("another version\nof it")

    monkeypatch.setitem(peers.CONTENDERS, "jax", fails)
    settings = Settings((candidate("rnn"),), (SIZE,), rounds=1, peers=("naive", "jax"))
    row = benchmark.measure(settings.candidates[0], SIZE, settings)
    assert row["missing"] == {"jax": "it fails with TypeError: another version"}
    assert set(row["seconds"]) == {"floor", "ours", "naive"}


@pytest.mark.slow
def test_all_measures_every_cell(here, capsys):
    bench("--all", *QUICK)
    said = capsys.readouterr().out
    rows = [line.split() for line in said.split("floor ms")[1].splitlines()[1:]]
    chosen = [[name, engine.choose(cells.find(name)(4, 4)).name] for name in cells.available()]
    assert [row[:2] for row in rows[: len(chosen)]] == chosen
    assert not list(here.iterdir())


@pytest.mark.slow
def test_first_use_and_memory_are_measured_in_fresh_processes(here, capsys):
    size = "64x8x64"
    bench("cells=rnn", f"sizes={size}", "rounds=2", "first_use=true", "memory=true", "out=fresh")
    said = capsys.readouterr().out
    result = json.loads(Path("fresh.json").read_text())
    (first,) = result["first_use"]
    assert set(first) == {"cell", "T", "B", "H", "cold", "cached", "reference"}
    assert all(math.isfinite(first[name]) for name in ("cold", "cached", "reference"))
    assert f"first use: extra seconds of the first training step over later ones, in new processes, at {size}" in said
    if result["memory"] is None:
        assert "it was not measured" in said
        return
    (memory,) = result["memory"]
    outputs = 4 * 64 * 8 * 64
    for name in ("ours", "torch.nn"):  # outputs and input gradients are in memory at once
        assert outputs < memory[name] < 100 * outputs


def test_memory_that_cannot_be_measured_is_reported(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    said = []
    settings = Settings((candidate("rnn"),), (SIZE,), rounds=1, peers=(), memory=True)
    assert benchmark.run(settings, said.append)["memory"] is None
    assert said[-1].endswith("which needs Linux; it was not measured")


@pytest.mark.parametrize(
    ("arguments", "says"),
    tiers.every(
        3,
        [
            (["rouns=3"], "unknown option 'rouns=3'; did you mean 'rounds'?"),
            (["rounds=many"], "rounds='many' is not of type int"),
            (["rounds=0"], "rounds=0 must be at least 1"),
            (["threads=-1"], "threads=-1 must be at least 1"),
            (["memory=maybe"], "memory='maybe' is not of type bool"),
            (["sizes=64x32"], "cannot read the size '64x32'; give steps x batch x hidden size, as in sizes=64x32x128"),
            (["sizes=64x0x128"], "cannot read the size '64x0x128'"),
            (["sizes="], "cannot read the size ''"),
            (["cells="], "cannot read the cell ''; give names"),
            (["cells=gru(before)"], "cannot read the cell 'gru(before)'; give names"),
            (["cells=gru(reset=before"], "cannot read the cell 'gru(reset=before'"),
            (["cells=lstn"], "unknown cell 'lstn'; did you mean 'lstm'?"),
            (["cells=nowhere:Cell"], "needs the module 'nowhere'"),
            (["cells=gru(rest=before)"], "unknown option 'cell.rest'; did you mean 'cell.reset'?"),
            (["cells=gru(reset=maybe)"], "reset='maybe' is not one of after, before"),
            (["backend=fast"], "unknown backend 'fast'; the choices are"),
            (["cells=gru(reset=before)", "backend=native"], "backend 'native' cannot run GRU as configured"),
            (["device=abacus"], "'abacus' is not one of auto, cpu, cuda, cuda:N"),
            (["out=text.txt/bench"], "text.txt is not a writable folder"),
            (["--all", "cells=rnn"], "unknown option 'cells=rnn'"),
        ],
    ),
)
def test_invalid_arguments_give_one_line_before_any_measurement(here, capsys, monkeypatch, arguments, says):
    monkeypatch.setattr(benchmark, "run", lambda *given: pytest.fail("it was measured"))
    Path("text.txt").write_text("a text")
    assert __main__.main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnnlab: ")
    assert says in line
    assert [path.name for path in here.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("setting", ["highest", "high"])
def test_cudnn_rounds_as_torch_does_while_it_is_measured(monkeypatch, setting):
    found, before = [], torch.backends.cudnn.allow_tf32

    def measure(*given):
        found.append(torch.backends.cudnn.allow_tf32)
        return {"seconds": {}, "missing": {}}

    monkeypatch.setattr(report, "measure", measure)
    monkeypatch.setattr(report._Table, "line", lambda *given: "")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: setting)
    benchmark.run(Settings((candidate("lstm"),), (SIZE,)), say=lambda line: None)
    assert found == [setting == "high"]
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_without_a_device(here, capsys):
    assert __main__.main(["bench", "device=cuda"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu(here):
    bench("cells=lstm,gru(reset=before)", *QUICK, "device=cuda", "memory=true", "out=gpu")
    result = json.loads(Path("gpu.json").read_text())
    assert {"floor", "ours", "torch.nn", "naive"} <= set(result["results"][0]["seconds"])
    assert all(row["ours"] > 0 for row in result["memory"])


def test_help_is_quick_and_lists_every_option():
    done = subprocess.run(
        [sys.executable, "-m", "rnnlab", "bench", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert done.returncode == 0
    for option in fields(Options):
        default = str(option.default).lower()
        assert f"  {option.name}={default}" in done.stdout or option.name == "sizes"
    assert f"  sizes={Options.sizes.partition(',')[0]},..." in done.stdout
    assert "torch" not in done.stderr, "the help must not import torch"
