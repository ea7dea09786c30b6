"""A run in figures, by the definitions of `membound.workloads.metrics`.

Figures are of the requests whose intended send time lies within the window that is left after warm-up and
cool-down; rates are per second of that window. Without a cut it runs from the first intended send to the last
end. The steady window beside it begins when the first request has ended and ends when the last one is sent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membound.measuring.clients import Run
from membound.measuring.overhead import warnings
from membound.measuring.record import Record
from membound.workloads.metrics import Summary, adjusted, percentile, steady_window, summarize
from membound.workloads.slo import Slo

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "scheduled_latency_s", "dispatch_delay_s")
ADJUSTED = ("ttft_s", "tpot_s", "e2e_s", "scheduled_latency_s")


@dataclass(frozen=True)
class Steady:
    """Rates while requests both came and went."""

    start_s: float
    end_s: float
    requests_per_s: float  # that ended within it
    output_tok_per_s: float
    concurrency: float  # requests under way, the mean over time


@dataclass(frozen=True)
class Measured:
    """What a run showed."""

    run: Run
    slo: Slo = field(default_factory=Slo)
    warm_up_s: float = 0.0
    cool_down_s: float = 0.0

    @cached_property
    def window(self) -> tuple[float, float]:
        """Seconds since the run began."""
        records = self.run.records
        if not records:
            return 0.0, 0.0
        intended = [record.intended_s for record in records]
        start = self.warm_up_s if self.warm_up_s else min(intended)
        end = max(intended) - self.cool_down_s if self.cool_down_s else max(r.ended_s for r in records)
        return start, max(start, end)

    @cached_property
    def records(self) -> list[Record]:
        """The requests that count."""
        start, end = self.window
        return [record for record in self.run.records if start <= record.intended_s <= end]

    @cached_property
    def succeeded(self) -> list[Record]:
        return [record for record in self.records if record.succeeded]

    @cached_property
    def good(self) -> int:
        """Requests that succeeded and held every limit."""
        return sum(self.slo.held_by(record.timing) for record in self.succeeded)

    @property
    def slo_attainment(self) -> float:
        return self.good / len(self.records) if self.records else 0.0

    @property
    def goodput_req_per_s(self) -> float:
        return self._per_second(self.good)

    @property
    def req_per_s(self) -> float:
        return self._per_second(len(self.succeeded))

    @property
    def output_tok_per_s(self) -> float:
        """Tokens that came within the window."""
        return self._per_second(tokens_within(self.run.records, *self.window))

    def _per_second(self, number: float) -> float:
        start, end = self.window
        return number / (end - start) if end > start else 0.0

    @cached_property
    def error_kinds(self) -> dict[str, int]:
        return dict(Counter(r.error for r in self.records if r.error is not None).most_common())

    @cached_property
    def samples(self) -> dict[str, list[float]]:
        """Each latency of the requests that succeeded; dispatch delays of all; gaps between events pooled."""
        timings = [record.timing for record in self.succeeded]
        return {
            "ttft_s": [t.ttft_s for t in timings if t.ttft_s is not None],
            "tpot_s": [t.tpot_s for t in timings if t.tpot_s is not None],
            "itl_s": [gap for t in timings for gap in t.itl_s],
            "e2e_s": [t.e2e_s for t in timings if t.e2e_s is not None],
            "scheduled_latency_s": [record.scheduled_latency_s for record in self.succeeded],
            "dispatch_delay_s": [record.dispatch_delay_s for record in self.records],
        }

    @cached_property
    def summaries(self) -> dict[str, Summary | None]:
        return {name: summarize(sample) for name, sample in self.samples.items()}

    @cached_property
    def adjusted(self) -> dict[str, Summary | None]:
        """With an infinite value for every request that failed."""
        failures = len(self.records) - len(self.succeeded)
        return {name: summarize(adjusted(self.samples[name], failures)) for name in ADJUSTED}

    @cached_property
    def steady(self) -> Steady | None:
        """None where the run was too short for one."""
        done = [record for record in self.run.records if record.succeeded]
        window = steady_window([r.sent_s for r in self.run.records], [r.ended_s for r in done])
        if window is None:
            return None
        start, end = window
        seconds = end - start
        under_way = sum(max(0.0, min(r.ended_s, end) - max(r.sent_s, start)) for r in self.run.records)
        return Steady(
            start,
            end,
            sum(start <= r.ended_s <= end for r in done) / seconds,
            tokens_within(done, start, end) / seconds,
            under_way / seconds,
        )

    @property
    def tokens_per_event(self) -> float | None:
        """Above 1, gaps between events are not gaps between tokens."""
        events = sum(len(record.events_s) for record in self.succeeded)
        return sum(record.output_tokens for record in self.succeeded) / events if events else None

    @property
    def prefix_hit_rate(self) -> float | None:
        """Of the prompt tokens, those that the server found cached; None if it does not say."""
        told = [r for r in self.succeeded if r.cached_tokens is not None and r.prompt_tokens]
        prompt = sum(record.prompt_tokens or 0 for record in told)
        return sum(record.cached_tokens or 0 for record in told) / prompt if prompt else None

    @property
    def exact_prompts(self) -> float | None:
        """Share of the requests whose prompt had the length that was asked, by the server's count."""
        told = [record for record in self.succeeded if record.prompt_tokens is not None]
        exact = sum(record.prompt_tokens == record.asked_prompt_tokens for record in told)
        return exact / len(told) if told else None

    @cached_property
    def warnings(self) -> list[str]:
        """What to know before believing the figures."""
        delays = self.samples["dispatch_delay_s"]
        found = warnings(self.run.overheads, percentile(delays, 0.99) if delays else 0.0)
        if self.run.interrupted:
            found.append("interrupted: requests that were under way are not among the figures")
        short = sum(r.output_tokens < r.asked_output_tokens for r in self.succeeded)
        if short:
            found.append(f"{short} of {len(self.succeeded)} answers were shorter than asked")
        if self.exact_prompts is not None and self.exact_prompts < 0.99:
            found.append(
                f"only {self.exact_prompts:.0%} of the prompts had exactly the tokens that were asked"
            )
        guessed = {r.counted_by for r in self.succeeded} - {"usage"}
        if guessed:
            found.append(f"output tokens are counted by {' and '.join(sorted(guessed))}: no usage came")
        per_event = self.tokens_per_event
        if per_event is not None and per_event > 1.05:
            found.append(f"an event carries {per_event:.2f} tokens: ITL is between events, not tokens")
        for kind, number in self.error_kinds.items():
            message = next(r.message for r in self.records if r.error == kind)
            found.append(f"{number} failed, {kind}: {message}")
        return found

    def as_json(self) -> dict[str, Any]:
        """The stable keys of the command; infinite values as the word inf, which is valid JSON."""
        return {
            "requests": len(self.records),
            "completed": len(self.succeeded),
            **{name: summary_json(self.summaries[name]) for name in LATENCIES},
            "output_tok_per_s": self.output_tok_per_s,
            "req_per_s": self.req_per_s,
            "slo_attainment": self.slo_attainment,
            "goodput_req_per_s": self.goodput_req_per_s,
            "preemptions": None,  # an endpoint does not tell
            "prefix_hit_rate": self.prefix_hit_rate,
            "simulated_s": None,
            "wall_s": self.run.wall_s,
            "errors": len(self.records) - len(self.succeeded),
            "error_kinds": self.error_kinds,
            "adjusted": {name: summary_json(self.adjusted[name]) for name in ADJUSTED},
            "window_s": list(self.window),
            "steady": vars(self.steady) if self.steady else None,
            "tokens_per_event": self.tokens_per_event,
            "exact_prompts": self.exact_prompts,
            "client": [vars(overhead) for overhead in self.run.overheads],
            "warnings": self.warnings,
        }


def summary_json(summary: Summary | None) -> dict[str, float | str] | None:
    if summary is None:
        return None
    values = {name: getattr(summary, name) for name in Summary.__slots__}
    return {name: value if math.isfinite(value) else "inf" for name, value in values.items()}


def tokens_within(records: Sequence[Record], start: float, end: float) -> float:
    """Tokens of answers that succeeded, spread evenly over their events, that came between two moments."""
    total = 0.0
    for record in records:
        if record.succeeded and record.events_s:
            moments: NDArray[np.float64] = np.asarray(record.events_s)
            inside = int(((moments >= start) & (moments <= end)).sum())
            total += inside * record.output_tokens / len(moments)
    return total
