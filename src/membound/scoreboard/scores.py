"""A board in numbers: errors, bias and interval coverage, by groups and overall."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from membound.costs.features import Vector
from membound.costs.intervals import interval
from membound.scoreboard.board import SCORED, Board, Scored

WITHIN = 0.15  # a median TPOT error up to which a group counts as met
UNSEEN = {"part": "leaving its GPU out", "model": "leaving its model out"}


def score(ratios: Sequence[float] | Vector) -> dict[str, float | int]:
    """Absolute errors of predictions as shares of what was measured, from measured / predicted."""
    if not len(ratios):
        return {"n": 0}
    off = 1 / np.asarray(ratios) - 1
    return {
        "n": len(off),
        "median_ape": float(np.median(np.abs(off))),
        "p90_ape": float(np.quantile(np.abs(off), 0.9)),
        "bias": float(np.median(off)),
    }


def group_rows(board: Board) -> list[dict[str, Any]]:
    """One entry for each source, GPU, model, engine and metric."""
    groups: dict[tuple[str, str, str, str], list[Scored]] = defaultdict(list)
    for one in board.scored:
        deployment = one.row.deployment
        groups[one.row.source, deployment.part, deployment.model, deployment.engine].append(one)
    found = []
    for (source, part, model, engine), members in sorted(groups.items()):
        for metric in SCORED:
            ratios = [ratio for one in members if (ratio := one.ratio(metric)) is not None]
            if ratios:
                found.append(
                    {
                        "source": source,
                        "gpu": part,
                        "model": model,
                        "engine": engine,
                        "metric": metric,
                        **score(ratios),
                        "coverage": 1.0,
                        "interval_coverage": _covered(board, members, metric),
                    }
                )
    return found


def native_rows(kept: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Entries of the same form of the native engine's runs beside their simulations, if there were any."""
    if kept is None:
        return []
    return [
        {
            "source": f"calibrate this, {kept['date']}",
            "gpu": kept["processor"],
            "model": kept["model"],
            "engine": "membound",
            "metric": metric,
            **score([test["measured"][name] / test["predicted"][name] for test in kept["tests"]]),
            "coverage": 1.0,
            "interval_coverage": None,
        }
        for metric, name in (("tpot", "tpot_s"), ("ttft", "ttft_p50_s"), ("throughput", "throughput"))
    ]


def _covered(board: Board, members: Sequence[Scored], metric: str) -> float | None:
    """The share of left-out measurements inside of their intervals."""
    inside = [
        ratio in interval(metric, board.regimes[one.row.line])
        for which in UNSEEN
        for one in members
        if (ratio := one.ratio(metric, which)) is not None
    ]
    return float(np.mean(inside)) if inside else None


def overall(board: Board) -> dict[str, Any]:
    """The whole board."""
    found: dict[str, Any] = {"n": len(board.scored), "coverage": board.coverage}
    for metric in SCORED:
        scored = score(board.ratios(metric))
        found[f"{metric}_median_ape"] = scored.get("median_ape")
        found[f"{metric}_p90_ape"] = scored.get("p90_ape")
        found[f"{metric}_bias"] = scored.get("bias")
    found["interval_coverage"] = _covered(board, board.scored, "tpot")
    for metric in SCORED:
        found[f"{metric}_interval_coverage"] = _covered(board, board.scored, metric)
    met, groups = groups_met(board)
    found["groups"] = groups
    found["groups_within_15_percent"] = met / groups if groups else None
    for which, words in (*UNSEEN.items(), ("calibrated", "")):
        key = "calibrated" if not words else f"left_out_{'gpu' if which == 'part' else which}"
        found[key] = {metric: score(board.ratios(metric, which)) for metric in SCORED}
    return found


def groups_met(board: Board) -> tuple[int, int]:
    """Of groups by GPU, model, engine and precision: those whose median TPOT error is small, and all."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for one in board.scored:
        ratio = one.ratio("tpot")
        if ratio is not None:
            groups[one.row.deployment.group].append(ratio)
    errors = [float(np.median(np.abs(1 / np.array(ratios) - 1))) for ratios in groups.values()]
    return sum(error <= WITHIN for error in errors), len(errors)


def reasons(board: Board) -> list[dict[str, Any]]:
    """Why rows were set aside, the most frequent first, and which lines of the file they are."""
    lines: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for one in board.aside:
        lines[one.reason, one.usable].append(one.line)
    return [
        {"reason": reason, "n": len(found), "usable": usable, "lines": sorted(found)}
        for (reason, usable), found in sorted(lines.items(), key=lambda item: -len(item[1]))
    ]
