"""What models with a stack of recurrent layers share: encoders of inputs, and running encoder, stack and readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnnlab.cells.base import Fixed, check_choice
from rnnlab.interface import Batch, Images, InputError, Tokens, Vectors
from rnnlab.models.base import Model
from rnnlab.trees import State


class OneHot(Fixed):
    """One-hot encoding of tokens: int64 ``[T, B]`` to ``[T, B, size]`` in the model's dtype."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_fixed(persistent=False)

    def fixed(self) -> dict[str, Tensor]:
        """The one-hot vectors of all tokens, ``[size, size]``."""
        return {"rows": torch.eye(self.size)}

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rows[tokens]


def encoder_of(input: Tokens | Vectors | Images, name: str, embedding_size: int) -> tuple[nn.Module, int]:
    """Return the encoder of the inputs, and the width of its outputs."""
    check_choice("encoder", name, ("embedding", "one_hot"))
    if isinstance(input, Images):
        raise InputError("this model accepts tokens or vectors, not images; choose another model")
    if isinstance(input, Vectors):
        return nn.Identity(), input.size
    if name == "one_hot":
        return OneHot(input.size), input.size
    if embedding_size < 1:
        raise InputError(f"model.embedding_size={embedding_size} must be at least 1")
    return nn.Embedding(input.size, embedding_size), embedding_size


class Stacked(Model):
    """Base class of models that are an ``encoder``, a ``stack`` of layers and a ``readout``; subclasses set all three.

    ``carries`` says whether the stack can start from a given state.
    """

    carries = True

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        if state is not None:
            self.check_carrying()
        per_step = {} if batch.fresh is None or batch.fresh.dim() == 1 else {"fresh": batch.fresh}
        if batch.elapsed is not None:
            per_step["elapsed"] = batch.elapsed
        hidden, state = self.stack(self.encoder(batch.inputs), state, batch.lengths, **per_step)
        return self.readout(hidden), state

    def begin(self, source: Tensor | None = None, source_lengths: Tensor | None = None, batch_size: int = 1) -> State:
        return self.stack.initial_state(batch_size)

    def check_carrying(self) -> None:
        if not self.carries:
            raise InputError(
                "a bidirectional model reads whole sequences and can neither continue a stream nor generate; "
                "use model.bidirectional=none, or a task without streams"
            )

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_carrying()
        hidden, state = self.stack(self.encoder(inputs.unsqueeze(0)), state)
        return self.readout(hidden[0]), state
