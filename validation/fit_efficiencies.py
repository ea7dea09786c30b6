"""Fits costs/efficiencies.toml: `python -m validation.fit_efficiencies OPS`, with OPS the folder of single
operations (ops/ of the data).

Single operations give the first values; closed loops then move them, held back by them (a prior of 30 %),
since what was measured alone is not quite what runs in an engine, and strong priors carry over better to
unseen parts. Most of what is left is an offset that all rows of a deployment share, so rows of one
deployment are taken as correlated: many rows of one tell the shape of its curve, and its offset once. What
an engine does differently on a part is a factor of its own, held to one by a prior of 10 %. Writes the fit
to all, the fits without each GPU and each model, and the intervals that their residuals give.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from membound.costs.calibration import FILE
from membound.costs.intervals import FILE as INTERVALS
from membound.scoreboard.board import LEFT_OUT, usable_rows
from membound.scoreboard.recorded import Recorder
from validation.intervals import write_intervals
from validation.operations import Fit, Vector, all_reduce, attention, matrix_products
from validation.serving_rows import ENGINES, KINDS, SKEWS, Measured, Steps, measured
from validation.write import write

PRIOR_SIGMA = 0.3  # of a value's logarithm
SIGMAS = {
    "offsets": 0.1,
    "server": 0.6,
    "bandwidth": 0.06,  # single operations tell bandwidths well
    "prompt": 0.05,  # read off the steps of TensorRT-LLM that took as long on four ranks as on eight
    "link": 0.25,
}
MOST_BANDWIDTH, MOST = 0.93, 0.98  # shares that no kernel was seen to exceed
# Standard deviations of logarithms: of a deployment's offset, and of a row about it.
TPOT_SPREAD, TTFT_SPREAD = (0.1, 0.15), (0.15, 0.3)
# Microseconds per layer, step, sequence, and layer of a step with prompts; milliseconds of a server.
OVERHEADS = {
    "vllm": (6.8, 710.0, 4.0, 150.0, 18.0),
    "sglang": (6.4, 680.0, 4.0, 300.0, 138.0),
    "trtllm": (4.2, 390.0, 2.0, 650.0, 20.0),
}
Values = dict[str, float]


def priors(folder: Path) -> Values:
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
        "experts compute_8": 0.3,
        "experts compute_4": 0.3,
        "experts unpack": 130.0,
        "experts widen_launch_us": 10.0,
        "form activation_share": 0.8,
        "form expert_skew": 0.4,
        "form expert_imbalance": 0.1,
        "collectives launch_us": reduce.values["launch_s"] * 1e6,
        "collectives latency_share": reduce.values["latency_share"],
        "collectives link_share": reduce.values["link_share"],
    }
    for engine, (layer, step, sequence, prompts, server) in OVERHEADS.items():
        values[f"{engine} per_layer_us"] = layer
        values[f"{engine} per_step_us"] = step
        values[f"{engine} per_sequence_us"] = sequence
        values[f"{engine} prompt_layer_us"] = prompts
        values[f"{engine} server_ms"] = server
        values[f"{engine} link_factor"] = 1.0
    return values


def step_seconds(values: Values, steps: Steps) -> Vector:
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
    experts = k.kind == KINDS.index("experts")
    slow = 1 + np.where(experts, values["form expert_imbalance"] * steps.spread[k.step], 0)
    chosen = np.where(experts, _distinct(steps, values["form expert_skew"])[k.step], 1.0)
    memory = k.memory * slow * chosen / bandwidth[k.kind]
    math = k.math * slow / compute[k.kind, k.bits]
    math += np.where(experts, values["experts unpack"] * k.widened * slow * chosen, 0.0)
    starts = launch[k.kind] + np.where(
        experts & (k.widened > 0), values["experts widen_launch_us"] * 1e-6, 0.0
    )
    each = np.sqrt(memory**2 + math**2) + k.launches * starts
    total: Vector = np.bincount(k.step, each, len(steps.row)).astype(np.float64)
    total = total + values["collectives launch_us"] * 1e-6 * steps.reductions
    total += values["collectives latency_share"] * steps.latencies
    total += steps.activations / values["form activation_share"]

    def of_engine(name: str) -> Vector:
        return np.array([values[f"{engine} {name}"] for engine in ENGINES])[steps.engine]

    total += steps.wire / (values["collectives link_share"] * of_engine("link_factor"))
    per_step = of_engine("per_step_us") * 1e-6
    total += of_engine("per_layer_us") * 1e-6 * steps.layers + per_step
    total += of_engine("per_sequence_us") * 1e-6 * steps.sequences
    floor = (of_engine("prompt_layer_us") * 1e-6 * steps.layers + per_step) * steps.prompts
    floored: Vector = np.maximum(total, floor)
    return floored


def _distinct(steps: Steps, skew: float) -> Vector:
    """Experts that each step chooses under a skew, over those of a uniform routing."""
    width = SKEWS[1] - SKEWS[0]
    place = min(max(skew / width, 0.0), len(SKEWS) - 1.001)
    below, share = int(place), place % 1.0
    found: Vector = (1 - share) * steps.distinct[:, below] + share * steps.distinct[:, below + 1]
    return found


def predicted(values: Values, data: Measured) -> tuple[Vector, Vector]:
    """TPOT and mean TTFT of every row, in seconds."""
    seconds = step_seconds(values, data.steps)
    factors = np.array([values.get(name, 1.0) for name in data.pairs])[data.pair]
    tpot: Vector = factors * np.bincount(data.steps.row, seconds * data.steps.tpot, len(factors))
    ttft: Vector = factors * np.bincount(data.steps.row, seconds * data.steps.ttft, len(factors))
    server = np.array([values[f"{engine} server_ms"] * 1e-3 for engine in ENGINES])
    return tpot, ttft + server[data.engine]


def fit(start: Values, data: Measured, rows: Vector) -> tuple[Values, Values]:
    """Values and their standard errors, fitted on some rows; rows of one deployment share its weight."""
    seen = {data.pairs[pair]: 1.0 for pair in np.unique(data.pair[rows])}
    start = {**start, **seen}
    names = list(start)
    first = np.log([start[name] for name in names])
    is_share = [
        name.split()[1].startswith(("bandwidth", "compute", "link_share", "activation")) for name in names
    ]
    most = np.array([MOST_BANDWIDTH if name.endswith("bandwidth") else MOST for name in names])
    upper = np.where(is_share, np.log(most), first + 3)
    sigma = np.array([_sigma(name) for name in names])
    group = _groups(data)[rows]

    def residuals(logs: Vector) -> Vector:
        tpot, ttft = predicted(dict(zip(names, np.exp(logs).tolist(), strict=True)), data)
        return np.concatenate(
            [
                _soft(_whitened(np.log(tpot / data.tpot_s)[rows], group, *TPOT_SPREAD)),
                _soft(_whitened(np.log(ttft / data.ttft_s)[rows], group, *TTFT_SPREAD)),
                (logs - first) / sigma,
            ]
        )

    solution = least_squares(
        residuals,
        np.minimum(first, upper - 1e-3),
        bounds=(first - 3, upper),
        max_nfev=30,
        x_scale=0.3,
        ftol=1e-4,
    )
    covariance = np.linalg.pinv(solution.jac.T @ solution.jac)
    errors = np.sqrt(np.diag(covariance))
    return (
        dict(zip(names, np.exp(solution.x).tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
    )


def _sigma(name: str) -> float:
    table, key = name.split()[:2]
    return SIGMAS.get(table, SIGMAS.get(key.split("_")[0], PRIOR_SIGMA))


def _soft(z: Vector) -> Vector:
    """Residuals whose square grows linearly once they are large."""
    found: Vector = np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z**2) - 1))
    return found


def _groups(data: Measured) -> NDArray[np.int64]:
    """Of each row, the number of its deployment."""
    known: dict[object, int] = {}
    found = [known.setdefault((row.source, row.deployment), len(known)) for row in data.rows]
    return np.array(found)


def _whitened(off: Vector, group: NDArray[np.int64], shared: float, own: float) -> Vector:
    """Residuals with variance one and no correlation, of such that share an offset within a group; those
    that are missing are zero.
    """
    there = np.isfinite(off)
    count = np.bincount(group, there)
    mean = np.bincount(group, np.where(there, off, 0.0)) / np.maximum(count, 1)
    known = 1 - 1 / np.sqrt(1 + count * shared**2 / own**2)  # of the mean, what goes for the offset
    return np.where(there, (off - (known * mean)[group]) / own, 0.0)


def _say(name: str, fit: Fit) -> None:
    values = ", ".join(f"{k} {v:.3g} ± {fit.errors[k]:.0%}" for k, v in fit.values.items())
    print(f"{name}: {values}; error {fit.median:.1%} / {fit.p90:.1%} of {fit.count}")


def _score(ratio: Vector) -> str:
    off = np.abs(ratio[np.isfinite(ratio)] - 1)
    return f"{np.median(off):.1%} / {np.quantile(off, 0.9):.1%} of {len(off)}"


def main(operations: Path) -> None:
    start = priors(operations)
    record = Recorder()
    data = measured([row for row in usable_rows() if row.load == "closed loop"], record)
    everything = np.ones(len(data.rows), dtype=bool)
    values, errors = fit(start, data, everything)
    write(values, errors, FILE)
    for name, found in (("before", start), ("in sample", values)):
        tpot, ttft = predicted(found, data)
        print(f"{name}: TPOT {_score(tpot / data.tpot_s)}, TTFT {_score(ttft / data.ttft_s)}")
    for path in LEFT_OUT.glob("*.toml"):
        path.unlink()
    for column in ("part", "model"):
        keys = np.array([str(getattr(row.deployment, column)) for row in data.rows])
        tpot, ttft = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
        for key in sorted(set(keys)):
            without, errors = fit(start, data, keys != key)
            write(without, errors, LEFT_OUT / f"{key}.toml")
            found_tpot, found_ttft = predicted(without, data)
            tpot[keys == key], ttft[keys == key] = found_tpot[keys == key], found_ttft[keys == key]
        print(f"without its {column}: TPOT {_score(tpot / data.tpot_s)}, TTFT {_score(ttft / data.ttft_s)}")
    write_intervals(INTERVALS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
