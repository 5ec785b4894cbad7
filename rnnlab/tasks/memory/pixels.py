"""Image classification, one pixel or row per step."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.tasks import _image_sets
from rnnlab.tasks._image_sets import ADDRESSES, SETS, Pictures
from rnnlab.tasks._predicting import Classes, Predicts, classes_of
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Labelling, check_least


class Pixels(Predicts, Finite, Labelling):
    """Classify an image after its last pixel (Le, Jaitly and Hinton, 2015, arXiv:1504.00941).

    Pixels are read row by row or, if ``permuted``, in a random order that is the same for all images and runs. An
    image of 2x2 pixels of class 7:

        inputs   0.0  0.9  0.4  0.0
        targets   -    -    -    7

    ``digits`` has 1,797 images of 8x8 and is part of scikit-learn; ``mnist_5k`` has 5,000 images of 28x28. In both, 15%
    of each class are used for validation and 15% for the test. ``mnist`` and ``fashion_mnist`` have their own 10,000
    test images; the last 5,000 training images are used for validation. Chance is 1/10.

    Args:
        seed: seed of the order of the training images.
        data_root: directory of the public data sets.
        images: data set: ``digits``, ``mnist_5k``, ``mnist`` or ``fashion_mnist``.
        permuted: whether the pixels are in a fixed random order.
        by: ``pixel`` for one pixel per step, or ``row`` for one row of pixels per step.
        batch_size: number of images per batch.

    Raises:
        InputError: the data set is unknown, its files are missing or damaged, or an option is not valid.
    """

    length_metric = None

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        images: str = "digits",
        permuted: bool = False,
        by: str = "pixel",
        batch_size: int = 64,
    ) -> None:
        super().__init__(seed, data_root)
        for name, value, choices in (("images", images, SETS), ("by", by, ("pixel", "row"))):
            if value not in choices:
                raise InputError(f"task.{name}={value!r} must be one of {', '.join(choices)}")
        check_least(1, batch_size=batch_size)
        self.images, self.permuted, self.by, self.batch_size = images, permuted, by, batch_size
        self.side = _image_sets.side_of(images)
        self.input = Vectors(self.side if by == "row" else 1)
        self.output_size = 10

    @cached_property
    def parts(self) -> dict[str, Pictures]:
        """The images of each split."""
        if self.images in ADDRESSES:
            return _image_sets.published(self.images, self.data_root)
        whole = _image_sets.digits() if self.images == "digits" else _image_sets.mnist_5k(self.data_root)
        return _image_sets.stratified(whole)

    @cached_property
    def order(self) -> Tensor:
        """The order of the pixels, int64 ``[side * side]``."""
        count = self.side**2
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        return torch.randperm(count, generator=generator) if self.permuted else torch.arange(count)

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.parts[split].labels)

    def batch(self, split: str, step: int) -> Batch:
        """Images as inputs ``[T, B, 1]``, or ``[T, B, side]`` with one row per step."""
        pictures, chosen = self.parts[split], self.chosen(split, step)
        inputs = self._steps_of(pictures.pixels[chosen]).transpose(0, 1).contiguous()
        targets = torch.full(inputs.shape[:2], IGNORE)
        targets[-1] = pictures.labels[chosen]
        return Batch(inputs, targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``most frequent``: the most frequent training class."""
        common = torch.bincount(self.parts["train"].labels).argmax()
        share = float((self.parts[split].labels == common).double().mean())
        return {**super().baselines(split), "most frequent": {"accuracy": share}}

    def _steps_of(self, pixels: Tensor) -> Tensor:
        """Images ``[N, side, side]`` as sequences ``[N, T, input.size]``."""
        return pixels.flatten(1)[:, self.order].reshape(len(pixels), -1, self.input.size)

    def encode(self, values: Any) -> list[Tensor]:
        """One image ``[side, side]`` or several ``[N, side, side]``, with values between 0 and 1."""
        try:
            pixels = torch.from_numpy(np.array(values, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InputError(f"the images are not an array of numbers ({error})") from error
        if pixels.ndim == 2:
            pixels = pixels.unsqueeze(0)
        if pixels.shape[1:] != (self.side, self.side):
            raise InputError(f"the images have the shape {list(pixels.shape)}; give [N, {self.side}, {self.side}]")
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise InputError("the images have values outside 0 to 1; divide 8-bit pixels by 255")
        return list(self._steps_of(pixels))

    def decode(self, outputs: Tensor, values: Any) -> Classes:
        """The class of each image."""
        return classes_of(outputs, [str(label) for label in range(10)])

    def data_digest(self) -> str:
        """SHA-256 of the pixel order and of all images and classes, in order."""
        digest = hashlib.sha256(self.order.numpy().tobytes())
        for pictures in self.parts.values():
            for tensor in pictures:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()
