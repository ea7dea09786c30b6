"""Fits costs/efficiencies.toml: `python -m validation.fit_efficiencies DATA`, with DATA holding ops/ and
end_to_end.csv.

Single operations give the first values; closed-loop TPOT then moves them, held back by them (a prior of
30 %), since what was measured alone is not quite what runs in an engine, and strong priors carry over
better to unseen parts. Prints in-sample scores and those of each GPU and model left out; writes the
values of the fit to all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from membound.costs.calibration import FILE
from validation.operations import Fit, Vector, all_reduce, attention, matrix_products
from validation.serving_rows import KINDS, Measured, Steps, read_rows

PRIOR_SIGMA = 0.3  # of a value's logarithm
OVERHEADS = {"vllm": (6.8, 710.0, 4.0), "sglang": (6.4, 680.0, 4.0), "trtllm": (4.2, 390.0, 2.0)}
COMMENT = """\
# From peak to real: shares of a part's own peaks, and times of the software in microseconds.
# Written by validation/fit_efficiencies.py; `error` is the standard error of the fit as a fraction of the
# value, or says where a value comes from that the data cannot tell.
"""


LIKE_DECODE = 'error = "as decode attention"'
LIKE_PROMPT = 'error = "as prompt attention"'


def priors(folder: Path) -> dict[str, float]:
    """From single operations; of experts and engines, what studies of whole engines found."""
    wide, narrow = (
        matrix_products(folder, ("bfloat16",), "bf16"),
        matrix_products(folder, ("fp8", "fp8_block"), "fp8"),
    )
    decode, prompt, reduce = attention(folder, True), attention(folder, False), all_reduce(folder)
    for name, fit in (("16-bit products", wide), ("8-bit products", narrow), ("decode attention", decode),
                      ("prompt attention", prompt), ("all-reduce", reduce)):  # fmt: skip
        _say(name, fit)
    values = {
        "matmul launch_us": wide.values["launch_s"] * 1e6,
        "matmul bandwidth": wide.values["bandwidth"],
        "matmul compute_16": wide.values["compute"],
        "matmul compute_8": narrow.values["compute"],
        "matmul compute_4": 0.45,
        "attention launch_us": 8.0,  # alone it measures the graph's launch too
        "attention bandwidth": decode.values["bandwidth"],
        "prefill launch_us": 10.0,
        "prefill compute_16": prompt.values["compute"],
        "experts launch_us": 17.0,
        "experts bandwidth": 0.86,
        "experts compute_16": 0.37,
        "experts compute_8": 0.37,
        "experts compute_4": 0.37,
        "form expert_imbalance": 0.1,
        "collectives launch_us": reduce.values["launch_s"] * 1e6,
        "collectives latency_share": reduce.values["latency_share"],
        "collectives link_share": reduce.values["link_share"],
    }
    for engine, (layer, step, sequence) in OVERHEADS.items():
        values[f"{engine} per_layer_us"] = layer
        values[f"{engine} per_step_us"] = step
        values[f"{engine} per_sequence_us"] = sequence
    return values


def step_seconds(values: dict[str, float], steps: Steps) -> Vector:
    """Of every step, with these efficiencies: the form that membound.costs.roofline computes."""
    k = steps.kernels
    launch, bandwidth, compute = (
        np.zeros(len(KINDS)),
        np.full(len(KINDS), 0.8),
        np.full((len(KINDS), 65), 0.75),
    )
    compute[KINDS.index("recurrence")] = 0.3
    compute[KINDS.index("attention")] = compute[KINDS.index("prefill")] = values["prefill compute_16"]
    for place, kind in enumerate(KINDS):
        launch[place] = values.get(f"{kind} launch_us", 0.0) * 1e-6
        bandwidth[place] = values.get(
            f"{kind} bandwidth", values["attention bandwidth"] if kind == "prefill" else 0.8
        )
        for bits in (16, 8, 4):
            compute[place, bits] = values.get(f"{kind} compute_{bits}", compute[place, bits])
    slow = 1 + np.where(
        k.kind == KINDS.index("experts"), values["form expert_imbalance"] * steps.spread[k.step], 0
    )
    memory = k.memory * slow / bandwidth[k.kind]
    math = k.math * slow / compute[k.kind, k.bits]
    each = k.layers * (np.sqrt(memory**2 + math**2) + launch[k.kind])
    total = np.bincount(k.step, each, len(steps.engine))
    total = total + values["collectives launch_us"] * 1e-6 * steps.reductions
    total += values["collectives latency_share"] * steps.latencies
    total += steps.wire / values["collectives link_share"]
    for place, engine in enumerate(OVERHEADS):  # in the order in which serving_rows counts them
        per_layer, per_step, per_sequence = (
            values[f"{engine} per_{what}_us"] * 1e-6 for what in ("layer", "step", "sequence")
        )
        extra = per_layer * steps.layers + per_step + per_sequence * steps.sequences
        total += np.where(steps.engine == place, extra, 0.0)
    return total


def predicted_tpot(values: dict[str, float], measured: Measured) -> Vector:
    seconds = step_seconds(values, measured.steps).reshape(-1, 2)
    share = measured.share_with_chunk
    return (1 - share) * seconds[:, 0] + share * seconds[:, 1]


def fit(
    start: dict[str, float], measured: Measured, rows: Vector
) -> tuple[dict[str, float], dict[str, float]]:
    """Values and their standard errors, fitted on some rows; rows of one deployment share its weight."""
    names = list(start)
    first = np.log([start[name] for name in names])
    is_share = [name.split()[1].startswith(("bandwidth", "compute", "link")) for name in names]
    upper = np.where(is_share, np.log(0.98), first + 3)
    weights = _weights(measured)[rows]

    def residuals(logs: Vector) -> Vector:
        values = dict(zip(names, np.exp(logs).tolist(), strict=True))
        off = np.log(predicted_tpot(values, measured) / measured.tpot_s)[rows]
        return np.concatenate([_soft(off / 0.1) * weights, (logs - first) / PRIOR_SIGMA])

    solution = least_squares(
        residuals, np.minimum(first, upper - 1e-3), bounds=(first - 3, upper), max_nfev=60
    )
    covariance = np.linalg.pinv(solution.jac.T @ solution.jac)
    errors = np.sqrt(np.diag(covariance))
    return (
        dict(zip(names, np.exp(solution.x).tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
    )


def _soft(z: Vector) -> Vector:
    """Residuals whose square grows linearly once they are large."""
    return np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z**2) - 1))


def _weights(measured: Measured) -> Vector:
    """Square roots of weights: a deployment counts as the root of its rows, so that none drowns others."""
    groups = [(row["model"], row["gpu"], row["engine"]) for row in measured.rows]
    count = {group: groups.count(group) for group in set(groups)}
    return np.array([count[group] ** -0.25 for group in groups])


def score(values: dict[str, float], measured: Measured, rows: Vector) -> str:
    off = np.abs(predicted_tpot(values, measured) / measured.tpot_s - 1)[rows]
    return f"{np.median(off):.1%} / {np.quantile(off, 0.9):.1%} of {len(off)}"


def left_out(start: dict[str, float], measured: Measured, column: str) -> Vector:
    """Absolute relative errors of each row, fitted without its GPU or model."""
    keys = np.array([row[column].lower() for row in measured.rows])
    off = np.zeros(len(keys))
    for key in sorted(set(keys)):
        values, _ = fit(start, measured, keys != key)
        off[keys == key] = np.abs(predicted_tpot(values, measured) / measured.tpot_s - 1)[keys == key]
    return off


def _say(name: str, fit: Fit) -> None:
    values = ", ".join(f"{k} {v:.3g} ± {fit.errors[k]:.0%}" for k, v in fit.values.items())
    print(f"{name}: {values}; error {fit.median:.1%} / {fit.p90:.1%} of {fit.count}")


def write(values: dict[str, float], errors: dict[str, float], path: Path) -> None:
    """The file that membound reads."""

    def line(table: str, name: str) -> str:
        key = f"{table} {name}"
        return f"{name} = {{ value = {values[key]:.4g}, error = {errors[key]:.2g} }}\n"

    text = COMMENT + "\n[form]\n"
    text += 'sharpness = { value = 2.0, error = "chosen: 2 to 3 fit alike, and a square root is quick" }\n'
    text += line("form", "expert_imbalance")
    for kind in ("matmul", "attention", "prefill", "experts"):
        text += f'\n[kinds.{kind}]\nsource = "fitted"\n' + line(kind, "launch_us")
        if f"{kind} bandwidth" in values:
            text += line(kind, "bandwidth")
        else:
            text += f"bandwidth = {{ value = {values['attention bandwidth']:.4g}, {LIKE_DECODE} }}\n"
        shares = [name.split()[1] for name in values if name.startswith(f"{kind} compute")]
        text += "".join(line(kind, share) for share in shares)
        if not shares:
            text += f"compute_16 = {{ value = {values['prefill compute_16']:.4g}, {LIKE_PROMPT} }}\n"
    text += """
[kinds.recurrence]
source = "assumed"
launch_us = { value = 8.0, error = "as decode attention, not measured" }
bandwidth = { value = 0.8, error = "as matrix products, not measured" }
compute_16 = { value = 0.3, error = "not measured" }

[kinds.other]
source = "assumed"
launch_us = { value = 0.0, error = "within the engine's overhead per layer" }
bandwidth = { value = 0.8, error = "as matrix products, not measured" }
compute_16 = { value = 0.75, error = "as matrix products, not measured" }
"""
    text += "\n[collectives]\n" + "".join(
        line("collectives", n) for n in ("launch_us", "latency_share", "link_share")
    )
    for engine in OVERHEADS:
        names = ("per_layer_us", "per_step_us", "per_sequence_us")
        text += f"\n[engines.{engine}]\n" + "".join(line(engine, name) for name in names)
    path.write_text(text, encoding="utf-8")


def main(data: Path) -> None:
    start = priors(data / "ops")
    measured = read_rows(data / "end_to_end.csv")
    print(f"closed-loop rows: {len(measured.rows)}; left out: {dict(measured.excluded)}")
    everything = np.ones(len(measured.rows), dtype=bool)
    values, errors = fit(start, measured, everything)
    print(
        f"TPOT before {score(start, measured, everything)}, in sample {score(values, measured, everything)}"
    )
    for column in ("gpu", "model"):
        off = left_out(start, measured, column)
        print(f"leaving a {column} out: {np.median(off):.1%} / {np.quantile(off, 0.9):.1%}")
    write(values, errors, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
