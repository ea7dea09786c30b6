"""Requests in time: a line for each, and how many were under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from membound.reports.paper import GRID, LAYOUT

Series = Sequence[float]
LANES = 300  # requests that are shown at most
INK = {"to the first token": "#f08c00", "tokens": "#1c7ed6", "failed": "#e03131"}


@dataclass(frozen=True)
class Lane:
    """One request in time, in seconds since the run began; `first_s` None if nothing came."""

    sent_s: float
    first_s: float | None
    ended_s: float
    failed: str | None


def timeline(lanes: Sequence[Lane], tokens_per_s: tuple[Series, Series]) -> Any:
    """Each request waits for its first token, then receives; below, requests under way and tokens/s."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.7, 0.3],
        vertical_spacing=0.06,
        specs=[[{}], [{"secondary_y": True}]],
    )
    for name, (x, y) in _lines(lanes).items():
        if x:
            line = {"color": INK[name], "width": 2}
            figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, row=1, col=1)
    times, counts = _under_way(lanes)
    grey = {"shape": "hv", "color": "#868e96"}
    figure.add_scatter(x=times, y=counts, name="under way", line=grey, row=2, col=1)
    when, tokens = tokens_per_s
    green = {"color": "#2f9e44"}
    figure.add_scatter(x=when, y=tokens, name="tokens/s", line=green, row=2, col=1, secondary_y=True)
    most = f" (the first {LANES})" if len(lanes) > LANES else ""
    figure.update_layout(height=560, **LAYOUT)
    figure.update_xaxes(title="seconds", row=2, col=1, **GRID)
    figure.update_yaxes(title=f"requests{most}", row=1, col=1, **GRID)
    figure.update_yaxes(title="under way", row=2, col=1, secondary_y=False, **GRID)
    figure.update_yaxes(title="tokens/s", row=2, col=1, secondary_y=True)
    return figure


def _lines(lanes: Sequence[Lane]) -> dict[str, tuple[list[float | None], list[float | None]]]:
    """Of each part of a request, the ends of its lines, None between them."""
    parts: dict[str, tuple[list[float | None], list[float | None]]] = {name: ([], []) for name in INK}
    for row, lane in enumerate(sorted(lanes, key=lambda lane: lane.sent_s)[:LANES]):
        first = lane.ended_s if lane.first_s is None else lane.first_s
        kind = "failed" if lane.failed else "to the first token"
        for name, start, end in ((kind, lane.sent_s, first), ("tokens", first, lane.ended_s)):
            if end > start:
                parts[name][0].extend((start, end, None))
                parts[name][1].extend((row, row, None))
    return parts


def _under_way(lanes: Sequence[Lane]) -> tuple[list[float], list[int]]:
    """When the number of requests changed, and what it was then."""
    moments = sorted([(lane.sent_s, 1) for lane in lanes] + [(lane.ended_s, -1) for lane in lanes])
    times, counts, number = [], [], 0
    for moment, change in moments:
        number += change
        times.append(moment)
        counts.append(number)
    return times, counts
