"""Kept columns as figures: rates, ratios within rounds, shares of the roof; and what was asked of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from results import ENGINES, Column

TOKENS = {"prefill": 512, "b1": 1, "b8": 8, "b32": 32}  # that a timed step computes
OURS = "membound"


@dataclass(frozen=True)
class Target:
    """The least that is asked of a column: a ratio to a peer, or a share of the roof."""

    column: str
    of: str  # "llama.cpp", "best peer", "roof"
    least: float


def targets(roof: float, llama: float, b8: float, b32: float, prefill: float) -> tuple[Target, ...]:
    return (
        Target("b1", "roof", roof),
        Target("b1", "llama.cpp", llama),
        Target("b8", "best peer", b8),
        Target("b32", "best peer", b32),
        Target("prefill", "best peer", prefill),
    )


TARGETS = {
    "smollm2": targets(0.85, 2.3, 3.0, 2.0, 1.3),
    "gemma3": targets(0.80, 1.5, 2.5, 2.0, 1.3),
    "qwen0.5b": targets(0.80, 1.5, 2.5, 2.0, 1.3),
    "qwen1.5b": targets(0.80, 1.05, 2.3, 1.9, 1.3),
}
SERVING_LEAST = 2.0  # times the best peer's output tokens per second, at lower TTFT and TPOT


def measured(column: Column) -> dict[str, dict[str, Any]]:
    """The engines that have figures."""
    return {name: figures for name, figures in column["engines"].items() if "refused" not in figures}


def refusals(column: Column) -> dict[str, str]:
    return {name: answer["refused"] for name, answer in column["engines"].items() if "refused" in answer}


def median(column: Column, engine: str, figure: str) -> float:
    values: list[float] = column["engines"][engine][figure]
    return statistics.median(values)


def rate(column: Column, name: str, engine: str) -> float:
    """Tokens per second of a timed column."""
    return TOKENS[name] / median(column, engine, "seconds")


def best_peer(
    column: Column, figure: str, better: Callable[[Sequence[tuple[float, str]]], tuple[float, str]] = min
) -> str | None:
    """The peer with the best median; None if none has one."""
    peers = [(median(column, name, figure), name) for name in measured(column) if name != OURS]
    return better(peers)[1] if peers else None


def lead(column: Column, peer: str, figure: str = "seconds") -> float:
    """Median over the rounds of the peer's seconds over ours: above 1 we are quicker."""
    ours: list[float] = column["engines"][OURS][figure]
    theirs: list[float] = column["engines"][peer][figure]
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=False))


def share_of_roof(column: Column) -> float:
    """Median over the rounds of the least time by the roofs probed beside, over the time it took."""
    limits: list[float] = column["engines"][OURS]["limit_s"]
    took: list[float] = column["engines"][OURS]["seconds"]
    return statistics.median(limit / seconds for limit, seconds in zip(limits, took, strict=True))


def attained(target: Target, column: Column) -> float | None:
    """What the target's figure came to; None where one of the two has none, or a peer was left out."""
    if OURS not in measured(column):
        return None
    if target.of == "roof":
        return share_of_roof(column)
    if target.of == "best peer" and not column["engines"].keys() >= set(ENGINES):
        return None  # the best may be one that was not run
    peer = best_peer(column, "seconds") if target.of == "best peer" else target.of
    return lead(column, peer) if peer in measured(column) else None
