"""Writes the runs beside this file, as the version before heads, sources and one generation module did.

    python write.py FOLDER        with rnnlab at commit f47fbd0 installed

Each run is there twice: ``whole``, trained to its end, and ``stopped``, interrupted in the middle. ``expected.json``
has what that version says of the whole runs, ``names.json`` the directories that it derives for them.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from rnnlab import config, tasks
from rnnlab.training import evaluate_run, load, train
from rnnlab.training.directory import RunDirectory, run_name
from rnnlab.training.settings import complete

QUIET = ["logger.progress=false", "trainer.device=cpu"]
GENERATED = ["task.lengths=[5,9]", "task.test_lengths=[10,12]", "task.batch_size=4", "task.eval_batches=1"]
RUNS = {
    "hello": ["task=hello", "model.hidden_size=4"],
    "char_lm": [
        "task.corpus=text.txt",
        "task.batch_size=2",
        "task.seq_len=8",
        "model.hidden_size=6",
        "model.embedding_size=4",
    ],
    "vowels": ["task=vowels", "task.batch_size=60", "model.hidden_size=4", "model.bidirectional=concatenate"],
    "series": [
        "task=series",
        "task.file=table.csv",
        "task.seq_len=10",
        "task.batch_size=4",
        "model.hidden_size=4",
        "cell=lstm",
    ],
    "adding": ["task=adding", *GENERATED, "model.hidden_size=4", "cell=mingru"],
    "regularised": [
        "task=parity",
        *GENERATED,
        "cell=lstm",
        "model.hidden_size=4",
        "model.num_layers=2",
        "model.zoneout=[0.1,0.2]",
        "model.recurrent_dropout=0.1",
        "model.weight_drop=0.2",
        "model.norm=layer",
        "model.initial_state=learned",
    ],
}
STEPS = ["trainer.steps=6", "trainer.eval_every=3", "trainer.log_every=2", "trainer.checkpoint_every=2"]


def main(folder: Path) -> None:
    """Write all runs into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    Path("text.txt").write_text("the cat sat on the mat.\n" * 40)
    rows = [f"{n},{(n * 7 % 11) / 10},{(n * n % 13) / 10}" for n in range(200)]
    Path("table.csv").write_text("\n".join(["time,x,y", *rows, ""]))
    expected = {}
    for name, options in RUNS.items():
        board = f"logger.tensorboard={'true' if name == 'hello' else 'false'}"
        given = [*options, *STEPS, *QUIET, board]
        train(config.compose([*given, f"run_dir=whole/{name}"]))
        _interrupted(config.compose([*given, f"run_dir=stopped/{name}"]))
        task, model, _ = load(f"whole/{name}", "cpu")
        expected[name] = {split: evaluate_run(f"whole/{name}", split, "cpu") for split in task.splits}
        if type(task).speaker is not tasks.Task.speaker:
            speaker = task.speaker(model, 0, 0, 0)
            expected[name]["text"] = "".join(speaker.generate(task.default_prompt, 12))
    names = {name: run_name(complete(RunDirectory(f"whole/{name}").config())) for name in RUNS}
    Path("names.json").write_text(json.dumps(names, indent=1) + "\n")
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for lock in Path().rglob(".lock"):
        lock.unlink()
    shutil.rmtree("outputs", ignore_errors=True)


def _interrupted(settings: dict) -> None:
    kind = tasks.find(settings["task"]["name"])
    batch = kind.batch

    def stops(task, split, step):
        if (split, step) == ("train", 4):
            raise KeyboardInterrupt
        return batch(task, split, step)

    kind.batch = stops
    try:
        train(settings)
    except KeyboardInterrupt:
        pass
    finally:
        kind.batch = batch


if __name__ == "__main__":
    main(Path(sys.argv[1]))
