"""On a GPU, a training step makes the host wait for nothing: PyTorch reports each synchronisation as an error."""

import pytest
import torch

from rnnlab import config
from rnnlab.training import train, trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")]

WARM_UP = 4
"""Training steps in which cells are traced, compiled and recorded."""


@pytest.mark.parametrize("task", ["adding", "a_n_b_n", "char_lm"])
@pytest.mark.parametrize("cell", ["lstm", "mgu", "mingru"])
def test_a_training_step_does_not_synchronise(monkeypatch, tmp_path, task, cell):
    set_learning_rate, collect, strict_steps = trainer.Trainer.set_learning_rate, trainer.Trainer.collect, []

    def strict(self):
        if self.progress.step >= WARM_UP:
            torch.cuda.set_sync_debug_mode("error")
            strict_steps.append(self.progress.step)
        set_learning_rate(self)

    def relaxed(self):
        torch.cuda.set_sync_debug_mode("default")
        collect(self)

    monkeypatch.setattr(trainer.Trainer, "set_learning_rate", strict)
    monkeypatch.setattr(trainer.Trainer, "collect", relaxed)
    fixed = ["task.lengths=[20,20]", "task.test_lengths=[20,20]"] if task != "char_lm" else []
    every = WARM_UP + 4
    times = [f"trainer.steps={every}", f"trainer.log_every={every}", f"trainer.eval_every={every}"]
    options = [f"task={task}", *fixed, f"cell={cell}", "logger.tensorboard=false", f"run_dir={tmp_path}/run"]
    try:
        assert train(config.compose([*options, *times, "trainer.device=cuda"]))["status"] == "finished"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strict_steps == [*range(WARM_UP, every)]
