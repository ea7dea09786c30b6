"""The options of membound bench, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from membound.commands.output import parse_counts
from membound.commands.predict import Target
from membound.errors import InputError
from membound.measuring.sender import Asking
from membound.workloads.offered import Offered


def loads(
    rate: str | None, concurrency: str | None, ramp: str | None, trace: str | None, **shared: Any
) -> list[Offered]:
    """The points of a sweep: several rates or several numbers of users; else one load."""
    if rate is not None and concurrency is None and ramp is None and trace is None:
        return [Offered(rate=one, **shared) for one in _rates(rate)]
    if concurrency is not None and rate is None and ramp is None and trace is None:
        return [Offered(concurrency=users, **shared) for users in parse_counts(concurrency, "--concurrency")]
    rising = parse_ramp(ramp) if ramp is not None else None
    first = _rates(rate)[0] if rate is not None else None
    users = parse_counts(concurrency, "--concurrency")[0] if concurrency is not None else None
    return [Offered(first, rising, users, trace, **shared)]


def asking(
    model: str, chat: bool, ignore_eos: bool, temperature: float, timeout_s: float, extra: str | None
) -> Asking:
    """How requests are put; `extra` is a JSON object."""
    fields: Any = {}
    if extra is not None:
        try:
            fields = json.loads(extra)
        except ValueError as error:
            raise InputError(f"--extra-body is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InputError("--extra-body must be a JSON object, such as '{\"top_k\": 5}'")
    if not timeout_s > 0:
        raise InputError(f"--timeout must be above 0 seconds, it is {timeout_s:g}")
    return Asking(model, chat, ignore_eos, temperature, timeout_s, fields)


def question_target(
    model: str | None,
    on: str | None,
    tp: int | None,
    engine: str,
    weights: str | None,
    kv: str | None,
    calibration: Path | None = None,
) -> Target | None:
    """What to predict; None where nothing is named. Unknown names are refused before the load."""
    if model is None and on is None:
        return None
    if model is None or on is None:
        raise InputError("a prediction needs both --model and --on")
    target = Target(model, on, tp, engine, weights, kv, calibration)
    target.check()
    return target


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise InputError(f"--rate {text}: give requests per second above 0, such as 4 or 1,2,4")
    return rates


def parse_ramp(text: str) -> tuple[float, float, float]:
    try:
        first, last, seconds = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--ramp {text}: give FIRST,LAST,SECONDS, such as 1,20,60") from None
    return first, last, seconds
