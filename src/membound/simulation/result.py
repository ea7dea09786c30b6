"""What a simulation found: per request, in sum, and what bounded it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from membound.costs.roofline import StepCost
from membound.simulation.log import Log
from membound.simulation.watch import Watch, gap_percentiles
from membound.workloads.metrics import Summary
from membound.workloads.slo import Slo as Slo

Vector = NDArray[np.float64]
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class SimulationResult:
    """All times in seconds of virtual time; arrays are per completed request, in order of completion."""

    requests: int  # that were sent
    rejected: int  # that could never fit
    log: Log
    watched: list[tuple[StepCost, Watch]]  # of each replica: what its steps cost, and what they did
    slo: Slo
    accelerators: int
    preemptions: int
    prompt_tokens: int  # of admitted requests
    hit_tokens: int  # of these, found in the cache
    simulated_s: float  # from the first arrival to the last end
    began_s: float
    wall_s: float  # that the simulation took
    max_running: int  # requests at once, on one replica
    kv_tokens: int  # of the cache of one replica

    @property
    def watches(self) -> list[Watch]:
        return [watch for _, watch in self.watched]

    @property
    def completed(self) -> int:
        return len(self.log)

    @cached_property
    def sent_s(self) -> Vector:
        return self.log.column("sent")

    @cached_property
    def ttft_s(self) -> Vector:
        return self.log.column("first") - self.sent_s

    @cached_property
    def queue_s(self) -> Vector:
        """From sent until the first step that computed anything of it began."""
        return self.log.column("admitted") - self.sent_s

    @cached_property
    def e2e_s(self) -> Vector:
        return self.log.column("last") - self.sent_s

    @cached_property
    def output_tokens(self) -> Vector:
        return self.log.column("output")

    @cached_property
    def tpot_s(self) -> Vector:
        """NaN for a single token."""
        spans = self.log.column("last") - self.log.column("first")
        gaps = self.output_tokens - 1
        tpot: Vector = np.divide(spans, gaps, out=np.full(len(spans), np.nan), where=gaps > 0)
        return tpot

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Whether each completed request met every SLO; a single token has no TPOT to miss."""
        slow = (
            (self.ttft_s > self.slo.ttft_s) | (self.tpot_s > self.slo.tpot_s) | (self.e2e_s > self.slo.e2e_s)
        )
        good: NDArray[np.bool_] = ~slow
        return good

    @property
    def slo_attainment(self) -> float:
        """Good requests over all that were sent."""
        return float(self.good.sum()) / self.requests if self.requests else 0.0

    @property
    def goodput_req_per_s(self) -> float:
        return self._per_second(float(self.good.sum()))

    @property
    def req_per_s(self) -> float:
        return self._per_second(self.completed)

    @property
    def output_tok_per_s(self) -> float:
        return self._per_second(float(self.output_tokens.sum()))

    @property
    def total_tok_per_s(self) -> float:
        """Prompt and output tokens."""
        return self._per_second(float(self.output_tokens.sum()) + float(self.log.column("prompt").sum()))

    def _per_second(self, number: float) -> float:
        return number / self.simulated_s if self.simulated_s else 0.0

    @property
    def prefix_hit_rate(self) -> float:
        """Of the prompt tokens of admitted requests, those that were found in the cache."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def kv_occupancy(self) -> float:
        """Share of the blocks in use, the mean over all replicas and all time."""
        room = sum(watch.blocks for watch in self.watches) * self.simulated_s
        return sum(watch.used_block_s for watch in self.watches) / room if room else 0.0

    @property
    def kv_occupancy_peak(self) -> float:
        return max(watch.most_used / watch.blocks for watch in self.watches)

    @property
    def busy_share(self) -> float:
        """Of the time, how much a replica had a step under way."""
        return self._per_second(sum(watch.busy_s for watch in self.watches)) / len(self.watches)

    @property
    def steps(self) -> int:
        return sum(watch.steps for watch in self.watches)

    @property
    def mean_batch(self) -> float:
        """Decoded tokens per step."""
        return sum(watch.decoded_tokens for watch in self.watches) / self.steps if self.steps else 0.0

    @property
    def running(self) -> float:
        """Requests that run, the mean over time."""
        return self._per_second(float((self.e2e_s - self.queue_s).sum()))

    @property
    def in_system(self) -> float:
        """Requests in the system, the mean over time (Little: the rate times the mean end-to-end time)."""
        return self._per_second(float(self.e2e_s.sum()))

    @cached_property
    def itl_s(self) -> Summary | None:
        """Gaps between tokens, pooled over requests; those over a preemption are not among them."""
        gaps: Counter[int] = Counter()
        for watch in self.watches:
            gaps.update(watch.gaps)
        tokens = sum(gaps.values())
        if not tokens:
            return None
        return Summary(sum(w.gap_s for w in self.watches) / tokens, *gap_percentiles(gaps, SHARES))

    def summaries(self) -> Mapping[str, Summary | None]:
        """Mean and percentiles of each latency."""
        return {
            "ttft_s": summary_of(self.ttft_s),
            "tpot_s": summary_of(self.tpot_s[~np.isnan(self.tpot_s)]),
            "itl_s": self.itl_s,
            "e2e_s": summary_of(self.e2e_s),
            "queue_s": summary_of(self.queue_s),
        }

    @property
    def held_share(self) -> Mapping[str, float]:
        """Share of the time in which requests waited, by what the first in line waited for."""
        held: dict[str, float] = {}
        for watch in self.watches:
            for what, seconds in watch.held_s.items():
                held[what] = held.get(what, 0.0) + self._per_second(seconds) / len(self.watches)
        return dict(sorted(held.items(), key=lambda item: -item[1]))


def summary_of(values: Vector) -> Summary | None:
    """None of an empty sample."""
    if not len(values):
        return None
    return Summary(float(values.mean()), *(float(v) for v in np.quantile(values, SHARES)))
