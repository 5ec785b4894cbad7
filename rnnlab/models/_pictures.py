"""A small convolutional network for images and the frames of videos."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError


class Pictures(nn.Module):
    """Convolutional layers that keep a grid of features, and a linear layer that summarises the grid.

    Each layer is a 3x3 convolution, 2x2 max pooling, a group normalisation (Wu and He, 2018, arXiv:1803.08494) and
    ReLU; pooling comes first because normalisation then has a quarter of the positions. Two channels with the
    coordinates of each pixel are added to the image (Liu et al., 2018, arXiv:1807.03247), so that features can depend
    on the position.

    Args:
        shape: channels, height and width of an image.
        channels: number of channels of each layer.
        features: size of the summary.

    channels: number of features at each position of the grid.
    grid: height and width of the grid.

    Raises:
        InputError: there is no layer, or the image is too small for the number of layers.
    """

    def __init__(self, shape: tuple[int, int, int], channels: list[int], features: int) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise InputError(f"model.channels={list(channels)} must be a list of at least one positive number")
        depth, height, width = shape
        self.grid = (height >> len(channels), width >> len(channels))
        if min(self.grid) < 1:
            raise InputError(
                f"images of {height} x {width} pixels are too small for the {len(channels)} layers of model.channels; "
                "give fewer layers"
            )
        layers: list[nn.Module] = []
        before = depth + 2
        for count in channels:
            groups = next(n for n in (8, 4, 2, 1) if count % n == 0)
            layers += [nn.Conv2d(before, count, 3, padding=1), nn.MaxPool2d(2), nn.GroupNorm(groups, count), nn.ReLU()]
            before = count
        self.layers = nn.Sequential(*layers)
        self.channels = before
        self.summarise = nn.Linear(before * self.grid[0] * self.grid[1], features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grids ``[N, positions, channels]`` and the summaries ``[N, features]`` of ``[N, C, H, W]``."""
        height, width = images.shape[-2:]
        like = {"device": images.device, "dtype": images.dtype}
        rows = torch.linspace(-1, 1, height, **like).view(1, 1, height, 1).expand(len(images), 1, height, width)
        columns = torch.linspace(-1, 1, width, **like).view(1, 1, 1, width).expand(len(images), 1, height, width)
        grid = self.layers(torch.cat([images, rows, columns], 1))
        return grid.flatten(2).transpose(1, 2), self.summarise(grid.flatten(1))
