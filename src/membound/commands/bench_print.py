"""membound bench for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from membound.commands.bench_point import Point
from membound.commands.output import print_table
from membound.measuring.prepare import Prepared
from membound.measuring.summary import LATENCIES
from membound.workloads.metrics import Summary
from membound.workloads.slo import Slo


def print_points(url: str, slo: Slo, prepared: Prepared, points: Sequence[Point]) -> None:
    """One load as a table of its latencies, several as a row each."""
    asking = prepared.asking
    print(f"{asking.model} at {url} ({asking.path}); prompt tokens counted by {prepared.counted_by}")
    if len(points) == 1:
        _print_point(slo, points[0])
    else:
        _print_sweep(sorted(points, key=lambda p: (p.offered.rate or 0, p.offered.concurrency or 0)))


def print_found(slo: Slo, best: Point | None) -> None:
    """What a search for the highest rate found."""
    if best is None:
        print("  no rate held the SLO for 90 % of the requests")
        return
    print(
        f"  highest rate at which 90 % of the requests held {slo}: {best.offered.rate:.4g} req/s "
        f"(attainment {best.measured.slo_attainment:.1%})"
    )


def print_warnings(points: Sequence[Point]) -> None:
    for point in points:
        for warning in point.measured.warnings:
            print(f"note: {warning}" if len(points) == 1 else f"note: {point.label}: {warning}")


def _print_point(slo: Slo, point: Point) -> None:
    measured, prediction = point.measured, point.prediction
    rows: list[tuple[str, ...]] = []
    for name in LATENCIES:
        found = measured.summaries[name]
        if found is None:
            continue
        rows.append((_title(name), *_milliseconds(found)))
        spoiled = measured.adjusted.get(name)
        if spoiled is not None and measured.error_kinds:
            rows.append((f"{_title(name)}, adjusted", *_milliseconds(spoiled)))
        foretold = prediction.summaries.get(name) if prediction is not None else None
        if foretold is not None:
            rows.append((f"{_title(name)}, predicted", *_milliseconds(foretold)))
    print_table(("milliseconds", "mean", "p50", "p90", "p99"), rows, title=point.label)
    print(
        f"  {len(measured.succeeded)} of {len(measured.records)} succeeded in {measured.run.wall_s:.1f} s: "
        f"{measured.req_per_s:.3g} req/s, {measured.output_tok_per_s:,.1f} output tokens/s"
        + (f" (predicted {prediction.output_tok_per_s:,.1f})" if prediction else "")
    )
    if (steady := measured.steady) is not None:
        print(
            f"  steady from {steady.start_s:.1f} to {steady.end_s:.1f} s: {steady.requests_per_s:.3g} req/s, "
            f"{steady.output_tok_per_s:,.1f} tokens/s, {steady.concurrency:.1f} requests under way"
        )
    if slo != Slo():
        print(
            f"  {slo}: held by {measured.slo_attainment:.1%}, goodput {measured.goodput_req_per_s:.3g} req/s"
            + (f" (predicted {prediction.slo_attainment:.1%})" if prediction else "")
        )
    if measured.prefix_hit_rate is not None:
        print(f"  prefix cache: {measured.prefix_hit_rate:.1%} of the prompt tokens")
    client = measured.run.overheads
    print(
        f"  the load generator: {len(client)} process{'es' * (len(client) > 1)}, "
        f"{max(one.cpu_share for one in client):.0%} of a core, its loop at most "
        f"{max(one.loop_lag_p99_s for one in client) * 1e3:.2f} ms late (p99)"
    )
    if point.run is not None:
        print(f"  kept as run {point.run}")


def _print_sweep(points: Sequence[Point]) -> None:
    predicted = any(point.prediction for point in points)
    rows = []
    for point in points:
        measured = point.measured
        row = [point.label]
        for name in ("ttft_s", "tpot_s"):
            found = measured.summaries[name]
            row += [_one(found, "p50"), _one(found, "p99")]
            if predicted:
                row.append(_one(point.prediction.summaries.get(name) if point.prediction else None, "p50"))
        row += [f"{measured.output_tok_per_s:,.1f}", str(len(measured.records) - len(measured.succeeded))]
        row += [f"{measured.slo_attainment:.1%}", f"{measured.goodput_req_per_s:.3g}", str(point.run or "-")]
        rows.append(tuple(row))
    told = ("predicted",) if predicted else ()
    columns = ("load", "TTFT p50", "p99", *told, "TPOT p50", "p99", *told, "tokens/s", "failed")
    print_table((*columns, "SLO held", "goodput", "run"), rows, title="latencies in milliseconds")


def _title(name: str) -> str:
    short = name.removesuffix("_s")
    return short.upper() if len(short) <= 4 else short.replace("_", " ")


def _one(summary: Summary | None, statistic: str) -> str:
    return "-" if summary is None else f"{getattr(summary, statistic) * 1e3:,.1f}"


def _milliseconds(summary: Summary) -> tuple[str, ...]:
    return tuple(f"{getattr(summary, name) * 1e3:,.2f}" for name in Summary.__slots__)
