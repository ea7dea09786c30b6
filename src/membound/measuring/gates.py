"""Conditions under which a run fails a build: `ttft.p99>1.5`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from membound.errors import InputError

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Gate:
    """`path` leads into the JSON of a run; the `_s` of seconds may be left out."""

    path: tuple[str, ...]
    comparison: str
    limit: float

    def failure(self, result: Mapping[str, Any]) -> str | None:
        """What is wrong, or None. A figure that the run does not have is wrong too."""
        name = ".".join(self.path)
        value = self._value(result)
        if value is None:
            return f"{name} has no value"
        if COMPARISONS[self.comparison](value, self.limit):
            return f"{name} is {value:.6g}, {self.comparison} {self.limit:g}"
        return None

    def _value(self, result: Mapping[str, Any]) -> float | None:
        found: Any = result
        for step in self.path:
            if not isinstance(found, Mapping):
                raise InputError(self._unknown(result))
            key = step if step in found else f"{step}_s"
            if key not in found:
                raise InputError(self._unknown(result))
            found = found[key]
            if found is None:
                return None
        try:
            return float(found)
        except (TypeError, ValueError):
            raise InputError(self._unknown(result)) from None

    def _unknown(self, result: Mapping[str, Any]) -> str:
        single = [key for key, value in result.items() if isinstance(value, int | float)]
        several = [f"{key.removesuffix('_s')}.p99" for key, value in result.items() if _is_summary(value)]
        return f"--fail-if: no figure {'.'.join(self.path)}; there are {', '.join(several + single)}"


def _is_summary(value: Any) -> bool:
    return isinstance(value, Mapping) and "p99" in value


def parse_gate(text: str) -> Gate:
    """InputError where it is none."""
    found = re.fullmatch(r"\s*([a-z_][\w.]*)\s*(>=|<=|>|<)\s*([\d.]+(?:e[+-]?\d+)?)\s*", text)
    try:
        if found:
            return Gate(tuple(found[1].split(".")), found[2], float(found[3]))
    except ValueError:
        pass
    raise InputError(f"--fail-if {text}: give a condition such as 'ttft.p99>1.5' or 'errors>0'")
