"""What tests of real programs need."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    with tempfile.TemporaryDirectory(prefix="oneslice-") as name:
        yield Path(name)
