"""Image generation, one pixel or one row per step."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rnnlab.formats import picture, png
from rnnlab.generation import Stream
from rnnlab.heads import Categoricals
from rnnlab.interface import Batch, InputError, Metric, Sample, Vectors
from rnnlab.report.pictures import grid
from rnnlab.tasks import _image_sets
from rnnlab.tasks.base import Finite, check_least

COLUMNS = 8
"""Columns of a grid, which has at most as many rows: samples; or an original, its upper half and six completions."""
UNKNOWN = 128
"""Shade of grey of the half of an image that the model completes."""


class PixelGeneration(Finite):
    """Generate images pixel by pixel or row by row, each from those before it.

    The values of the pixels are rounded down to ``levels`` equal steps; with two levels, a pixel is 1 if it is at least
    half as bright as the brightest. A binary image of 2x2 pixels whose upper row is 0 1 and whose lower row is 1 0:

        by=pixel   inputs   START  0    1    1
                   targets  0      1    1    0
        by=row     inputs   START  0 1
                   targets  0 1    1 0

    Each value is given as a one-hot vector, and START is a vector of zeros. With ``position``, the input also has the
    row and, by pixel, the column of the target, one-hot. The loss is an exact negative log-likelihood by the chain
    rule. By pixel, the distribution of a pixel depends on all pixels before it, as in the NADE (Larochelle and Murray,
    2011) and the PixelRNN (van den Oord et al., 2016, arXiv:1601.06759). By row, the pixels of a row are independent
    given the rows above it, which is a weaker model.

    Image sets: ``digits`` has 1,797 images of 8x8 with values from 0 to 16 and is part of scikit-learn; 15% of each
    class are used for validation and 15% for the test, as in the task ``pixels``. ``mnist_5k`` has 5,000 training
    images of MNIST, of which 10% of each class are used for validation; the test set is that of MNIST, 10,000 images.
    ``mnist`` and ``fashion_mnist`` are the full sets; the last 5,000 training images are used for validation.

    Metrics: ``nll`` in nats per image, and ``bpd`` in bits per pixel. Baselines: ``chance`` has equally probable
    levels; ``independent`` has the frequencies of the levels of each pixel in the training set, plus 1 (Laplace).

    Args:
        seed: seed of the order of the training images.
        data_root: directory of the public data sets.
        images: image set: ``digits``, ``mnist_5k``, ``mnist`` or ``fashion_mnist``.
        levels: number of values of a pixel, from 2 to 256.
        by: ``pixel`` for one pixel per step, or ``row`` for one row of pixels per step.
        position: whether the input has the position of the target.
        batch_size: number of images per batch.

    Raises:
        InputError: the image set is unknown, its files are missing or damaged, or an option is not valid.
    """

    metrics = {"loss": Metric("nats per pixel"), "nll": Metric("nats per image"), "bpd": Metric("bits per dimension")}
    usage = "generate run={run} out=images"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        images: str = "digits",
        levels: int = 2,
        by: str = "pixel",
        position: bool = True,
        batch_size: int = 32,
    ) -> None:
        super().__init__(seed, data_root)
        for name, value, choices in (("images", images, _image_sets.SETS), ("by", by, ("pixel", "row"))):
            if value not in choices:
                raise InputError(f"task.{name}={value!r} must be one of {', '.join(choices)}")
        if not 2 <= levels <= 256:
            raise InputError(f"task.levels={levels} must be from 2 to 256")
        check_least(1, batch_size=batch_size)
        self.images, self.levels, self.by, self.position = images, levels, by, position
        self.batch_size = batch_size
        self.side = _image_sets.side_of(images)

    @property
    def width(self) -> int:
        """Number of pixels per step."""
        return self.side if self.by == "row" else 1

    @property
    def steps(self) -> int:
        """Number of steps of an image."""
        return self.side**2 // self.width

    @property
    def head(self) -> Categoricals:  # noqa: D102
        return Categoricals(self.width, self.levels)

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(self.head.features + self.places.shape[1])

    @cached_property
    def places(self) -> Tensor:
        """The position of the target of each step: float ``[T, P]``, with P = 0 without positions."""
        if not self.position:
            return torch.zeros(self.steps, 0)
        rows, columns = torch.arange(self.side**2).view(self.steps, self.width)[:, 0], torch.eye(self.side)
        found = [columns[rows // self.side], columns[rows % self.side]]
        return torch.cat(found[: 2 if self.by == "pixel" else 1], 1)

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """The levels of the pixels of each split, uint8 ``[N, side * side]``."""
        if self.images in _image_sets.ADDRESSES:
            found = _image_sets.published(self.images, self.data_root)
        elif self.images == "digits":
            found = _image_sets.stratified(_image_sets.digits())
        else:
            found = _image_sets.stratified(_image_sets.mnist_5k(self.data_root), valid=0.1, test=0)
            found["test"] = _image_sets.read_idx(Path(self.data_root).expanduser() / "mnist", "t10k")
        return {split: self.quantised(pictures.pixels) for split, pictures in found.items()}

    def quantised(self, pixels: Tensor) -> Tensor:
        """The levels, uint8 ``[N, side * side]``, of pixels ``[N, side, side]`` between 0 and 1."""
        return (pixels * self.levels).clamp_max(self.levels - 1).to(torch.uint8).flatten(1)

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.parts[split])

    def batch(self, split: str, step: int) -> Batch:
        """The inputs ``[T, B, F]`` of images, and the levels ``[T, B, width]`` as targets."""
        return self.encoded(self.parts[split][self.chosen(split, step)])

    def encoded(self, images: Tensor) -> Batch:
        """A batch of images, given as levels ``[B, side * side]``."""
        targets = images.long().unflatten(1, (self.steps, self.width)).transpose(0, 1).contiguous()
        known = one_hot(targets, self.levels).flatten(2).float()
        previous = torch.cat([torch.zeros_like(known[:1]), known[:-1]])
        places = self.places.unsqueeze(1).expand(-1, len(images), -1)
        return Batch(torch.cat([previous, places], 2), targets)

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """Add nats per image and bits per pixel."""
        return means | {"nll": means["loss"] * self.side**2, "bpd": means["loss"] / log(2)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance`` and ``independent``, see the class."""
        known, asked = self.counts("train") + 1, self.counts(split)
        nats = -(known / known.sum(1, keepdim=True)).log()
        losses = {"chance": log(self.levels), "independent": float((asked * nats).sum() / asked.sum())}
        return {name: self.derive({"loss": loss}) for name, loss in losses.items()}

    def counts(self, split: str) -> Tensor:
        """How often each pixel has each level in a split: float64 ``[side * side, levels]``."""
        return torch.stack([(self.parts[split] == level).sum(0) for level in range(self.levels)], 1).double()

    def continued(
        self, model: nn.Module, images: Tensor, given: int, temperature: float, top_k: int, seed: int
    ) -> Tensor:
        """Images whose first ``given`` steps are those of ``images``; the model draws the others.

        Args:
            model: model in evaluation mode.
            images: levels, uint8 ``[N, side * side]``.
            given: number of steps, from 0 to the number of steps of an image.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: see `rnnlab.heads.Head.draw`.
            seed: seed of the first image; each further image has the next seed.

        Returns:
            levels, uint8 ``[N, side * side]``.
        """
        inputs, done = self.encoded(images).inputs, images.clone()
        steps = done.unflatten(1, (self.steps, self.width))  # a view
        state = model.begin(batch_size=len(images))
        seeds = [(seed + number) % 2**64 for number in range(len(images))]  # the largest seed of torch is 2**64 - 1
        stream = Stream(model, self.head, state, temperature=temperature, top_k=top_k, seeds=seeds)
        stream.read(inputs[: given + 1])
        for step in range(given, self.steps):
            drawn = stream.draw()
            steps[:, step] = drawn.unflatten(1, (self.width, self.levels)).argmax(2)
            if step + 1 < self.steps:
                places = self.places[step + 1].expand(len(images), -1)
                stream.read(torch.cat([drawn, places], 1).unsqueeze(0))
        return done

    def samples(self, model: nn.Module, count: int, *draws: Any) -> np.ndarray:
        """``count`` images that the model draws, as grey images; for ``draws``, see `continued`."""
        blank = torch.zeros(count, self.side**2, dtype=torch.uint8)
        return self.shades(self.continued(model, blank, 0, *draws))

    def completions(self, model: nn.Module, images: Tensor, *draws: Any) -> np.ndarray:
        """For each image `COLUMNS` grey images: the original, its upper half, and completions of the lower half."""
        rows = self.side // 2
        repeated = images.repeat_interleave(COLUMNS - 2, 0)
        completed = self.shades(self.continued(model, repeated, rows * self.side // self.width, *draws))
        originals = self.shades(images)[:, None]
        halves = originals.copy()
        halves[:, :, rows:] = UNKNOWN
        completed = completed.reshape(len(images), COLUMNS - 2, self.side, self.side)
        return np.concatenate([originals, halves, completed], 1).reshape(-1, self.side, self.side)

    def shades(self, images: Tensor) -> np.ndarray:
        """Levels ``[N, side * side]`` as grey images, uint8 ``[N, side, side]``."""
        return (images.long() * 255 // (self.levels - 1)).to(torch.uint8).view(-1, self.side, self.side).numpy()

    def picture(self, images: np.ndarray) -> Sample:
        """A PNG of grey images ``[N, side, side]`` in a grid."""
        return Sample(png.encode(grid(images, min(COLUMNS, len(images)), max(1, 64 // self.side))), ".png")

    def sample(self, model: nn.Module) -> Sample:
        """A grid of 16 samples, and of four images of the validation set with completions of their lower half."""
        draws = (1.0, 0, 0)
        completed = self.completions(model, self.spread("valid", 4), *draws)
        return self.picture(np.concatenate([self.samples(model, 2 * COLUMNS, *draws), completed]))

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """A grid of ``length`` samples, at most 64; with a prompt, completions of ``length`` images, at most eight.

        Args:
            model: model in evaluation mode.
            prompt: empty for samples. ``complete`` completes the lower half of images of the test set; ``valid 3 7``
                that of the images 3 and 7 of the validation set, counted from 0; a path that of the picture in a file,
                which has the size of the training images, bright on dark.
            length: number of images.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: see `rnnlab.heads.Head.draw`.
            seed: seed of the first image; each further image has the next seed.

        Raises:
            InputError: ``length`` is 0, or the prompt is not valid.
        """
        if length < 1:
            raise InputError(f"length={length} must be at least 1; it is the number of images")
        draws = (temperature, top_k, seed)
        if not prompt:
            return [self.picture(self.samples(model, min(length, COLUMNS**2), *draws))]
        return [self.picture(self.completions(model, self.asked(prompt, min(length, COLUMNS)), *draws))]

    def asked(self, prompt: str, most: int) -> Tensor:
        """The images of a prompt, at most ``most``, as levels, uint8 ``[N, side * side]``; see `generate`."""
        if not re.fullmatch(r"complete|(train|valid|test)( +\d+)*", prompt):
            if not os.path.isfile(os.path.expanduser(prompt)):
                raise InputError(
                    f"prompt={prompt!r} is not a file; give complete, a split and numbers of images such as "
                    "'valid 3 7', or the path of a picture"
                )
            return self.quantised(picture.grey(prompt, self.side, self.side).unsqueeze(0) / 255)
        split, *numbers = prompt.replace("complete", "test").split()
        if not numbers:
            return self.spread(split, most)
        chosen = [int(number) for number in numbers[:most]]
        if max(chosen) >= self.count(split):
            raise InputError(
                f"prompt={prompt!r} must have numbers below {self.count(split)}, the number of images of {split}"
            )
        return self.parts[split][chosen]

    def spread(self, split: str, count: int) -> Tensor:
        """Evenly spaced images of a split, at most ``count``: of several classes if the split is sorted by class."""
        images = self.parts[split]
        return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]

    def describe(self) -> list[str]:
        """The image set, its splits, and what the likelihood is conditioned on."""
        sizes = ", ".join(f"{split} {self.count(split):,}" for split in self.splits)
        given = "each pixel given all pixels before it"
        if self.by == "row":
            given = "each row given the rows above it, with independent pixels within a row"
        return [
            f"data: {self.images}, {self.side}x{self.side} pixels of {self.levels} levels: {sizes} images",
            f"likelihood: {given}",
        ]

    def data_digest(self) -> str:
        """SHA-256 of the levels of all images, in order."""
        digest = hashlib.sha256()
        for images in self.parts.values():
            digest.update(images.numpy().tobytes())
        return digest.hexdigest()
