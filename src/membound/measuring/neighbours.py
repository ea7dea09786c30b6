"""What else the machine does while something is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
TICKS_PER_S = 100.0  # of the columns of /proc/stat on every Linux that Python runs on
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts and, of virtual machines, what the host takes


class Neighbours:
    """Watches from the moment it is made, over the cores that this process may use."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._began = self._read()

    def share(self) -> float | None:
        """Of the cores' time since then, what others took; None where the system does not tell."""
        now = self._read()
        if now is None or self._began is None:
            return None
        (busy, own, wall), (busy_then, own_then, wall_then) = now, self._began
        others = (busy - busy_then) - (own - own_then)
        return max(0.0, others / max(1e-9, (wall - wall_then) * len(self._cores)))

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds that the cores were busy, that this process was, and of the clock."""
        try:
            lines = self._stat.read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        names = {f"cpu{core}" for core in self._cores}
        ticks = [line.split() for line in lines]
        busy = sum(int(line[1 + column]) for line in ticks if line and line[0] in names for column in BUSY)
        used = os.times()
        return busy / TICKS_PER_S, used.user + used.system, time.perf_counter()
