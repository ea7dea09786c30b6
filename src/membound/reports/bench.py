"""Measured loads as one page that needs no network: plotly's script and all data are inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from membound.reports.bench_timeline import Lane, timeline
from membound.reports.paper import GRID, LAYOUT, page

Series = Sequence[float]
STATISTICS = ("p50", "p90", "p99")
INK = {"p50": "#1c7ed6", "p90": "#f08c00", "p99": "#e03131"}
LOADS = ("#2f7de1", "#e8833a", "#1f9d61", "#9c36b5", "#cf3f3f", "#0c8599", "#f2b01e", "#868e96")  # in turn


@dataclass(frozen=True)
class LoadPicture:
    """One load. Samples and summaries in seconds, by the name of a latency."""

    label: str
    told: str  # rates, attainment and failures in a line
    rows: Sequence[Sequence[str]]  # of its table
    place: float | None  # on the axis of a sweep: rate or users
    samples: Mapping[str, Series]
    measured: Mapping[str, Mapping[str, float]]
    predicted: Mapping[str, Mapping[str, float]]
    lanes: Sequence[Lane]
    tokens_per_s: tuple[Series, Series]  # when, and how many then
    attainment: float
    goodput: float


@dataclass(frozen=True)
class BenchPicture:
    """What the page shows."""

    title: str
    facts: Sequence[tuple[str, str]]
    head: Sequence[str]  # of each load's table
    notes: Sequence[str]
    loads: Sequence[LoadPicture]
    axis: str  # of a sweep
    limits: Mapping[str, float] = field(default_factory=dict)  # SLO, by the name of a latency


def write_html(picture: BenchPicture, path: Path) -> None:
    """The whole page; InputError is the caller's to raise where it cannot be written."""
    figures: list[Any] = []
    if len(picture.loads) > 1 and all(load.place is not None for load in picture.loads):
        figures += [_sweep(picture, "ttft_s"), _sweep(picture, "tpot_s"), _goodput(picture)]
    figures += [_percentiles(picture, name) for name in ("ttft_s", "tpot_s", "e2e_s")]
    body = [f"<h1>{escape(picture.title)}</h1>", "<p>"]
    body += [f"{escape(name)}: <b>{escape(value)}</b> &nbsp; " for name, value in picture.facts]
    body.append("</p>")
    for load in picture.loads:
        body.append(f"<h2>{escape(load.label)}</h2>")
        body += [f"<p>{escape(load.told)}</p>", _table(picture.head, load.rows)]
    body += [f'<p class="note">{escape(note)}</p>' for note in picture.notes]
    compared = [load for load in picture.loads if load.predicted]
    if compared:
        figures.insert(0, _against(compared))
    script = True  # once, with the first figure
    for figure in figures:
        body.append(figure.to_html(full_html=False, include_plotlyjs=script))
        script = False
    for load in picture.loads:
        drawn = timeline(load.lanes, load.tokens_per_s).to_html(full_html=False, include_plotlyjs=False)
        opened = " open" if len(picture.loads) == 1 else ""
        body.append(f"<details{opened}><summary>{escape(load.label)} in time</summary>{drawn}</details>")
    path.write_text(page(picture.title, "".join(body)), encoding="utf-8")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{cells}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _figure(title: str, x: str, y: str) -> Any:
    """Empty, with titles."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    figure.update_layout(title=title, height=380, **LAYOUT)
    figure.update_xaxes(title=x, **GRID)
    figure.update_yaxes(title=y, **GRID)
    return figure


def name_of(latency: str) -> str:
    """As people write it: TTFT, TPOT, E2E."""
    short = latency.removesuffix("_s")
    return short.upper() if len(short) <= 4 else short.replace("_", " ")


def _sweep(picture: BenchPicture, latency: str) -> Any:
    """A latency's percentiles against the load, measured and predicted."""
    figure = _figure(f"{name_of(latency)} against the load", picture.axis, "milliseconds")
    loads = sorted(picture.loads, key=lambda load: load.place or 0.0)
    for source, dash in (("measured", "solid"), ("predicted", "dot")):
        for statistic in STATISTICS:
            found = [(load.place, getattr(load, source).get(latency, {}).get(statistic)) for load in loads]
            known = [(x, y * 1e3) for x, y in found if y is not None and math.isfinite(y)]
            if known:
                figure.add_scatter(
                    x=[x for x, _ in known],
                    y=[y for _, y in known],
                    name=f"{statistic} {source}",
                    mode="lines+markers",
                    line={"color": INK[statistic], "dash": dash},
                )
    _limit(figure, picture, latency, horizontal=True)
    return figure


def _goodput(picture: BenchPicture) -> Any:
    figure = _figure("Goodput and attainment of the SLO", picture.axis, "requests/s")
    loads = sorted(picture.loads, key=lambda load: load.place or 0.0)
    places = [load.place for load in loads]
    goodputs = [load.goodput for load in loads]
    figure.add_scatter(x=places, y=goodputs, name="goodput", mode="lines+markers", line={"color": LOADS[0]})
    figure.add_scatter(
        x=places,
        y=[100 * load.attainment for load in loads],
        name="attainment",
        yaxis="y2",
        mode="lines+markers",
        line={"color": LOADS[1]},
    )
    right = {"title": "% of requests", "overlaying": "y", "side": "right", "range": [0, 102]}
    figure.update_layout(yaxis2={**right, "dtick": 20, "showgrid": False})
    figure.update_layout(legend={"x": 1.1})
    return figure


def _percentiles(picture: BenchPicture, latency: str) -> Any:
    """Share of the requests up to each latency."""
    title = f"{name_of(latency)} of the requests that succeeded"
    figure = _figure(title, "milliseconds", "share of requests")
    for load, ink in zip(picture.loads, cycle(LOADS), strict=False):
        ordered = sorted(load.samples.get(latency, ()))
        last = len(ordered) - 1
        if last < 0:
            continue
        places = sorted({round(i * last / 400) for i in range(401)})
        x, y = [ordered[place] * 1e3 for place in places], [(place + 1) / (last + 1) for place in places]
        figure.add_scatter(x=x, y=y, name=load.label, mode="lines", line={"shape": "hv", "color": ink})
        foretold = load.predicted.get(latency)
        if foretold:
            figure.add_scatter(
                x=[foretold[statistic] * 1e3 for statistic in STATISTICS],
                y=[0.5, 0.9, 0.99],
                name=f"{load.label}, predicted",
                mode="markers",
                marker={"symbol": "x", "size": 9, "color": ink},
            )
    figure.update_xaxes(rangemode="tozero")
    _limit(figure, picture, latency, horizontal=False)
    return figure


def _limit(figure: Any, picture: BenchPicture, latency: str, *, horizontal: bool) -> None:
    if latency in picture.limits:
        draw = figure.add_hline if horizontal else figure.add_vline
        draw(picture.limits[latency] * 1e3, line={"dash": "dash", "color": "#868e96"}, annotation_text="SLO")


def _against(loads: Sequence[LoadPicture]) -> Any:
    """Measured over predicted, for each latency's median and 99th percentile: 1 is a perfect prediction."""
    figure = _figure("Measured against predicted", "", "measured / predicted")
    for load, ink in zip(loads, cycle(LOADS), strict=False):
        names, ratios = [], []
        for latency in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
            for statistic in ("p50", "p99"):
                measured = load.measured.get(latency, {}).get(statistic)
                predicted = load.predicted.get(latency, {}).get(statistic)
                if measured is not None and predicted:
                    names.append(f"{name_of(latency)} {statistic}")
                    ratios.append(measured / predicted)
        figure.add_bar(x=names, y=ratios, name=load.label, marker={"color": ink})
    figure.add_hline(1.0, line={"color": "#868e96"})
    return figure
