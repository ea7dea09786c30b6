"""membound validate: the scoreboard of predictions against measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from membound.commands.output import print_json, print_table, status
from membound.costs.this_machine import last_tests
from membound.errors import InputError
from membound.reports.accuracy import page
from membound.scoreboard.board import DATA, board
from membound.scoreboard.requests import compare_requests
from membound.scoreboard.scores import group_rows, native_rows, overall, reasons
from membound.scoreboard.single_stream import stream_scores


def validate_command(data: Path | None, *, every: int, write: Path | None, json: bool) -> None:
    """Predicts every usable row of `data`, else of the packaged measurements."""
    with status("predicting", quiet=json):
        found = board(data or DATA, every)
        answer: dict[str, Any] = {
            "data": str(data) if data else "packaged",
            "rows": group_rows(found),
            "overall": overall(found),
            "excluded": reasons(found),
        }
        if data is None:
            answer["native_engine"] = last_tests()
            answer["rows"] += native_rows(answer["native_engine"])
            answer["single_stream"] = stream_scores()
            answer["requests"] = [
                {
                    "metric": one.metric,
                    "percentile": one.percentile,
                    "measured_s": one.measured_s,
                    "predicted_s": one.predicted_s,
                    "error": one.error,
                }
                for one in compare_requests()
            ]
    if write is not None:
        try:
            write.write_text(page(answer), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--write {write}: cannot be written ({error.strerror})") from None
    if json:
        print_json(answer)
    else:
        _show(answer)


def _show(answer: Mapping[str, Any]) -> None:
    whole = answer["overall"]
    kinds = (
        ("in sample", {m: _flat(whole, m) for m in ("tpot", "throughput", "ttft")}),
        ("its GPU left out", whole["left_out_gpu"]),
        ("its model left out", whole["left_out_model"]),
        ("calibrated with two rows", whole["calibrated"]),
    )
    rows = [
        (name, *(_pair(scores[metric]) for metric in ("tpot", "throughput", "ttft")))
        for name, scores in kinds
    ]
    title = (
        f"{whole['n']} rows of {answer['data']}, {whole['coverage']:.1%} of the usable; median / p90 error"
    )
    print_table(("", "TPOT", "throughput", "TTFT"), rows, title=title)
    table = [
        (
            f"{row['gpu']}  {row['model']}  {row['engine']}  {row['source'].split(' ')[0]}",
            row["metric"], str(row["n"]), f"{row['median_ape']:.1%}", f"{row['p90_ape']:.1%}",
            f"{row['bias']:+.1%}", _share(row["interval_coverage"]),
        )
        for row in answer["rows"]
    ]  # fmt: skip
    print_table(("group", "metric", "n", "median", "p90", "bias", "in interval"), table)
    if whole["groups"]:
        print(
            "groups (GPU, model, engine, precision) within 15 % of TPOT: "
            f"{whole['groups_within_15_percent']:.0%} of {whole['groups']}; "
            f"90 % intervals hold {whole['interval_coverage']:.1%} of left-out TPOT"
        )
    for one in answer.get("requests", ()):
        print(
            f"vLLM on RTX PRO 6000, request by request: {one['metric']} p{one['percentile']} "
            f"{one['measured_s'] * 1e3:.1f} ms, predicted "
            f"{one['predicted_s'] * 1e3:.1f} ({one['error']:+.1%})"
        )
    for one in answer.get("single_stream", {}).get("engines", ()):
        print(f"one sequence under {one['engine']}: TPOT {_pair(one)} of {one['n']}, bias {one['bias']:+.1%}")
    for one in answer["excluded"]:
        print(f"set aside: {one['n']} rows, {one['reason']}" + (" (usable)" if one["usable"] else ""))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _flat(whole: Mapping[str, Any], metric: str) -> dict[str, Any]:
    return {"n": 1, "median_ape": whole[f"{metric}_median_ape"], "p90_ape": whole[f"{metric}_p90_ape"]}


def _pair(score: Mapping[str, Any]) -> str:
    if not score.get("n") or score.get("median_ape") is None:
        return "-"
    return f"{score['median_ape']:.1%} / {score['p90_ape']:.1%}"
