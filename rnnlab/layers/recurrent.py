"""A layer: one cell run over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab import cells, engine
from rnnlab.cells.base import Cell, check_choice
from rnnlab.interface import InputError, on_host
from rnnlab.layers.resets import Resetting
from rnnlab.layers.states import Exposing, separated
from rnnlab.layers.wrapped import Wrapped, name_of
from rnnlab.trees import State, map_state, tensors_of


class Recurrent(nn.Module):
    """A layer that runs a cell over sequences: ``outputs, state = layer(inputs, state=None, lengths=None)``.

    A sequence may be split: if the state is passed on, the results are the same as for the whole sequence.

    Args:
        cell: the cell.
        backend: one of `rnnlab.engine.BACKENDS`; ``layer.choice`` has the selected backend and the reason.
        initial_state: ``zero`` for the cell's own initial state, or ``learned`` for parameters that start from it.
        reverse: whether to read each sequence from its last step to its first. Outputs are in the order of the inputs;
            the final state is the state after the first step.

    Raises:
        InputError: the backend is unknown or cannot run this cell, ``cell`` is not a `Cell`, or it has no parameters.
    """

    _fitting: tuple[Any, ...] | None = None  # `_kinds` of the last state that fitted: checking takes longer than a step
    _watcher: Callable | None = None

    def __init__(
        self, cell: Cell, backend: str = "auto", initial_state: str = "zero", *, reverse: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            raise InputError(f"expected a Cell, got {type(cell).__name__}; rnnlab.cells.create makes one")
        self.cell = cell
        self.reverse = reverse
        self.backend = backend
        self.choice  # noqa: B018 - raises if the backend cannot run the cell
        check_choice("initial_state", initial_state, ("zero", "learned"))
        example = tensors_of(cell.initial_state(1))
        learned = [t for t in example if initial_state == "learned" and t.is_floating_point()]
        self.first = nn.ParameterList(nn.Parameter(tensor[0].clone()) for tensor in learned)

    @property
    def choice(self) -> engine.Choice:
        """The backend that runs the cell and the reason, for its current options, device and dtype."""
        if self._watcher is not None:
            return engine.Choice("watched", self._watcher, "a diagnosis runs the layer")
        return self._choice_for(self.cell, self.cell.like)

    def _choice_for(self, cell: Cell, like: Tensor) -> engine.Choice:
        # On a GPU the choice depends on the precision of matrix products.
        precision = engine.reference.precision(like.device, like.dtype)
        where = (self.backend, like.device, like.dtype, precision)
        choices = vars(self).setdefault("_choices", {})
        known, options, choice = choices.get(cell, (None, None, None))
        # A compiled step traces itself again when the cell changes.
        if known == where and (choice.follows or options == engine.identity(cell)):
            return choice
        choice = engine.choose(cell, self.backend) if cell is self.cell else self._choice_around(cell)
        choices[cell] = where, engine.identity(cell), choice
        return choice

    def _choice_around(self, cell: Cell) -> engine.Choice:
        """Return the layer's backend for a wrapped cell, or that of ``auto`` where it cannot run it."""
        try:
            return engine.choose(cell, self.backend)
        except InputError:
            return engine.choose(cell)

    def around(self, *wrappers: type[Wrapped]) -> Cell:
        """Return the cell in wrappers, the first one innermost; the same object at every call, to keep its trace."""
        cell = self.cell
        known = vars(self).setdefault("_around", {})
        for kind in wrappers:
            if (kind, cell) not in known:
                known[kind, cell] = kind(cell)
            wrapped = known[kind, cell]
            if wrapped.training != cell.training:
                wrapped.training = cell.training
            cell = wrapped
        return cell

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy, which chooses its own backend."""
        return {key: value for key, value in vars(self).items() if key not in ("_choices", "_around", "_fitting")}

    def __prepare_scriptable__(self) -> None:
        """Raise an InputError: ``torch.jit.script`` cannot compile the Python code of a cell."""
        raise InputError(
            "torch.jit.script cannot compile a Recurrent layer; use torch.jit.trace, torch.export or torch.compile"
        )

    @contextmanager
    def run_by(self, run: Callable) -> Iterator[None]:
        """Return a context in which ``run``, a recording function with the interface of a backend, runs the cell."""
        before, self._watcher = self._watcher, run
        try:
            yield
        finally:
            self._watcher = before

    @property
    def output_size(self) -> int:
        """Number of output features."""
        return self.cell.output_size

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step: a nested tuple of tensors ``[batch_size, ...]``."""
        state = self.cell.initial_state(batch_size)
        if not len(self.first):
            return state
        learned = iter(self.first)
        return map_state(lambda t: next(learned).expand_as(t) if t.is_floating_point() else t, state)

    def forward(
        self,
        inputs: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        fresh: Tensor | None = None,
        **context: Any,
    ) -> tuple[Tensor, State]:
        """Run the cell over a batch of sequences.

        Args:
            inputs: ``[T, B, input_size]``.
            state: the state before the first step; None for `initial_state`.
            lengths: int64 ``[B]``, each between 1 and T, in any order, on any device; None if all are T. To check
                lengths on a GPU, the host waits for it, unless `rnnlab.interface.Batch.to` has copied them there.
            fresh: bool ``[T, B]``, True at steps before which the state is set to `initial_state`: the first steps of
                the pieces of a packed sequence. The results equal those of running each piece as a sequence of its own.
                A layer with ``reverse=True`` reads each piece from its last step. None for no resets.
            context: additional arguments of the cell's ``prepare``, by name.

        Returns:
            outputs ``[T, B, output_size]``, zero after the end of each sequence, and the state at each sequence's end.

        Raises:
            InputError: a shape, a dtype or a length is wrong.
        """
        run = self._run
        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting() and self.backend != "reference":
            disable: Any = torch._dynamo.disable  # its annotations lack this form of call
            run = disable(run)  # the graph breaks here, as for nn.GRU
        return run((), inputs, state, lengths, fresh, context)

    def trajectory(
        self,
        inputs: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        fresh: Tensor | None = None,
        **context: Any,
    ) -> tuple[Tensor, State, State]:
        """Run the cell as `forward` does, and also return the state after every step.

        Returns:
            outputs, final state, and the states: a tree like the state, of tensors ``[T, B, ...]`` in the order of the
            inputs, zero after the end of each sequence.
        """
        outputs, final = self._run((Exposing,), inputs, state, lengths, fresh, context)
        outputs, states = separated(outputs, self.output_size, final)
        return outputs, final, states

    def _run(
        self,
        wrappers: tuple[type[Wrapped], ...],
        inputs: Tensor,
        state: State | None,
        lengths: Tensor | None,
        fresh: Tensor | None,
        context: dict[str, Any],
    ) -> tuple[Tensor, State]:
        """Run the cell in ``wrappers``; see `forward` for the other arguments."""
        cell = self.cell
        if not isinstance(inputs, Tensor):
            raise InputError(f"inputs must be a tensor [T, B, {cell.input_size}], not {type(inputs).__name__}")
        shape = inputs.shape
        if len(shape) != 3 or shape[2] != cell.input_size or not shape[0]:
            raise InputError(f"inputs have shape {list(shape)}, expected [T, B, {cell.input_size}] with T at least 1")
        like = cell.like
        dtype = like.dtype
        if inputs.dtype != dtype and engine.reference.autocast_dtype(inputs.device) is None:
            raise InputError(f"inputs are {inputs.dtype}, the cell's parameters {dtype}; convert one of them")
        num_steps, batch_size, _ = shape
        state = self.initial_state(batch_size) if state is None else self._checked_state(state, batch_size)
        if lengths is not None:
            lengths = self._checked(lengths, num_steps, batch_size).to(inputs.device)
        if context or fresh is not None:
            context = self._context(context, inputs, lengths, fresh)
            wrappers = wrappers if fresh is None else (Resetting, *wrappers)
        if wrappers:
            cell = self.around(*wrappers)
        inputs = self._ordered(inputs, lengths)
        run = self._watcher or engine.observed(cell, self.backend, inputs) or self._choice_for(cell, like).run
        outputs, after = run(cell, inputs, state, lengths, **context)
        return self._ordered(outputs, lengths), after

    def _ordered(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Return ``[T, B, ...]`` in reading order, or from reading order in that of the inputs."""
        return _reversed(values, lengths) if self.reverse else values

    def _context(
        self, context: dict[str, Any], inputs: Tensor, lengths: Tensor | None, fresh: Tensor | None
    ) -> dict[str, Any]:
        """Return the arguments of the cell's ``prepare`` with zero padding, and their steps in reading order."""
        if "elapsed" in context and "elapsed" not in self.cell.context_per_step:
            timed = [name for name in cells.available() if "elapsed" in cells.find(name).context_per_step]
            raise InputError(f"{name_of(self.cell)} takes no elapsed times; the cells that do are {', '.join(timed)}")
        if fresh is not None:
            if not isinstance(fresh, Tensor) or fresh.dtype != torch.bool or fresh.shape != inputs.shape[:2]:
                given = f"{fresh.dtype} {list(fresh.shape)}" if isinstance(fresh, Tensor) else type(fresh).__name__
                raise InputError(f"fresh is {given}; it must be a bool tensor {list(inputs.shape[:2])}, [T, B]")
            fresh = _without_padding(fresh.to(inputs.device), lengths)
        found = dict(context)
        for name in set(self.cell.context_per_step) & context.keys():
            values = _without_padding(context[name], lengths)
            if self.reverse and name in self.cell.context_between:
                values = _after(values, lengths, fresh)
            found[name] = self._ordered(values, lengths)
        if fresh is not None:
            if self.reverse:  # a piece ends before the next one starts
                fresh = torch.cat([fresh[1:], torch.zeros_like(fresh[:1])])
            found |= {"fresh": self._ordered(fresh, lengths), "first": self.initial_state(1)}
        return found

    def _checked_state(self, state: State, batch_size: int) -> State:
        tensors = tensors_of(state)
        # A compiler would turn the comparison into a condition on the number of sequences.
        is_known = isinstance(state, tuple) and not torch.compiler.is_compiling()
        kinds = self._kinds(tensors, batch_size) if is_known else None
        if kinds is not None and kinds == self._fitting:
            return state
        given_state, own = state, tensors_of(self.cell.initial_state(batch_size))
        given, expected = ([list(getattr(tensor, "shape", "?")) for tensor in part] for part in (tensors, own))
        if not isinstance(state, tuple) or given != expected:
            raise InputError(f"the state has shapes {given}; the cell expects a tuple of {expected}")
        state = engine.reference.widened(self.cell, state)
        for name in ("dtype", "device"):
            given, expected = ([getattr(tensor, name) for tensor in part] for part in (tensors_of(state), own))
            if given != expected:
                raise InputError(
                    f"the state is {_words(given)}, but the cell's state is {_words(expected)}; convert it with .to()"
                )
        if state is given_state:  # not converted
            self._fitting = kinds
        return state

    def _kinds(self, tensors: list[Any], batch_size: int) -> tuple[Any, ...] | None:
        """Return all that decides whether a state fits; None if it holds something else than tensors."""
        cell = self.cell
        like = cell.like
        try:
            kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        except AttributeError:
            return None
        return id(cell), like.dtype, like.device, batch_size, kinds

    @staticmethod
    def _checked(lengths: Tensor, num_steps: int, batch_size: int) -> Tensor:
        if not isinstance(lengths, Tensor):
            raise InputError(f"lengths must be a tensor of integers [{batch_size}], not {type(lengths).__name__}")
        if lengths.shape != (batch_size,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise InputError(f"lengths are {lengths.dtype} {list(lengths.shape)}; they must be integers [{batch_size}]")
        low, high = map(int, torch.aminmax(on_host(lengths).to(torch.int64))) if batch_size else (1, 1)
        if low < 1 or high > num_steps:
            raise InputError(f"lengths range from {low} to {high}; they must be between 1 and {num_steps} steps")
        return lengths.to(torch.int64)  # torch cannot compare unsigned integers


def _words(kinds: list[Any]) -> str:
    return ", ".join(map(str, dict.fromkeys(kinds)))


def _without_padding(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Return ``[T, B, ...]`` with zeros after the end of each sequence."""
    if lengths is None:
        return values
    past = torch.arange(len(values), device=values.device).unsqueeze(1) >= lengths
    return values.masked_fill(past.view(*past.shape, *[1] * (values.dim() - 2)), 0)


def _after(values: Tensor, lengths: Tensor | None, fresh: Tensor | None) -> Tensor:
    """Return for each step of ``[T, B, ...]`` the value of the next step; for the last of a piece, of its first."""
    if lengths is None and fresh is None:
        return values.roll(-1, 0)
    steps = torch.arange(len(values), device=values.device).unsqueeze(1).expand(values.shape[:2])
    starts = steps == 0 if fresh is None else fresh | (steps == 0)
    first = torch.where(starts, steps, 0).cummax(0).values
    is_last = steps == (len(values) if lengths is None else lengths) - 1
    is_last = is_last | torch.cat([starts[1:], starts[:1]])
    source = torch.where(is_last, first, steps + 1)
    return values.gather(0, source.view(*source.shape, *[1] * (values.dim() - 2)).expand_as(values))


def _reversed(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """Return ``[T, B, ...]`` with each sequence reversed; the padding stays in place."""
    if lengths is None:
        return sequences.flip(0)
    steps = torch.arange(len(sequences), device=sequences.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequences.gather(0, source.view(*source.shape, *[1] * (sequences.dim() - 2)).expand_as(sequences))
