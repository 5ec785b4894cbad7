"""Directories of runs, written without training, and comparisons of them."""

import json
import re

import yaml

from rnnlab import analysis


def make(folder, cell="gru", seed=0, score=1.0, digest="d1", task="adding", status="finished", **more):
    """Write the directory of a run with three evaluations and a test of the best checkpoint."""
    place = (
        folder
        / "runs"
        / f"{task}-{re.sub(r'[^a-z0-9]', '_', cell)}-{seed}-{digest}-{len(list(folder.rglob('summary.json')))}"
    )
    place.mkdir(parents=True)
    options = {"seed": seed, "run_dir": str(place), "task": {"name": task}, "model": {"name": "m", "hidden_size": 8}}
    options |= {"cell": {"name": cell}, "optimizer": {"name": "adamw", "lr": more.pop("lr", 0.001)}}
    options |= {"trainer": {"steps": 30, "target": more.pop("target", None)}}
    best = {"step": 30, "loss": more.pop("valid", score), "mae": 0.5}
    summary = {
        "status": status,
        "task": task,
        "cell": cell,
        "seed": seed,
        "config": options,
        "data_digest": digest,
        "parameters": 100,
        "flops_per_token": 600,
        "seconds": 3.0,
        "steps": 30,
        "tokens": 3000,
        "best": best,
        "metrics": {"loss": {"unit": "nats", "better": "lower"}, "mae": {"unit": "error", "better": "lower"}},
        "monitor": "loss",
        "test": {**best, "loss": score},
        "solved": None,
        "versions": {"torch": "2"},
        **more,
    }
    (place / "config.yaml").write_text(yaml.safe_dump(options))
    (place / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"step": s, "split": split, "tokens": 100 * s, "seconds": s / 10, "loss": score * 30 / s, "mae": 1.0}
        for s in (10, 20, 30)
        for split in ("train", "valid")
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def compared(*paths, **options):
    runs, problems = analysis.read(paths or ["runs"])
    result = analysis.compare(runs, **options)
    result.problems[:0] = problems
    return result
