"""A row whose requests came at a rate, whatever became of them: served in virtual time.

Unlike in a closed loop, which steps run depends on how long they take, so nothing can be recorded once.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from random import Random

import numpy as np

from membound.costs import deployment as costs
from membound.costs.calibration import Calibration
from membound.costs.precisions import precisions
from membound.errors import InputError
from membound.hardware.accelerator import Cluster
from membound.hardware.lookup import find
from membound.models.names import dimensions_of
from membound.scoreboard.closed_loop import Loop
from membound.scoreboard.rows import Row
from membound.simulation.engines import engine_settings
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import BLOCK_TOKENS, Arrival, Open, constant, poisson

REQUESTS = 2000  # enough that filling and emptying the engine hardly show


def served_at_rate(row: Row, calibration: Calibration) -> dict[str, float]:
    """TTFT and TPOT (mean, p50, p99) in seconds, and throughput in tokens per second; InputError if a request
    could never fit.
    """
    deployment, part = row.deployment, find(row.deployment.part).accelerator
    model = dimensions_of(deployment.model)
    asked = costs.Deployment(
        deployment.model,
        model,
        Cluster(part),
        deployment.layout,
        precisions(model, deployment.weights, deployment.kv),
        deployment.engine,
        calibration=calibration,
    )
    settings = engine_settings(
        deployment.engine, part, max_step_tokens=row.step_tokens, max_running=row.max_running
    )
    server_s = calibration.engine(deployment.engine).server_s
    arrivals = _arrivals(row)
    found = simulate(asked, Open(lambda: iter(arrivals)), settings=replace(settings, server_s=server_s))
    if not found.completed:
        raise InputError(
            f"no request fits the {found.kv_tokens} tokens of cache: it cannot have run like this"
        )
    tpot = found.tpot_s[np.isfinite(found.tpot_s)]
    return {
        "ttft_mean": float(found.ttft_s.mean()),
        "ttft_p50": float(np.quantile(found.ttft_s, 0.5)),
        "ttft_p99": float(np.quantile(found.ttft_s, 0.99)),
        "tpot_mean": float(tpot.mean()),
        "tpot_p50": float(np.quantile(tpot, 0.5)),
        "throughput": found.output_tok_per_s,
    }


def _arrivals(row: Row) -> list[Arrival]:
    """REQUESTS of the row's lengths, at its rate, which begin with the same tokens."""
    lengths = Loop.uniform(1, round(row.prompt), round(row.output), REQUESTS, row.spread).lengths
    gaps = constant(row.rate) if row.load == "constant rate" else poisson(row.rate, Random(0))
    keys = tuple(range(row.prefix // BLOCK_TOKENS))
    now, found = 0.0, []
    for (prompt, output), gap, prefix in zip(lengths, gaps, repeat(keys), strict=False):
        now += gap
        found.append(Arrival(now, prompt, output, prefix))
    return found
