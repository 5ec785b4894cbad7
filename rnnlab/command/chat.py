"""``rnnlab chat``: converse with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from rnnlab.command import options
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

SYNOPSIS = (("chat run=DIR", "converse with a model of the task conversation, a line at a time"),)
NOTES = (
    "Each line of standard input is answered with one line; the model reads the last task.turns utterances of both "
    "sides. A line that cannot be answered is reported and does not become part of the conversation. The conversation "
    "ends with the line exit or quit, at the end of the input (Ctrl-D), or with Ctrl-C."
)
ENDS = ("exit", "quit")
"""The lines that end a conversation."""


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    length: int = option(200, "largest number of tokens of an answer")
    temperature: float = option(0.0, "0: the most probable token at each step; 1: samples from the model distribution")
    top_k: int = option(0, "number of most probable tokens to sample from; 0 for all")
    beam_size: int = option(1, "number of hypotheses of beam search; needs temperature=0")
    seed: int = option(0, "seed of the samples")
    device: str = option("cpu", "device: cpu, cuda or auto")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Converse on standard input and output."""
    chosen = options.read(Options, arguments)
    from rnnlab.command._converse import converse
    from rnnlab.tasks.text.conversation import Conversation
    from rnnlab.training import load
    from rnnlab.training.device import check_seed

    _check(chosen)
    check_seed(chosen.seed)
    task, model, content = load(chosen.run, chosen.device, data_root=chosen.data_root or None)
    draws = (chosen.temperature, chosen.top_k, chosen.seed)
    if not isinstance(task, Conversation):
        task.speaker(model, *draws)  # raises an error that says so if the task generates no text
        name = content["config"]["task"]["name"]
        raise InputError(
            f"{chosen.run} is a run of the task {name}, not of conversation; use rnnlab generate run={chosen.run} "
            "interactive=true"
        )
    dialogue = task.speaker(model, *draws, beam_size=chosen.beam_size)
    converse(lambda line: dialogue.reply(line, chosen.length), ENDS)
    return 0


def _check(chosen: Options) -> None:
    """Raise an InputError for an option that is out of range."""
    for name, least in (("length", 1), ("temperature", 0), ("top_k", 0), ("beam_size", 1)):
        value = getattr(chosen, name)
        if not isfinite(value) or value < least:
            raise InputError(f"{name}={value} must be a number of at least {least}")
    if chosen.beam_size > 1 and (chosen.temperature or chosen.top_k):
        raise InputError(
            f"beam_size={chosen.beam_size} finds the most probable answer and draws none; omit temperature= and top_k="
        )
