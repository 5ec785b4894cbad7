"""Image captioning: look at a picture, write what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rnnlab.interface import Images, InputError
from rnnlab.tasks.captions import _emoji, _nlvr, _shapes
from rnnlab.tasks.captions.base import Captioning, Example

SHAPES = {
    "shapes": (3, _shapes.SIDE, _shapes.SIDE),
    "nlvr": (3, _nlvr.HEIGHT, _nlvr.WIDTH),
    "emoji": (3, _emoji.SIDE, _emoji.SIDE),
}
"""Channels, height and width of the pictures of each corpus."""


class ImageCaption(Captioning):
    """Describe a picture.

    The corpora:

    - ``shapes``: two or three shapes, generated, 32 x 32 pixels, such as "a small red circle above a large blue square"
      or "a large red circle, a small blue cross and a small white square from left to right". The shapes are named from
      left to right or from top to bottom, so the picture determines its caption. Positions and tints vary.
    - ``nlvr``: pictures of NLVR (Suhr et al., 2017), 25 x 100 pixels, a quarter of the original size, with a sentence
      that people wrote and that is true of the picture. Many sentences are true of a picture, so exact match is low;
      compare BLEU with the baselines. The files dev, test and hidden are pooled and split by sentence; no sentence and
      no picture is in two splits.
    - ``emoji``: the emoji of Twemoji, 32 x 32 pixels on white, with their names. All emoji of one name are in one
      split: a model has to compose the name of an emoji that it has not seen.

    A tenth of the captions are in the validation set and a tenth in the test set, as a hash of the caption decides.

    Args:
        seed, data_root, vocabulary, min_count, batch_size, beam_size, longest_output, held_out, eval_size, pool: see
            `Captioning`; the last three are for ``shapes``.
        corpus: ``shapes``, ``nlvr`` or ``emoji``.

    Raises:
        InputError: the files of the corpus cannot be read.
    """

    def __init__(self, seed: int = 0, data_root: str = "data", *, corpus: str = "shapes", **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if corpus not in SHAPES:
            raise InputError(f"task.corpus={corpus!r} is not one of {', '.join(SHAPES)}")
        self.corpus = corpus
        self.source = Images(SHAPES[corpus], single=True)

    def read(self) -> dict[str, list[Example]]:  # noqa: D102
        return (_nlvr if self.corpus == "nlvr" else _emoji).read(self.data_root)

    def generated(self, split: str, generator: torch.Generator) -> Iterator[Example] | None:  # noqa: D102
        return _shapes.examples(split, self.held_out, generator) if self.corpus == "shapes" else None
