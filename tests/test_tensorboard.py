"""TensorBoard shows what metrics.jsonl holds: read from the event files, from a server, and in a browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import warnings

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from rnnlab import config
from rnnlab.interface import InputError, Metric, Sample
from rnnlab.training import train
from rnnlab.training.directory import RunDirectory
from rnnlab.training.logger import Logger

with warnings.catch_warnings():  # of what TensorBoard carries with it
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.plugin_util import markdown_to_safe_html

TAGS = {
    *("train/loss", "train/bpc", "train/grad_norm", "train/lr", "train/tokens_per_second"),
    *("valid/loss", "valid/bpc", "test/loss", "test/bpc"),
}
TINY = ["model.hidden_size=8", "model.embedding_size=4", "task.batch_size=4", "task.seq_len=8"]
STEPS = ["trainer.steps=6", "trainer.log_every=2", "trainer.eval_every=3"]
# A browser that asks nothing of the world: no first page, no updates, no account.
QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
CHROMIUM = ["--headless=new", "--no-sandbox", "--disable-gpu", *QUIET, "--disable-sync", "--virtual-time-budget=15000"]
CHROMIUM += ["--window-size=1600,3000"]  # a page draws the curves that are in sight only


def a_run(folder, *options):
    (folder / "corpus.txt").write_text("the cell reads `one` letter and writes one letter. " * 40)
    options = [f"task.corpus={folder / 'corpus.txt'}", *TINY, *STEPS, *options]
    return RunDirectory(train(config.compose(options, root=str(folder / "runs")))["config"]["run_dir"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The two runs of ``rnnlab train -m cell=rnn,lstm``, by cell."""
    folder = tmp_path_factory.mktemp("sweep")
    return {cell: a_run(folder, f"cell={cell}") for cell in ("rnn", "lstm")}


@pytest.fixture(scope="module")
def shown(sweep):
    """What TensorBoard reads of the run with rnn cells, nothing left out."""
    events = EventAccumulator(str(sweep["rnn"].path), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def board(sweep, tmp_path_factory):
    """A function that asks a TensorBoard on both runs for a page, or for the JSON of a path."""
    log = tmp_path_factory.mktemp("board") / "log.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
    command += ["--logdir", str(sweep["rnn"].path.parents[1])]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(ask.address + path, data, {"Content-Type": "application/json"})
        with direct.open(request, timeout=60) as answer:
            return json.load(answer)

    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        ask.address = found.group()
        # It reads the runs after it has begun to answer; each run's last event is its result on test.
        while sum("test/loss" in tags for tags in ask("/data/plugin/scalars/tags").values()) < len(sweep):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield ask
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def name(run):
    """A run's name in TensorBoard: where it lies below the folder of all runs."""
    return f"{run.path.parent.name}/{run.path.name}"


def recorded(run):
    """(step, value) of every scalar in metrics.jsonl, in the precision of an event."""
    scalars = {}
    for line in run.metrics_file.read_text().splitlines():
        record = json.loads(line)
        split, step = record.pop("split"), record.pop("step")
        for metric, value in record.items():
            if metric not in ("tokens", "seconds"):  # what a record says of itself
                scalars.setdefault(f"{split}/{metric}", []).append((step, float(np.float32(value))))
    return scalars


def rendered(markdown):
    """The text in the verbatim block that ``markdown`` is, all of it."""
    block = re.fullmatch(r"<pre><code>(.*)\n</code></pre>", markdown_to_safe_html(markdown).strip(), re.DOTALL)
    assert block, f"not one verbatim block: {markdown!r}"
    return html.unescape(block.group(1))


def test_scalars_are_those_of_the_metrics_file(sweep, shown):
    scalars = {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}
    assert set(scalars) == TAGS
    assert [step for step, _ in scalars["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in scalars["valid/loss"]] == [3, 6]
    assert scalars == recorded(sweep["rnn"])


def test_samples_are_those_of_the_sample_files(sweep, shown):
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in shown.Tensors("sample/text_summary")}
    files = {int(path.stem): path.read_text().removesuffix("\n") for path in sweep["rnn"].samples.iterdir()}
    assert sorted(files) == [0, 3, 6]
    assert {step: rendered(text) for step, text in texts.items()} == files


def test_a_sample_is_verbatim_whatever_it_says(tmp_path):
    """Markdown would make code, headings, lists and tags of what a model says; indented, it stays what it is."""
    said = "a `word`, ``two``\n```\n# no heading\n\n* no list\n</code></pre><b>bold</b> & done\n    x = 1"
    (tmp_path / "samples").mkdir()
    logger = Logger(RunDirectory(tmp_path), {"loss": Metric("nats")})
    logger.sample(7, Sample(said))
    logger.close()
    [event] = EventAccumulator(str(tmp_path)).Reload().Tensors("sample/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 7
    assert all(line.startswith("    ") for line in text.split("\n"))
    assert rendered(text) == said


def test_hyperparameters_belong_to_the_run_itself(sweep, shown):
    run = sweep["rnn"]
    session = shown.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    options = metadata.parse_session_start_info_plugin_data(session).hparams
    assert options["model.hidden_size"].number_value == 8
    assert options["cell.name"].string_value == "rnn"
    assert options["cell.activation"].string_value == "tanh"
    assert options["seed"].number_value == 0
    # SummaryWriter.add_hparams would have written them into a run below this one.
    assert [path.parent for path in run.path.rglob("*tfevents*")] == [run.path]
    assert {path.name for path in run.path.iterdir() if path.is_dir()} == {"checkpoints", "samples"}


def test_the_custom_layout_has_a_place_for_every_scalar(shown):
    [event] = shown.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {
        (group.title, chart.title): {tag for tag in TAGS if any(re.match(regex, tag) for regex in chart.multiline.tag)}
        for group in layout.category
        for chart in group.chart
    }
    assert charts == {
        ("loss", "loss"): {"train/loss", "valid/loss", "test/loss"},
        ("loss", "bpc"): {"train/bpc", "valid/bpc", "test/bpc"},
        ("speed", "tokens per second"): {"train/tokens_per_second"},
        ("gradients", "grad_norm"): {"train/grad_norm"},
        ("gradients", "lr"): {"train/lr"},
    }


def test_without_tensorboard_no_event_file(tmp_path):
    run = a_run(tmp_path, "logger.tensorboard=false")
    assert set(recorded(run)) == TAGS
    assert not list(tmp_path.rglob("*tfevents*"))


def test_where_it_is_not_installed_a_run_says_so_and_goes_on_without_it(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    run.summary_file.unlink()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"logger\.tensorboard=true needs TensorBoard, which is not installed"):
        a_run(tmp_path)
    with pytest.raises(InputError, match="pip install tensorboard, or set logger"):
        a_run(tmp_path, "seed=1")
    assert len(list(run.path.parent.iterdir())) == 1, "nothing is written"
    assert a_run(tmp_path, "logger.tensorboard=false").summary()["status"] == "finished"


def test_a_server_shows_two_runs_side_by_side(sweep, board):
    assert {run: set(tags) for run, tags in board("/data/plugin/scalars/tags").items()} == {
        name(run): TAGS for run in sweep.values()
    }
    layout = board("/data/plugin/custom_scalars/layout")
    groups = {group["title"]: [chart["title"] for chart in group["chart"]] for group in layout["category"]}
    assert groups == {"loss": ["loss", "bpc"], "speed": ["tokens per second"], "gradients": ["grad_norm", "lr"]}

    # The table of hyperparameters: first its columns, then its rows, as the page asks for them.
    table = board("/data/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})
    columns = {column["name"] for column in table["hparamInfos"]}
    metrics = [metric["name"] for metric in table["metricInfos"]]
    assert "valid/loss" in [metric["tag"] for metric in metrics]
    rows = board(
        "/data/plugin/hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{"metric": metric} for metric in metrics],
            "startIndex": 0,
            "sliceSize": 100,
        },
    )["sessionGroups"]
    rows = {row["hparams"]["cell.name"]: row for row in rows}
    assert set(rows) == {"rnn", "lstm"}
    for cell, run in sweep.items():
        assert rows[cell]["name"] == name(run)
        assert rows[cell]["hparams"]["model.hidden_size"] == 8
        [value] = [value for value in rows[cell]["metricValues"] if value["name"]["tag"] == "valid/loss"]
        assert (value["trainingStep"], value["value"]) == recorded(run)["valid/loss"][-1]
    # Options that only one of the cells has are columns too.
    assert {"cell.name", "model.hidden_size", "cell.activation", "cell.forget_bias"} <= columns


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_shows_both_runs(sweep, board, tmp_path):
    command = ["chromium", *CHROMIUM, f"--user-data-dir={tmp_path}", "--dump-dom", f"{board.address}/#timeseries"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    page = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", done.stdout, flags=re.DOTALL)  # what is there to read
    for run in sweep.values():
        assert name(run) in page
    assert re.search(r"train\s+/loss\s", page), "a curve's title"
