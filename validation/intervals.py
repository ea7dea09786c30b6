"""Writes costs/intervals.toml: quantiles of measured over predicted, of rows whose GPU or model the fit did
not see.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from membound.scoreboard.board import Board, board

LEVELS = (0.05, 0.95)
WIDENING = 1.25
COMMENT = """\
# Factors between which 90 % of measured / predicted lie, over GPUs and models that the fit did not see.
# Written by validation/fit_efficiencies.py.
"""


def write_intervals(path: Path) -> None:
    found = board()
    regimes = list(found.regimes.values())
    text = COMMENT + "\n[measured]\n"
    text += f"parts = {sorted({r.part for r in regimes})}\n".replace("'", '"')
    text += f"bits = {sorted({r.bits for r in regimes}, reverse=True)}\n"
    text += f"batch = {max(int(r.batch) for r in regimes)}\n"
    text += f"widening = {WIDENING}  # for each way in which a regime lies outside: chosen, not measured\n"
    for metric in ("tpot", "ttft", "throughput", "e2e"):
        text += f"\n[{metric}]\n"
        for kind in ("dense", "experts"):
            low, high = _factors(found, metric, kind == "experts")
            text += f"{kind} = [{low:.3f}, {high:.3f}]\n"
    path.write_text(text, encoding="utf-8")


def _factors(found: Board, metric: str, experts: bool) -> tuple[float, float]:
    """Of a metric in a regime. End to end is a closed loop's throughput turned round."""
    source = "throughput" if metric == "e2e" else metric
    ratios = [
        ratio
        for which in ("part", "model")
        for one in found.scored
        if found.regimes[one.row.line].experts == experts and (ratio := one.ratio(source, which)) is not None
    ]
    low, high = np.quantile(ratios, LEVELS)
    return (1 / high, 1 / low) if metric == "e2e" else (float(low), float(high))
