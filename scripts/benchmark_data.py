"""Measure for every task the time to generate a batch, and the time of a training step on it.

python scripts/benchmark_data.py [steps=10] [tasks=adding,parity,...]

A training step is that of the default configuration with this task, a GRU of 256 units. Times are CPU times with one
thread, so that the load of the machine has little influence.
"""

import statistics
import sys
from time import process_time

import torch
from torch.nn.utils import clip_grad_norm_

from rnnlab import config, lookup, tasks
from rnnlab.training.build import build
from rnnlab.training.evaluation import carry


def milliseconds(resolved: dict, steps: int) -> tuple[float, float]:
    """Return the median times in ms of generating a batch and of a training step on it.

    The first batch and the first training step are left out, because they include reading data and compiling.
    """
    task, model = build(resolved)
    optimizer = torch.optim.AdamW(model.parameters())
    making, training, state = [], [], None
    for step in range(steps + 1):
        started = process_time()
        batch = task.batch("train", step)
        made = process_time()
        outputs, state = model(batch, carry(model, state, batch.fresh))
        total, count = task.loss(outputs, batch)
        optimizer.zero_grad()
        (total / count).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        making.append(made - started)
        training.append(process_time() - made)
    return 1000 * statistics.median(making[1:]), 1000 * statistics.median(training[1:])


def main(steps: str = "10", tasks_: str = "") -> None:
    """Measure all tasks or the given tasks, and print the table."""
    torch.set_num_threads(1)
    print(f"{'task':28}{'ms per batch':>12}{'ms per step':>12}{'share':>9}")
    print()
    for name in tasks_.split(",") if tasks_ else lookup.available(tasks):
        making, training = milliseconds(config.compose([f"task={name}"]), int(steps))
        print(f"{name:28}{making:12.3f}{training:12.2f}{making / training:9.1%}", flush=True)


if __name__ == "__main__":
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(**{"tasks_" if key == "tasks" else key: value for key, value in given.items()})
