"""Emoji with their names: the pictures of Twemoji, from the npm package ``emoji-datasource-twitter``."""

from __future__ import annotations

import json

from rnnlab.data import PublicFile, locate, read_public
from rnnlab.formats.picture import opened, rgb
from rnnlab.tasks.captions._drawing import split_of
from rnnlab.tasks.captions.base import Example
from rnnlab.vocabulary import tidy

SIDE, BORDER = 32, 1
_PACKAGE = "https://cdn.jsdelivr.net/npm/emoji-datasource-twitter@16.0.0"
NAMES = PublicFile(
    path="emoji/emoji.json",
    url=f"{_PACKAGE}/emoji.json",
    sha256="1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
)
SHEET = PublicFile(
    path="emoji/sheet_twitter_32_indexed_256.png",
    url=f"{_PACKAGE}/img/twitter/sheets-256/32.png",
    sha256="179a0b9e7e4c537f167f11e17be3ebbbec232b7ab54b43590ffe9bef87283b7a",
)


def read(root: str) -> dict[str, list[Example]]:
    """All emoji with their names in lower case; emoji of one name, such as those of all skin tones, are in one split.

    Args:
        root: directory of the public data sets.

    Raises:
        InputError: a file is missing or damaged.
    """
    rows = json.loads(read_public(NAMES, root))
    path = locate(SHEET, root)
    sheet = opened(path.read_bytes(), str(path)).convert("RGBA")
    found: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    for row in rows:
        caption = tidy(row["name"]).lower()
        for one in (row, *row.get("skin_variations", {}).values()):
            if one["has_img_twitter"]:
                x, y = (BORDER + (SIDE + 2 * BORDER) * one[f"sheet_{axis}"] for axis in "xy")
                picture = rgb(sheet.crop((x, y, x + SIDE, y + SIDE)), SIDE, SIDE)
                found[split_of(caption)].append(Example(picture.unsqueeze(0), caption))
    return found
