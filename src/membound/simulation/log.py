"""The requests that ended, as numbers: a million of them need little memory."""

from __future__ import annotations

from array import array
from itertools import chain
from operator import attrgetter
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from membound.serving.request import Request

Vector: TypeAlias = NDArray[np.float64]
COLUMNS: Final = ("sent", "admitted", "first", "last", "prompt", "output")
FULL: Final = 256  # requests
_NUMBERS: Final = attrgetter(
    "arrival", "admitted", "first_token", "last_token", "prompt_length", "output_length"
)


class Log:
    """The requests that ended, six numbers each, in order of their ends."""

    def __init__(self) -> None:
        self._numbers = array("d")
        self._newest: list[Request] = []  # whose numbers are not yet among them: these take many at once

    def __len__(self) -> int:
        return len(self._numbers) // len(COLUMNS) + len(self._newest)

    def add(self, request: Request) -> None:
        """A request that has ended."""
        self._newest.append(request)
        if len(self._newest) >= FULL:
            self._take_in()

    def _take_in(self) -> None:
        self._numbers.extend(chain.from_iterable(map(_NUMBERS, self._newest)))
        self._newest.clear()

    def column(self, name: str) -> Vector:
        """One of COLUMNS, of all requests."""
        self._take_in()
        numbers = np.frombuffer(self._numbers).reshape(-1, len(COLUMNS))
        return numbers[:, COLUMNS.index(name)].copy()
