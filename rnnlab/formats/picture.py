"""Read picture files with Pillow."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rnnlab.interface import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def pillow() -> Any:
    """The module ``PIL.Image``.

    Raises:
        InputError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InputError("picture files need Pillow, which is not installed; pip install 'rnnlab[plots]'") from None
    return Image


def opened(content: bytes, name: str) -> Image:
    """The picture in a file's ``content``; ``name`` is the file's name for errors.

    Raises:
        InputError: the content is not a picture.
    """
    library = pillow()
    try:
        picture = library.open(io.BytesIO(content))
        picture.load()
    except library.UnidentifiedImageError:
        raise InputError(f"{name} is not a picture; give a PNG, JPEG or GIF file") from None
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise InputError(
            f"{name} cannot be read as a picture ({error}); give an intact PNG, JPEG or GIF file"
        ) from error
    return picture


def rgb(picture: Image, height: int, width: int) -> Tensor:
    """A picture on a white background, resized by averaging: uint8 ``[3, height, width]``."""
    library = pillow()
    opaque = picture.convert("RGBA")
    white = library.new("RGBA", opaque.size, "white")
    plain = library.alpha_composite(white, opaque).convert("RGB")
    if plain.size != (width, height):
        plain = plain.resize((width, height), library.Resampling.BOX)
    return torch.from_numpy(np.array(plain)).permute(2, 0, 1)


def frames_of(path: str, height: int, width: int, most: int) -> Tensor:
    """The picture or the frames of an animated file, uint8 ``[S, 3, height, width]``, at most ``most`` frames.

    Raises:
        InputError: the file does not exist, or is not a picture.
    """
    picture = _picture(path)
    count = getattr(picture, "n_frames", 1)
    if most > 1 and count > most:
        raise InputError(f"{path} has {count} frames, at most {most} are possible; give a shorter video")
    frames = []
    for number in range(min(count, most)):
        try:
            picture.seek(number)
            frames.append(rgb(picture, height, width))
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise InputError(f"{path}, frame {number + 1} cannot be read ({error}); give an intact file") from error
    return torch.stack(frames)


def _picture(path: str) -> Image:
    """The picture in the file that a prompt names."""
    file = Path(path).expanduser()
    if not os.path.isfile(file):  # False for a name that is too long, where Path.is_file raises an OSError
        raise InputError(f"prompt={path!r} is not a file; give the path of a picture, such as picture.png")
    return opened(file.read_bytes(), str(file))


def grey(path: str, height: int, width: int) -> Tensor:
    """The picture in a file as shades of grey on white: uint8 ``[height, width]``.

    Raises:
        InputError: the file does not exist, is not a picture, or has another size.
    """
    picture = _picture(path)
    if picture.size != (width, height):
        raise InputError(
            f"prompt={path!r} has {picture.width}x{picture.height} pixels; give a picture of {width}x{height} pixels"
        )
    return rgb(picture, height, width).float().mean(0).round().to(torch.uint8)
