"""Many small trainings: keep each from walking through every object that was imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def imports_are_kept() -> Iterator[None]:
    """Take what exists out of the garbage collector's sight; a Trainer collects at its start, which takes longer than a tiny training."""
    gc.freeze()
    yield
    gc.unfreeze()
