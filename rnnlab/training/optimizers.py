"""Built-in optimizers. To add an optimizer, add a function here and a YAML file in ``conf/optimizer``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 4e-3,
    betas: list[float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101); equal to Adam if ``weight_decay=0``."""
    # One kernel for each tensor: on a CPU three times as fast as a loop over the operations.
    return torch.optim.AdamW(parameters, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=True)


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 4e-3,
    betas: list[float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980); its weight decay is added to the gradient, unlike AdamW's."""
    return torch.optim.Adam(parameters, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=True)


def nadam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 2e-3,
    betas: list[float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam with Nesterov momentum (Dozat, 2016)."""
    return torch.optim.NAdam(parameters, lr=lr, betas=tuple(betas), weight_decay=weight_decay)


def radam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 4e-3,
    betas: list[float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Rectified Adam (Liu et al., 2020, arXiv:1908.03265), which needs no warm-up."""
    return torch.optim.RAdam(parameters, lr=lr, betas=tuple(betas), weight_decay=weight_decay)


def adagrad(
    parameters: Iterable[nn.Parameter], *, lr: float = 1e-2, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Adagrad (Duchi, Hazan and Singer, 2011)."""
    return torch.optim.Adagrad(parameters, lr=lr, weight_decay=weight_decay)


def sgd(
    parameters: Iterable[nn.Parameter], *, lr: float = 1.0, momentum: float = 0.0, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with optional momentum."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


def rmsprop(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 2e-3,
    alpha: float = 0.95,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop (Tieleman and Hinton, 2012) with the defaults of char-rnn."""
    return torch.optim.RMSprop(parameters, lr=lr, alpha=alpha, momentum=momentum, weight_decay=weight_decay)
