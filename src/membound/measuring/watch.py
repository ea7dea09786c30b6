"""A stopwatch for calls within calls."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Watch:
    """Seconds by part; what an inner part takes is not counted to the outer one."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._read = read
        self._inner = 0.0  # seconds of the parts within the one that runs

    def call(self, part: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        outer, self._inner = self._inner, 0.0
        began = self._read()
        try:
            return function(*args, **kwargs)
        finally:
            spent = self._read() - began
            self.seconds[part] += spent - self._inner
            self._inner = outer + spent


class Timed:
    """Stands in for an object; calls of the named methods are counted to their parts."""

    def __init__(self, watch: Watch, original: object, parts: Mapping[str, str]) -> None:
        self._original = original
        for method, part in parts.items():
            setattr(self, method, partial(watch.call, part, getattr(original, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
