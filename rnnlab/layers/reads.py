"""Mask the state where the matrix products of a step read it, and nowhere else."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rnnlab.cells.base import Cell
from rnnlab.trees import map_state, tensors_of

PRODUCT = re.compile("(bi)?linear|matmul|__r?matmul__|b?mm|mv|dot|inner|einsum|tensordot|multi_dot|conv[123]d")
SUM_WITH_PRODUCT = re.compile("addmm|addmv|addbmm|baddbmm")  # the first argument is added, not multiplied
IN_PLACE = re.compile("[a-z0-9].*[^_]_|__i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor)__|__setitem__")


class MaskedReads(TorchFunctionMode):
    """A context in which matrix products read ``state * mask`` instead of ``state``.

    Every operation on the state is computed twice, on a masked and on an unmasked copy. Matrix products read the masked
    copy, also after other operations: a reset gate, a tanh, a concatenation with the input. All other operations read
    the unmasked copy, so the new state is not masked.

    Args:
        state: the first state tensor of a step.
        mask: a tensor with the shape of the state.

    Attributes:
        products: results of the matrix products that read the masked copy.
    """

    def __init__(self, state: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.products: list[Tensor] = []
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # by id; holds the tensors, so that ids stay valid
        self._pair(state, state * mask)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(id(argument) in self._copies for argument in tensors_of((args, tuple(kwargs.values())))):
            return function(*args, **kwargs)
        name = function.__name__.removesuffix(".default")  # names of operators of torch.ops end with it
        masked_args, masked_kwargs = self._masked(args), {key: self._masked(value) for key, value in kwargs.items()}
        if PRODUCT.fullmatch(name):
            self.products.append(function(*masked_args, **masked_kwargs))
            return self.products[-1]
        if SUM_WITH_PRODUCT.fullmatch(name):
            self.products.append(function(*args[:1], *masked_args[1:], **masked_kwargs))
            return self.products[-1]
        if IN_PLACE.fullmatch(name):
            masked_args = (masked_args[0].clone(), *masked_args[1:])
            self._pair(args[0], masked_args[0])
        whole = function(*args, **kwargs)
        if isinstance(whole, Tensor | tuple | list):
            copies = function(*masked_args, **masked_kwargs)
            for result, copy in zip(tensors_of(whole), tensors_of(copies), strict=True):
                self._pair(result, copy)
        elif name == "__setitem__":
            function(*masked_args, **masked_kwargs)
        return whole

    def _pair(self, whole: Any, masked: Any) -> None:
        if isinstance(whole, Tensor):
            self._copies[id(whole)] = whole, masked

    def _masked(self, argument: Any) -> Any:
        """Return an argument with every tensor replaced by its masked copy, if it has one."""
        if isinstance(argument, tuple | list):
            return type(argument)([self._masked(item) for item in argument])
        return self._copies.get(id(argument), (None, argument))[1]


def reads_by_products(cell: Cell) -> bool:
    """Return whether the next state of ``cell`` depends on a matrix product that reads its first state."""
    like = cell.like
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        constants, prepared = cell(like.new_zeros(1, 1, cell.input_size))
        state = map_state(lambda tensor: tensor.clone(), cell.initial_state(1))
        first = tensors_of(state)[0]
        if not first.is_floating_point():
            return False
        first.requires_grad_()
        with MaskedReads(first, torch.ones_like(first)) as reads:
            _, new = cell.step(constants, map_state(lambda tensor: tensor[0], prepared), state)
        results = [tensor.sum() for tensor in tensors_of(new) if tensor.requires_grad]
        products = [product for product in reads.products if product.requires_grad]
        if not results or not products:
            return False
        found = torch.autograd.grad(torch.stack(results).sum(), products, allow_unused=True)
    return any(gradient is not None for gradient in found)
