"""Weights of the golden models: made from each tensor's name, so that none need be stored."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def seeded_tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform values; a matrix keeps the scale of what it multiplies, norms lie about 1."""
    unit = np.random.default_rng(zlib.crc32(name.encode())).random(shape) * 2 - 1
    if len(shape) == 2:
        unit *= 2.5 / shape[1] ** 0.5
    elif "norm" in name:
        unit = 1 + unit / 2
    return unit.astype(np.float32)
