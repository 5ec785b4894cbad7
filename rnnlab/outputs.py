"""Losses and draws as plain functions, for tasks written for earlier versions; new ones use `rnnlab.heads`."""

from rnnlab.heads.categorical import IGNORE, categorical_accuracy, categorical_loss, draw_categorical
from rnnlab.heads.squared_error import absolute_error, squared_error

__all__ = [
    "IGNORE",
    "absolute_error",
    "categorical_accuracy",
    "categorical_loss",
    "draw_categorical",
    "squared_error",
]
