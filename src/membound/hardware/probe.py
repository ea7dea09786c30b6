"""Measure this machine's roofs with the native kernels' own loops.

The roof moves: neighbours on a shared host, frequency and page placement change it within minutes. So what
is measured here is told beside what was timed at the same moment (`read_bandwidth`), and only predictions use
the roofs that an earlier probe left in the cache (`cached`).
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from membound import _core
from membound.errors import RunError
from membound.hardware.cores import no_more_than_cores
from membound.hardware.memory import available_memory

MIB = 2**20
WORKING_SETS = tuple(size * MIB for size in (16, 32, 64, 96, 128, 256, 512, 1024))
"""Bytes read over and over: from inside most last-level caches to far beyond them."""

PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class Roofs:
    """What the machine can do at most, as measured."""

    processor: str
    cores: int  # threads that the probe used
    instruction_set: str
    bandwidths: tuple[tuple[int, float], ...]  # (working set in bytes, bytes per second), ascending
    peaks: dict[
        str, float
    ]  # FLOP/s (multiply and add are two) by precision; what the machine lacks is absent
    measured_at: float  # seconds since the epoch

    @property
    def read_bandwidth_bytes_per_s(self) -> float:
        """Beyond the caches: of the largest working set."""
        return self.bandwidths[-1][1]

    def bandwidth(self, working_set: int) -> float:
        """Bytes per second for a working set of that many bytes, between the measured sizes linearly."""
        before = self.bandwidths[0]
        for after in self.bandwidths:
            if working_set <= after[0]:
                span = after[0] - before[0]
                share = (working_set - before[0]) / span if span and working_set > before[0] else 0.0
                return before[1] + (after[1] - before[1]) * share
            before = after
        return before[1]

    @property
    def ridges(self) -> dict[str, float]:
        """FLOP per byte at which each precision stops being bound by memory."""
        return {name: peak / self.read_bandwidth_bytes_per_s for name, peak in self.peaks.items()}


def read_bandwidth(working_set: int, *, threads: int | None = None, seconds: float = 0.2) -> float:
    """Bytes per second that all threads read together from `working_set` bytes, now."""
    return float(_core.probe_read(max(working_set, MIB), threads or 0, seconds))


def peak_flops(*, threads: int | None = None, seconds: float = 0.1) -> dict[str, float]:
    """FLOP/s by precision, now; a precision that the processor lacks is absent."""
    found = {name: _core.probe_flops(name, threads or 0, seconds) for name in PRECISIONS}
    return {name: float(peak) for name, peak in found.items() if peak is not None}


def probe(
    *,
    threads: int | None = None,
    seconds: float = 0.2,
    progress: Callable[[str], None] = lambda what: None,
) -> Roofs:
    """Measure all roofs, about three seconds at the default, and remember them for predictions of as many
    threads; InputError where there are fewer cores.
    """
    no_more_than_cores(threads)
    bandwidths = []
    for size in WORKING_SETS:
        if size > available_memory() // 4:
            break
        progress(f"reading {size // MIB} MiB")
        bandwidths.append((size, read_bandwidth(size, threads=threads, seconds=seconds)))
    if not bandwidths:
        raise RunError(f"a probe needs {4 * WORKING_SETS[0] // MIB} MiB of free memory; close something else")
    progress("multiplying")
    roofs = Roofs(
        processor=processor_name(),
        cores=threads or _core.default_threads(),
        instruction_set=instruction_set(),
        bandwidths=tuple(bandwidths),
        peaks=peak_flops(threads=threads, seconds=seconds),
        measured_at=time.time(),
    )
    remember(roofs)
    return roofs


def cache_folder() -> Path:
    return Path(os.environ.get("MEMBOUND_CACHE") or Path.home() / ".cache" / "membound")


def kept_file(name: str, threads: int | None) -> Path:
    """Where something measured with so many threads is kept; None is all cores."""
    return cache_folder() / f"{name}-{threads or _core.default_threads()}.json"


def remember(roofs: Roofs) -> None:
    """Keep for later predictions; a cache that cannot be written is not worth failing for."""
    target = kept_file("roofs", roofs.cores)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(roofs)))
        partial.replace(target)
    except OSError:
        return


def cached(threads: int | None = None) -> Roofs | None:
    """The roofs of the last probe on this processor with so many threads, or None."""
    try:
        kept = json.loads(kept_file("roofs", threads).read_text())
        kept["bandwidths"] = tuple((int(size), float(rate)) for size, rate in kept["bandwidths"])
        roofs = Roofs(**kept)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    same = (roofs.processor, roofs.instruction_set) == (processor_name(), instruction_set())
    return roofs if same else None


def instruction_set() -> str:
    """Which kernels run here: the strongest that the processor has, or what MEMBOUND_ISA says."""
    return _core.isa()


def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
