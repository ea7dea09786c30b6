"""How busy the load generator itself was: where it falls behind, it measures itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from membound.workloads.metrics import percentile

PERIOD_S = 0.02
BUSY, LATE_S = 0.7, 0.005


@dataclass(frozen=True)
class Overhead:
    """Of one client process: share of a core it used, and how late its event loop ran, in seconds."""

    cpu_share: float
    loop_lag_p50_s: float
    loop_lag_p99_s: float


class Watch:
    """Looks every 20 ms whether the loop is on time; start it within the loop, `stop` it for the answer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lags: list[float] = []
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._due = self._loop.time() + PERIOD_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._lags.append(now - self._due)
        self._due = now + PERIOD_S
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> Overhead:
        self._timer.cancel()
        wall = max(1e-9, time.perf_counter() - self._wall)
        lags = self._lags or [0.0]
        return Overhead(
            (time.process_time() - self._cpu) / wall, percentile(lags, 0.5), percentile(lags, 0.99)
        )


def warnings(clients: Iterable[Overhead], dispatch_p99_s: float) -> list[str]:
    """What of the measurement is the client's own doing, in sentences; none if it kept up."""
    found = []
    each = list(clients)
    busiest = max((client.cpu_share for client in each), default=0.0)
    if busiest > BUSY:
        found.append(
            f"the load generator used {busiest:.0%} of a core: latencies may be its own; raise --clients or "
            "run it on another machine"
        )
    latest = max((client.loop_lag_p99_s for client in each), default=0.0)
    if latest > LATE_S:
        found.append(f"the load generator's own loop was up to {latest * 1e3:.1f} ms late (p99)")
    if dispatch_p99_s > 2 * LATE_S:
        found.append(
            f"requests were sent up to {dispatch_p99_s * 1e3:.1f} ms late (p99): scheduled latency "
            "counts from when they were due"
        )
    return found
