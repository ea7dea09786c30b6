"""The report of membound bench: what its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from membound.commands.bench_point import Point
from membound.measuring.prepare import Prepared
from membound.measuring.summary import LATENCIES
from membound.reports.bench import BenchPicture, LoadPicture, name_of
from membound.reports.bench_timeline import Lane
from membound.workloads.metrics import Summary
from membound.workloads.slo import Slo

STATISTICS = ("mean", "p50", "p90", "p99")


def bench_picture(url: str, slo: Slo, prepared: Prepared, points: Sequence[Point]) -> BenchPicture:
    """Of one or several loads."""
    limits = {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2e_s": slo.e2e_s}
    notes = [
        warning if len(points) == 1 else f"{point.label}: {warning}"
        for point in points
        for warning in point.measured.warnings
    ]
    return BenchPicture(
        title=f"{prepared.asking.model} at {url}",
        facts=[
            ("measured", f"{datetime.now():%Y-%m-%d %H:%M}"),
            ("endpoint", prepared.asking.path),
            ("SLO", str(slo) or "none"),
            ("prompt tokens counted by", prepared.counted_by),
        ],
        head=("milliseconds", "mean", "p50", "p90", "p99"),
        notes=notes,
        loads=[_load(point) for point in points],
        axis="users" if points[0].offered.concurrency is not None else "requests/s",
        limits={name: limit for name, limit in limits.items() if limit < float("inf")},
    )


def _rows(point: Point) -> list[tuple[str, ...]]:
    measured = point.measured
    rows = []
    for name in LATENCIES:
        if (found := measured.summaries[name]) is not None:
            rows.append((name_of(name), *_milliseconds(found)))
        if (spoiled := measured.adjusted.get(name)) is not None and measured.error_kinds:
            rows.append((f"{name_of(name)}, failures as infinite", *_milliseconds(spoiled)))
        if point.prediction and (foretold := point.prediction.summaries.get(name)) is not None:
            rows.append((f"{name_of(name)}, predicted", *_milliseconds(foretold)))
    return rows


def _told(point: Point) -> str:
    measured = point.measured
    rates = f"{measured.req_per_s:.3g} req/s, {measured.output_tok_per_s:,.1f} tokens/s"
    if point.prediction:
        rates += f" (predicted {point.prediction.output_tok_per_s:,.1f})"
    held = f"{measured.slo_attainment:.1%} held the SLO"
    failed = f"{len(measured.records) - len(measured.succeeded)} of {len(measured.records)} failed"
    return f"{rates}; {held}, goodput {measured.goodput_req_per_s:.3g} req/s; {failed}"


def _load(point: Point) -> LoadPicture:
    measured, records = point.measured, point.measured.run.records
    moments = np.concatenate([np.asarray(record.events_s, dtype=np.float64) for record in records])
    span = max((record.ended_s for record in records), default=1.0)
    bins = int(np.clip(span, 20, 200))
    weights = np.concatenate(
        [np.full(len(r.events_s), r.output_tokens / max(1, len(r.events_s))) for r in records]
    )
    tokens, edges = np.histogram(moments, bins, range=(0.0, span), weights=weights)
    return LoadPicture(
        label=point.label,
        told=_told(point),
        rows=_rows(point),
        place=point.offered.rate if point.offered.rate is not None else point.offered.concurrency,
        samples=measured.samples,
        measured=_named(measured.summaries),
        predicted=_named(point.prediction.summaries) if point.prediction else {},
        lanes=[Lane(r.sent_s, r.events_s[0] if r.events_s else None, r.ended_s, r.error) for r in records],
        tokens_per_s=(edges[:-1].tolist(), (tokens * bins / span).tolist()),
        attainment=measured.slo_attainment,
        goodput=measured.goodput_req_per_s,
    )


def _named(summaries: Mapping[str, Summary | None]) -> dict[str, dict[str, float]]:
    return {
        name: {statistic: getattr(found, statistic) for statistic in STATISTICS}
        for name, found in summaries.items()
        if found is not None
    }


def _milliseconds(summary: Summary) -> tuple[str, ...]:
    return tuple(f"{getattr(summary, statistic) * 1e3:,.2f}" for statistic in STATISTICS)
