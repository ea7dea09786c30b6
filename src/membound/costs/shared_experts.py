"""What experts take that data-parallel ranks share: their rows come from all ranks, not from one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from membound.costs.roofline import StepCost

Seconds = Callable[[float], float]


def shared_experts(cost: StepCost) -> Seconds:
    """Seconds of the experts in a step, as part of `cost`, by the rows that a rank brings in the mean."""
    features = cost.features
    known: dict[float, float] = {0.0: 0.0}

    def seconds(rows: float) -> float:
        if rows not in known:
            found = np.zeros(len(features))
            found[features.place("any")] = 1.0
            found[features.place("rows")] = rows
            found = features.divided(found, 1.0)
            known[rows] = sum(
                float(each)
                for stage in cost.stages
                for each, kernel in zip(stage.seconds_of_kernels(found), stage.kernels, strict=True)
                if kernel.kind == "experts"
            )
        return known[rows]

    return seconds
