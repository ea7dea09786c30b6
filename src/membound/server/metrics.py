"""Prometheus metrics under vLLM's names, and what only a ruler beside the steps can tell."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from membound.server.ledger import Entry
from membound.server.monitor import Monitor
from membound.serving.scheduler import Scheduler

FAST = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
)
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
LABELS = ("model_name", "engine")

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily | InfoMetricFamily


class Gaps:
    """A histogram of seconds between tokens. Every token of every stream passes here: it has no locks."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self.tokens = 0

    def add(self, tokens: int, seconds: float) -> None:
        """Of one event of a stream, which may carry several tokens."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds
        self.tokens += tokens

    def family(self, name: str, labels: Sequence[str]) -> HistogramMetricFamily:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        family = HistogramMetricFamily(name, "Between tokens of a request.", labels=LABELS)
        family.add_metric(labels, buckets, self._sum)
        return family


class Metrics:
    """A registry of its own; the ledger tells it what happened."""

    def __init__(self, prefix: str, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._prefix = prefix
        self._labels = (model, "0")

        def histogram(name: str, what: str, buckets: Iterable[float]) -> Histogram:
            made = Histogram(f"{prefix}:{name}", what, LABELS, buckets=tuple(buckets), registry=self.registry)
            return made.labels(*self._labels)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"{prefix}:{name}", what, LABELS, registry=self.registry).labels(*self._labels)

        self._ttft = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", (*FAST, 10, 20, 40, 80)
        )
        self._gaps = Gaps(FAST)
        self._tpot = histogram(
            "request_time_per_output_token_seconds", "Mean after the first token, per request.", FAST
        )
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the end.", SLOW)
        self._queue = histogram("request_queue_time_seconds", "From arrival to the first step.", SLOW)
        self._prefill = histogram(
            "request_prefill_time_seconds", "From the first step to the first token.", SLOW
        )
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.", SLOW)
        self._inference = histogram(
            "request_inference_time_seconds", "From the first step to the last token.", SLOW
        )
        self._prompts = histogram("request_prompt_tokens", "Prompt tokens per request.", TOKENS)
        self._outputs = histogram("request_generation_tokens", "Output tokens per request.", TOKENS)
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens that were computed or found.")
        self._success = Counter(
            f"{prefix}:request_success",
            "Requests by how they ended.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self._step_tokens = histogram("iteration_tokens_total", "Tokens per step.", TOKENS)

    @property
    def output_tokens(self) -> int:
        """All there were so far."""
        return self._gaps.tokens

    def watch(self, scheduler: Scheduler, monitor: Monitor, lags: Callable[[], tuple[float, float]]) -> None:
        """Read these at every scrape."""
        self.registry.register(_State(self._prefix, self._labels, scheduler, monitor, lags, self._gaps))

    def first_token(self, entry: Entry) -> None:
        if entry.ttft_s is not None:
            self._ttft.observe(entry.ttft_s)
        if entry.queue_s is not None:
            self._queue.observe(entry.queue_s)
        self._prompt_tokens.inc(entry.prompt_tokens)
        self._gaps.tokens += entry.output_tokens

    def later_tokens(self, count: int, gap_s: float) -> None:
        self._gaps.add(count, gap_s)

    def ended(self, entry: Entry) -> None:
        self._success.labels(*self._labels, entry.reason).inc()
        self._prompts.observe(entry.prompt_tokens)
        self._outputs.observe(entry.output_tokens)
        for histogram, value in (
            (self._e2e, entry.e2e_s),
            (self._tpot, entry.tpot_s),
            (self._prefill, _between(entry.admitted, entry.first)),
            (self._decode, _between(entry.first, entry.last)),
            (self._inference, _between(entry.admitted, entry.last)),
        ):
            if value is not None:
                histogram.observe(value)

    def stepped(self, tokens: int) -> None:
        self._step_tokens.observe(tokens)


class _State(Collector):
    """What the scheduler and the monitor know, read when scraped."""

    def __init__(
        self,
        prefix: str,
        labels: tuple[str, str],
        scheduler: Scheduler,
        monitor: Monitor,
        lags: Callable[[], tuple[float, float]],
        gaps: Gaps,
    ) -> None:
        self._prefix = prefix
        self._labels = labels
        self._scheduler = scheduler
        self._monitor = monitor
        self._lags = lags
        self._gaps = gaps

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Family]:
        scheduler, monitor = self._scheduler, self._monitor
        pool = scheduler.pool
        pacing, delivery = self._lags()
        gauges = (
            ("num_requests_running", "Requests in the batch.", len(scheduler.running)),
            ("num_requests_waiting", "Requests in the queue.", len(scheduler.waiting)),
            ("kv_cache_usage_perc", "Share of the KV cache in use; 1 is full.", 1 - pool.free / pool.blocks),
            ("event_loop_tasks", "Tasks of the server's event loop.", len(asyncio.all_tasks())),
            ("pacing_lag_seconds", "By how much predicted steps begin too late.", pacing),
            ("delivery_lag_seconds", "The longest that news waited for the event loop lately.", delivery),
            ("step_share_of_limit", "Least time for the latest steps over what they took.", monitor.latest),
            ("roof_bandwidth_bytes_per_second", "The memory roof.", monitor.roof.bandwidth_bytes_per_s),
            ("roof_flops_per_second", "The arithmetic roof.", monitor.roof.flops_per_s),
        )
        counters = (
            ("generation_tokens", "Output tokens.", self._gaps.tokens),
            ("num_preemptions", "Requests that lost their blocks.", scheduler.preemptions),
            ("prefix_cache_queries", "Prompt tokens looked up.", scheduler.prompt_tokens),
            ("prefix_cache_hits", "Prompt tokens found.", scheduler.hit_tokens),
            ("steps", "Steps run.", monitor.steps),
            ("step_seconds", "Time in the executor.", monitor.seconds),
            ("step_bytes", "Bytes that the steps moved.", monitor.bytes),
            ("step_flops", "FLOPs of the steps.", monitor.flops),
            ("step_limit_seconds", "The least time for these steps.", monitor.limit_s),
        )
        for name, what, value in gauges:
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", what, labels=LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        for name, what, value in counters:
            counter = CounterMetricFamily(f"{self._prefix}:{name}", what, labels=LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        yield self._gaps.family(f"{self._prefix}:inter_token_latency_seconds", self._labels)
        info = InfoMetricFamily(f"{self._prefix}:cache_config", "The KV cache.", labels=("engine",))
        info.add_metric(
            ("0",), {"block_size": str(scheduler.block_tokens), "num_gpu_blocks": str(pool.blocks)}
        )
        yield info


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin
