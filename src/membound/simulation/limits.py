"""What bounded a run: what its steps waited for, and what its requests waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from membound.costs.roofline import StepCost
from membound.simulation.result import SimulationResult
from membound.simulation.watch import Moment, Watch

ASKED = 48  # moments of a run whose steps are taken apart
QUIET = 0.5  # share of the time without a step from which the traffic is what bounds
HELD = 0.2  # share of the time with waiting requests from which what they wait for bounds


def time_shares(watched: Sequence[tuple[StepCost, Watch]]) -> Mapping[str, float]:
    """Of the time in which steps ran, the shares that waited for memory, compute, link and the engine."""
    shares: dict[str, float] = {}
    # A moment stands for the time to the next of its replica.
    moments = [(cost, moment, watch.spacing_s) for cost, watch in watched for moment in watch.moments]
    asked = moments[:: max(1, len(moments) // ASKED)]
    whole = sum(stands_for for _, _, stands_for in asked)
    for cost, moment, stands_for in asked:
        operations = cost.estimate(_chunks(moment)).operations
        seconds = sum(operation.seconds for operation in operations)
        for operation in operations:
            part = operation.seconds / seconds * stands_for / whole
            shares[operation.bound] = shares.get(operation.bound, 0.0) + part
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _chunks(moment: Moment) -> list[tuple[int, int]]:
    """The step, with the contexts of what decodes taken as their mean."""
    chunks = list(moment.chunks)
    if moment.decodes:
        chunks += [(1, moment.context[None] // moment.decodes)] * moment.decodes
    return chunks


def bound(result: SimulationResult, shares: Mapping[str, float]) -> str:
    """In a word or two: traffic, a limit of the engine, or what its steps waited for most."""
    held = result.held_share
    worst = next(iter(held), "")
    if worst and held[worst] >= HELD:
        return worst
    if result.busy_share <= 1 - QUIET:
        return "traffic"
    return next(iter(shares), "traffic")


def told(result: SimulationResult, shares: Mapping[str, float]) -> list[str]:
    """The same in sentences."""
    lines = [
        f"steps ran {result.busy_share:.0%} of the time, with {result.mean_batch:.1f} sequences decoding"
        " in the mean"
    ]
    if shares:
        parts = ", ".join(f"{what} {share:.0%}" for what, share in shares.items())
        lines.append(f"in these steps the time went to {parts}")
    for what, share in result.held_share.items():
        if share >= 0.005:
            lines.append(f"requests waited for {WAITED[what]} {share:.0%} of the time")
    if result.rejected:
        lines.append(f"{result.rejected} requests could never fit into the KV cache and were refused")
    return lines


WAITED = {
    "kv-cache": "room in the KV cache",
    "max-num-seqs": "a slot (--max-num-seqs)",
    "max-batched-tokens": "room in a step (--max-batched-tokens)",
}
