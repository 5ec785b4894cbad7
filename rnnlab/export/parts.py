"""The parts of a model that are exported: functions of tensors with names."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.export.interface import carries, check_exportable, names_of, states_of
from rnnlab.interface import Batch, Images, InputError, Tokens
from rnnlab.models import Model
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.trees import State, map_state, nested, tensors_of


class Port(NamedTuple):
    """An argument or a result: its name, its dtype, and its shape, in which axes of variable size have names."""

    name: str
    dtype: torch.dtype
    shape: tuple[str | int, ...]

    def sized(self, sizes: dict[str, int]) -> list[int]:
        """The shape with numbers instead of names."""
        return [sizes.get(size, size) if isinstance(size, str) else size for size in self.shape]


class Part(nn.Module):
    """A function of a model: ``part(*tensors) -> tuple of tensors``.

    given: the arguments.
    returned: the results.
    mask: name of the second argument if it is a mask of the steps of the first argument, which a graph computes from
        their lengths; otherwise empty.
    """

    mask = ""

    def __init__(self, model: Model, given: list[Port], returned: list[Port]) -> None:
        super().__init__()
        self.model, self.given, self.returned = model, given, returned

    def examples(
        self, num_steps: int, batch_size: int, generator: torch.Generator, lengths: Tensor | None = None
    ) -> list[Tensor]:
        """Random arguments; ``lengths``, int64 ``[B]``, are those of padded sequences."""
        raise NotImplementedError

    def reference(self, lengths: Tensor | None, *tensors: Tensor) -> list[Tensor]:
        """What the model itself computes from arguments and lengths."""
        return list(self(*tensors))


class Steps(Part):
    """A model without a source: ``(inputs, elapsed, *states) -> (outputs, *states)``.

    Args:
        model: the model.
        step: whether to compute one time step.
        elapsed: whether there is an argument with elapsed times.

    Raises:
        InputError: the model has other inputs, or it cannot run step by step.
    """

    def __init__(self, model: Model, step: bool = False, elapsed: bool = False) -> None:
        check_exportable(model, step)
        lead = ("batch",) if step else ("time", "batch")
        nesting = model.begin(batch_size=1) if carries(model) else ()
        states = _states([state.name for state in states_of(model)], nesting)
        times = [Port("elapsed", torch.float32, lead)] * elapsed
        outputs = Port("outputs", torch.float32, (*lead, model.output_size))
        super().__init__(
            model, [_values("inputs", model.input, lead), *times, *states], [outputs, *map(_following, states)]
        )
        self.step, self.elapsed, self.nesting = step, elapsed, _nesting(nesting)

    def examples(  # noqa: D102
        self, num_steps: int, batch_size: int, generator: torch.Generator, lengths: Tensor | None = None
    ) -> list[Tensor]:
        inputs, *times = (
            random_values(port, {"time": num_steps, "batch": batch_size}, self.model.input, generator)
            for port in self.given[: 1 + self.elapsed]
        )
        states = tensors_of(random_state(self.model, batch_size, generator)) if carries(self.model) else []
        return [inputs, *(time.abs() for time in times), *states]

    def reference(self, lengths: Tensor | None, *tensors: Tensor) -> list[Tensor]:  # noqa: D102
        return list(self(*tensors, lengths=lengths))

    def forward(self, inputs: Tensor, *others: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute the outputs and the final states."""
        left = iter(others)
        elapsed = next(left) if self.elapsed else None
        state = nested(self.nesting, left) or None
        if self.step and elapsed is None:
            outputs, after = self.model.step(inputs, state)
        elif self.step:
            inputs = inputs.unsqueeze(0)
            outputs, after = self.model(Batch(inputs, inputs, elapsed=elapsed.unsqueeze(0)), state)
            outputs = outputs[0]
        else:
            outputs, after = self.model(Batch(inputs, inputs, lengths, elapsed=elapsed), state)
        return (outputs, *(() if state is None else tensors_of(after)))


class Encoder(Part):
    """The encoder of an encoder-decoder: ``(source, present) -> states``, or ``(source) -> states`` for single images.

    ``present``, bool ``[batch, source_time]``, is False for padding. The states are the arguments of `Decoder`.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        single = isinstance(model.source, Images) and model.source.single
        lead = ("batch",) if single else ("source_time", "batch")
        present = [Port("present", torch.bool, ("batch", "source_time"))] * (not single)
        super().__init__(model, [_values("source", model.source, lead), *present], _decoder_states(model))
        self.single, self.mask = single, "" if single else "present"

    def examples(  # noqa: D102
        self, num_steps: int, batch_size: int, generator: torch.Generator, lengths: Tensor | None = None
    ) -> list[Tensor]:
        sizes = {"source_time": num_steps, "batch": batch_size}
        source = random_values(self.given[0], sizes, self.model.source, generator)
        return [source] if self.single else [source, torch.arange(num_steps) < lengths.unsqueeze(1)]

    def reference(self, lengths: Tensor | None, *tensors: Tensor) -> list[Tensor]:  # noqa: D102
        source = tensors[0].unsqueeze(0) if self.single else tensors[0]
        return _states_of(self.model, self.model.begin(source, lengths, source.shape[1]))

    def forward(self, source: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode sources, and compute the states before the first step of the decoder."""
        memory, fixed, final = self.model.encode(source.unsqueeze(0) if self.single else source)
        if present is None:
            present = _all(memory)
        else:  # the outputs of a layer in ONNX are undefined after the end of a sequence
            memory = memory.masked_fill(~present.unsqueeze(-1), 0.0)
        return tuple(_states_of(self.model, self.model.start(memory, fixed, final, present)))


class Decoder(Part):
    """One step of the decoder of an encoder-decoder: ``(inputs, *states) -> (outputs, *states)``.

    The results have only those states that change: what the encoder made of the source stays the same.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        states = _decoder_states(model)
        changing = [state for state in states if state.name not in KEPT]
        outputs = Port("outputs", torch.float32, ("batch", model.output_size))
        super().__init__(
            model, [_values("inputs", model.input, ("batch",)), *states], [outputs, *map(_following, changing)]
        )
        self.nesting = (_nesting(model.decoder.initial_state(1)), (0,) * model.input_feeding)

    def examples(  # noqa: D102
        self, num_steps: int, batch_size: int, generator: torch.Generator, lengths: Tensor | None = None
    ) -> list[Tensor]:
        lengths = torch.randint(1, num_steps + 1, (batch_size,), generator=generator)
        before = Encoder(self.model).examples(num_steps, batch_size, generator, lengths)
        with torch.no_grad():
            states = Encoder(self.model).reference(lengths, *before)
            for _ in range(3):
                inputs = random_values(self.given[0], {"batch": batch_size}, self.model.input, generator)
                _, *after = self(inputs, *states)
                states[: len(after)] = after
        return [inputs, *states]

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of one step and the states after it."""
        left = iter(states)
        before, fed = nested(self.nesting, left)
        kept = tuple(left)
        if len(kept) == 2:  # of single images, all positions are present
            kept = (*kept, _all(kept[0]))
        outputs, (before, fed, _) = self.model.step(inputs, (before, fed, kept))
        return (outputs, *tensors_of((before, fed)))


KEPT = ("memory", "keys", "present", "context")
"""States of a decoder that do not change."""


def encoder_decoder(model: Model) -> tuple[Encoder, Decoder]:
    """The parts of a model with a source.

    Raises:
        InputError: the model is no `EncoderDecoder`, or its decoder reads images.
    """
    if not isinstance(model, EncoderDecoder):
        raise InputError(
            f"{type(model).__name__} reads a source, and only an EncoderDecoder has an encoder and a decoder that can "
            "be exported as graphs; use format=safetensors"
        )
    if isinstance(model.input, Images):
        raise InputError("the decoder reads images, which a graph has only as a source; use format=safetensors")
    return Encoder(model), Decoder(model)


def _decoder_states(model: EncoderDecoder) -> list[Port]:
    decoder = model.decoder
    state = map_state(torch.clone, decoder.initial_state(1))
    inputs = torch.zeros(1, 1, decoder.layers[0].cell.input_size)
    names = names_of(decoder, state, lambda: decoder(inputs, state))
    states = _states([f"decoder.{name}" for name in names], state)
    if model.input_feeding:
        states.append(Port("vector", torch.float32, ("batch", model.hidden_size)))
    width = model.combine.in_features - decoder.output_size
    if model.attention is None:
        return [*states, Port("context", torch.float32, ("batch", width))]
    is_single = model.encoder is None
    places = model.pictures.grid[0] * model.pictures.grid[1] if is_single else "source_time"
    states.append(Port("memory", torch.float32, ("batch", places, width)))
    states.append(Port("keys", torch.float32, ("batch", places, model.attention.query_size)))
    return states if is_single else [*states, Port("present", torch.bool, ("batch", places))]


def _states_of(model: EncoderDecoder, state: State) -> list[Tensor]:
    """The tensors of a state that are arguments of `Decoder`."""
    before, fed, kept = state
    return tensors_of((before, fed, kept[:2] if model.encoder is None else kept))


def _all(memory: Tensor) -> Tensor:
    return memory.new_ones(memory.shape[:2], dtype=torch.bool)


def _states(names: list[str], nesting: State) -> list[Port]:
    tensors = tensors_of(nesting)
    return [Port(name, t.dtype, ("batch", *t.shape[1:])) for name, t in zip(names, tensors, strict=True)]


def _nesting(state: State) -> State:
    """The nesting of a state, without its tensors."""
    return map_state(lambda _: 0, state)


def _following(state: Port) -> Port:
    return state._replace(name=f"{state.name}.next")


def _values(name: str, kind: Any, lead: tuple[str, ...]) -> Port:
    if isinstance(kind, Tokens):
        return Port(name, torch.int64, lead)
    return Port(name, torch.float32, (*lead, *(kind.shape if isinstance(kind, Images) else (kind.size,))))


def random_values(port: Port, sizes: dict[str, int], kind: Any, generator: torch.Generator) -> Tensor:
    """Random tokens, or standard normal numbers."""
    if port.dtype == torch.int64:
        return torch.randint(kind.size, port.sized(sizes), generator=generator)
    return torch.randn(port.sized(sizes), generator=generator)


def random_state(model: Model, batch_size: int, generator: torch.Generator) -> State:
    """A state of the model after five random steps, so that it is a possible state, and different for each sequence."""
    port = _values("inputs", model.input, ("time", "batch"))
    inputs = random_values(port, {"time": 5, "batch": batch_size}, model.input, generator)
    with torch.no_grad():
        _, state = model(Batch(inputs, inputs), model.begin(batch_size=batch_size))
    return map_state(torch.clone, state)
