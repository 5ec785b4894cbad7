"""Samples of captions: pictures, words and attention weights."""

from __future__ import annotations

from torch import Tensor

from rnnlab.interface import Sample
from rnnlab.report.pictures import animation, filmstrip, overlays


def samples(
    videos: list[Tensor], weights: list[Tensor | None], words: list[list[str]], titles: list[str]
) -> list[Sample]:
    """A PNG of pictures, or of the first video with a GIF of all videos; nothing that needs a missing package.

    Args:
        videos: uint8 ``[S, 3, H, W]`` each.
        weights: attention weights of each caption, ``[T, S]`` for videos or ``[T, h, w]`` for pictures; None without
            attention.
        words: the T words of each caption.
        titles: text of each picture or video.
    """
    frames = [video.permute(0, 2, 3, 1).numpy() for video in videos]
    looked = [None if one is None else one.numpy() for one in weights]
    if any(len(one) > 1 for one in frames):
        found = {
            ".png": filmstrip(frames[0], looked[0], words[0], titles[0]),
            ".gif": animation(frames, titles),
        }
    else:
        found = {".png": overlays([one[0] for one in frames], looked, words, titles)}
    return [Sample(content, suffix) for suffix, content in found.items() if content is not None]
