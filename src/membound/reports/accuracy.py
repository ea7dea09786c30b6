"""The scoreboard as a page of Markdown."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEAD = """\
# How far predictions are from real machines

Written by `membound validate --write docs/accuracy.md`. Errors are |predicted / measured - 1|, median / p90.
The rows are measurements by others (`src/membound/scoreboard/data/README.md`); each is predicted by running
the engine's scheduler through the same load, at the seconds that [costs](costs.md) give its steps.
"""
METRICS = ("tpot", "throughput", "ttft")
HELP = """
- *In sample*: the shipped fit, which saw these rows.
- *Left out*: refitted without any row of the row's GPU, or of its model.
- *Calibrated*: three factors fitted to two rows of the deployment (`membound calibrate`); these two are not
  scored.
- Intervals: 90 %, from the left-out residuals of the same rows.
"""


def page(answer: Mapping[str, Any]) -> str:
    """Of the answer of `membound validate`."""
    whole = answer["overall"]
    kinds: list[tuple[str, Mapping[str, Any]]] = [
        ("in sample", {m: {k: whole[f"{m}_{k}"] for k in ("median_ape", "p90_ape")} for m in METRICS}),
        ("its GPU left out", whole["left_out_gpu"]),
        ("its model left out", whole["left_out_model"]),
        ("calibrated with two rows", whole["calibrated"]),
    ]
    today = time.strftime("%Y-%m-%d")
    text = HEAD + f"\n{today}: {whole['n']} rows, {whole['coverage']:.1%} of those that are usable.\n\n"
    text += _table(
        ("", "TPOT", "output throughput", "TTFT"),
        [(name, *(_pair(scores[metric]) for metric in METRICS)) for name, scores in kinds],
    )
    text += HELP
    covered = ", ".join(
        f"{whole[f'{m}_interval_coverage']:.1%} of {m.upper() if m != 'throughput' else m}" for m in METRICS
    )
    text += (
        f"\nOf {whole['groups']} groups (GPU, model, engine, precision), "
        f"{whole['groups_within_15_percent']:.0%} have a median TPOT error within 15 %.\n"
        f"The intervals hold {covered} of left-out rows.\n"
    )
    if "requests" in answer:
        text += "\n## One vLLM run, request by request\n\n"
        text += (
            "Llama-3.1-8B in bf16 on an RTX PRO 6000, 300 requests at 10 per second, vLLM 0.19\n"
            "(LLMServingSim, MIT). Nothing was fitted to it, nor to its GPU.\n\n"
        )
        text += _table(
            ("", "measured", "predicted", "error"),
            [
                (
                    f"{one['metric'].upper()} p{one['percentile']}",
                    f"{one['measured_s'] * 1e3:.1f} ms",
                    f"{one['predicted_s'] * 1e3:.1f} ms",
                    f"{one['error']:+.1%}",
                )
                for one in answer["requests"]
            ],
        )
    if answer.get("native_engine"):
        text += _native_engine(answer["native_engine"])
    if "single_stream" in answer:
        text += "\n## One sequence at a time\n\n"
        text += "TPOT by nominal bandwidth alone; nothing was fitted to these rows, nor to these engines.\n\n"
        streams = answer["single_stream"]
        text += _table(
            ("engine", "n", "median / p90", "bias"),
            [(one["engine"], str(one["n"]), _pair(one), f"{one['bias']:+.1%}") for one in streams["engines"]],
        )
        text += (
            "\nSet aside: " + "; ".join(f"{one['n']}, {one['reason']}" for one in streams["excluded"]) + ".\n"
        )
    text += "\n## By source, GPU, model, engine and metric, in sample\n\n"
    text += _table(
        ("source", "GPU", "model", "engine", "metric", "n", "median", "p90", "bias", "in interval"),
        [
            (
                row["source"], row["gpu"], row["model"], row["engine"], row["metric"], str(row["n"]),
                f"{row['median_ape']:.1%}", f"{row['p90_ape']:.1%}", f"{row['bias']:+.1%}",
                "" if row["interval_coverage"] is None else f"{row['interval_coverage']:.0%}",
            )
            for row in answer["rows"]
        ],
    )  # fmt: skip
    text += "\n## Rows set aside\n\n"
    text += "Each for what it says or leaves unsaid, none for how far a prediction is from it.\n\n"
    text += _table(
        ("rows", "reason", "", "lines of the file"),
        [
            (
                str(one["n"]),
                one["reason"],
                "usable, not predicted" if one["usable"] else "",
                _ranges(one["lines"]),
            )
            for one in answer["excluded"]
        ],
    )
    return text


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours as ranges: 2-5, 9."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def _native_engine(kept: Mapping[str, Any]) -> str:
    units = (
        ("tpot_s", "TPOT", "ms", 1e3),
        ("ttft_p50_s", "TTFT p50", "ms", 1e3),
        ("throughput", "output", "token/s", 1.0),
    )
    rows = [
        (
            f"{test['rate']:.2f} requests/s, {test['share']:.0%} of saturation: {name}",
            f"{test['measured'][key] * scale:.1f} {unit}",
            f"{test['predicted'][key] * scale:.1f} {unit}",
            f"{test['predicted'][key] / test['measured'][key] - 1:+.1%}",
        )
        for test in kept["tests"]
        for key, name, unit, scale in units
    ]
    return (
        f"\n## The native engine\n\n{kept['model']} on {kept['processor']}, {kept['date']}, from the last"
        " `membound calibrate this`: fitted to steps of\nmany sizes, then runs of 100 Poisson requests"
        " through the engine, and their simulations.\n\n"
        + _table(("", "measured", "simulated", "error"), rows)
        + "".join(map(_steps_of_run, kept["tests"]))
    )


def _steps_of_run(test: Mapping[str, Any]) -> str:
    """Where the error of a run comes from, for files that tell."""
    if "others" not in test:
        return ""
    return (
        f"\nThe very steps that ran at {test['share']:.0%}, predicted one by one, come to"
        f" {1 + test['priced']:.1%} of the seconds that they took;\nthe machine's pace, by another engine's"
        f" steps in turns with them, varied by {test['unsteady']:.1%} (standard deviation), as the"
        " simulation's.\n"
    )


def _pair(score: Mapping[str, Any]) -> str:
    if score.get("median_ape") is None:
        return "-"
    return f"{score['median_ape']:.1%} / {score['p90_ape']:.1%}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |\n" for line in lines)
