"""What the tests of comparisons share: a working directory of their own."""

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory; paths in the tests are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
