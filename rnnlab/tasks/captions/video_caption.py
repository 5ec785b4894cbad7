"""Video captioning: look at the frames of a video, write what happens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partialmethod

import torch

from rnnlab.interface import Images
from rnnlab.tasks.captions import _moving
from rnnlab.tasks.captions.base import Captioning, Example


class VideoCaption(Captioning):
    """Describe a generated video of 8 to 16 frames of 24 x 24 pixels.

    A shape does one to three things, one after the other, such as "a red circle moves left then up" or "a blue square
    grows then moves down". The video determines its caption: an action changes the shape for at least 3 frames, and no
    action follows itself.

    A tenth of the captions are in the validation set and a tenth in the test set, as a hash of the caption decides.

    Args:
        seed, data_root, vocabulary, min_count, batch_size, beam_size, longest_output, held_out, eval_size, pool: see
            `Captioning`.
    """

    __init__ = partialmethod(Captioning.__init__, batch_size=32)
    source = Images((3, _moving.SIDE, _moving.SIDE))

    def generated(self, split: str, generator: torch.Generator) -> Iterator[Example] | None:  # noqa: D102
        return _moving.examples(split, self.held_out, generator)
