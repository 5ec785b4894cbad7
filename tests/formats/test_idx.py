"""IDX files: arrays of bytes with any number of axes, and what is refused."""

import gzip

import numpy as np
import pytest

from rnnlab.formats import idx
from rnnlab.interface import InputError


def content_of(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("packed", [False, True])
def test_an_array_is_read_as_it_was_written(tmp_path, shape, packed):
    array = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    path = tmp_path / ("array.gz" if packed else "array")
    path.write_bytes(gzip.compress(content_of(array)) if packed else content_of(array))
    np.testing.assert_array_equal(idx.read(path, len(shape)).numpy(), array)


def test_damaged_files_are_refused(tmp_path):
    whole = content_of(np.zeros((2, 3), np.uint8))
    plain, packed = tmp_path / "array", tmp_path / "array.gz"

    def refused(path, content, says, axes=2):
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            idx.read(path, axes)

    for content in (b"", whole[:7], whole[:-1], whole + b"0"):
        refused(plain, content, "array cannot be read")
    refused(plain, whole[:2] + b"\x0d" + whole[3:], "is not an IDX file of bytes with 2 axes")
    refused(plain, whole, "array cannot be read", axes=3)
    for content in (whole, gzip.compress(whole)[:-9], gzip.compress(whole)[:12] + b"\xff" * 20):
        refused(packed, content, r"array\.gz cannot be read")
    with pytest.raises(InputError, match="cannot be read"):
        idx.read(tmp_path / "missing", 2)
