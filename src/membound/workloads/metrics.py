"""What a user feels: time to first token, time per output token, the gaps between tokens, and summaries.

Definitions as in vLLM, SGLang, MLPerf and DistServe: TTFT is the time from sent to the first non-empty token;
TPOT is one value per request, (last - first) / (tokens - 1), undefined for a single token; ITL are the gaps
between stream events, pooled over requests.

Scheduled latency is the end less the *intended* send time, dispatch delay the actual less the intended: a
load generator that waits for a slow server and sends late (coordinated omission) shows in both.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """When one request was sent and its events with text or tokens came, in seconds on one clock.

    `tokens` counts all output tokens, which may exceed the events where one event carries several.
    """

    sent: float
    events: Sequence[float]
    tokens: int

    @property
    def ttft_s(self) -> float | None:
        """None if nothing ever came."""
        return self.events[0] - self.sent if self.events else None

    @property
    def tpot_s(self) -> float | None:
        """None below two tokens."""
        if self.tokens < 2 or not self.events:
            return None
        return (self.events[-1] - self.events[0]) / (self.tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)]

    @property
    def e2e_s(self) -> float | None:
        """Seconds from sent to the last event."""
        return self.events[-1] - self.sent if self.events else None


@dataclass(frozen=True, slots=True)
class Summary:
    """Of any sample, in its unit."""

    mean: float
    p50: float
    p90: float
    p99: float


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` (0 … 1) of the sample lies, by linear interpolation.

    Infinite values stand for failed requests: a percentile that touches one is infinite. ValueError if the
    sample is empty.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(ordered)} values")
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    if below == above:
        return below
    return below + (above - below) * (place - math.floor(place))


def summarize(values: Iterable[float]) -> Summary | None:
    """None of an empty sample."""
    sample = sorted(values)
    if not sample:
        return None
    mean = math.fsum(sample) / len(sample) if math.isfinite(sample[-1]) else math.inf
    return Summary(mean, percentile(sample, 0.5), percentile(sample, 0.9), percentile(sample, 0.99))


def adjusted(values: Iterable[float], failures: int) -> list[float]:
    """The sample with an infinite value for each failed request, so that losing them improves nothing."""
    return [*values, *[math.inf] * failures]


def steady_window(starts: Sequence[float], ends: Sequence[float]) -> tuple[float, float] | None:
    """From the first end to the last start: in between, requests both come and go.

    Before it the system fills, after it it drains; rates are taken within it. None where no request ended
    before the last one came, so that there is no such window.
    """
    if not starts or not ends or min(ends) >= max(starts):
        return None
    return min(ends), max(starts)
