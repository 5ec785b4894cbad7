"""PNG files, read with Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from rnnlab.formats import png


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 7)])
def test_pillow_reads_what_is_written(shape):
    picture = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    found = Image.open(io.BytesIO(png.encode(picture)))
    assert (found.format, found.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.array(found), picture)
