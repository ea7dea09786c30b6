"""The real GGUF files of the tests, as `membound pull` leaves them in the cache."""

import os
from pathlib import Path

import pytest

from membound.models.packaged import PACKAGED
from membound.models.pull import models_folder


def real_model(name: str) -> Path:
    """Path of a catalog model. One that is not there skips the test, unless MEMBOUND_REQUIRE_MODELS is set.

    The smallest, which `make test` pulls, is never skipped.
    """
    path = models_folder() / PACKAGED[name].file
    if not path.exists():
        if name == "smollm2" or os.environ.get("MEMBOUND_REQUIRE_MODELS"):
            pytest.fail(f"{path} is missing: membound pull {name}")
        pytest.skip(f"{path} is not there")
    return path
