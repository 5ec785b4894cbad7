"""One run: the loop, checkpoints, logging, devices."""

from rnnlab.training.run import evaluate_run, load, train

__all__ = ["evaluate_run", "load", "train"]
