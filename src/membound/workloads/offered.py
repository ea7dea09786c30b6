"""A workload from the options of a command: plain values, to be stored or sent to other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random

from membound.errors import InputError
from membound.workloads import traces
from membound.workloads.arrivals import (
    ClosedLoop,
    Conversations,
    Open,
    SharedPrefix,
    Workload,
    limited,
    open_loop,
    ramped,
    scaled,
)
from membound.workloads.lengths import NAMED, Fixed, Lengths, LogNormal, Size, Uniform

DEFAULT_REQUESTS = 200  # of a rate


@dataclass(frozen=True)
class InOrder:
    """Sizes as they are given, over and over."""

    sizes: Sequence[Size]

    def draw(self, random: Random) -> Iterator[Size]:
        return cycle(self.sizes)


@dataclass(frozen=True)
class Offered:
    """What is asked for. One of `rate` (requests/s), `ramp`, `concurrency` and `trace` must be given."""

    rate: float | None = None
    ramp: tuple[float, float, float] | None = None  # requests/s at first and at last, seconds in between
    concurrency: int | None = None
    trace: str | None = None
    requests: int | None = None  # by default all of a trace, else 200, or 10 for each user
    prompt: int = 512
    output: int = 128
    lengths: str = "fixed"
    sizes: tuple[Size, ...] = ()  # of a file's prompts, in its order; they replace prompt and output
    burstiness: float = 1.0
    rate_scale: float = 1.0
    jitter_s: float = 0.0
    prefix: int = 0  # tokens of a prefix that requests share
    prefixes: int = 1
    turns: int = 1
    think_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        chosen = [
            f"--{name}"
            for name in ("rate", "ramp", "concurrency", "trace")
            if getattr(self, name) is not None
        ]
        if len(chosen) != 1:
            said = " and ".join(chosen) or "none"
            raise InputError(f"give one of --rate, --ramp, --concurrency and --trace, not {said}")
        for name, least in (("requests", 1), ("prompt", 1), ("output", 1), ("turns", 1), ("prefixes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} must be at least {least}, it is {value}")
        for name, seconds in (("jitter", self.jitter_s), ("think", self.think_s)):
            if not 0 <= seconds < float("inf"):
                raise InputError(f"--{name} must be 0 seconds or more, it is {seconds}")
        if self.jitter_s and self.trace is None:
            raise InputError("--jitter spreads the arrivals of a trace: give --trace")
        if self.think_s and self.concurrency is None and self.turns == 1:
            raise InputError("--think is between requests of a user: give --concurrency or --turns")
        if self.prefix < 0:
            raise InputError(f"--prefix must be 0 tokens or more, it is {self.prefix}")
        if self.prefixes > 1 and not self.prefix:
            raise InputError("--prefixes says how many beginnings there are: give their tokens with --prefix")

    def workload(self) -> Workload:
        """Ready to begin."""
        workload = self._arrivals()
        if self.prefix:
            workload = SharedPrefix(workload, self.prefix, self.prefixes, seed=self.seed)
        if self.turns > 1:
            if self.concurrency is not None:
                raise InputError("--turns needs --rate: sessions come of themselves, and their turns follow")
            workload = Conversations(workload, self._lengths(), self.turns, self.think_s, self.seed)
        return workload

    def _arrivals(self) -> Workload:
        if self.trace is not None:
            recorded = traces.trace(self.trace, jitter_s=self.jitter_s, seed=self.seed)
            return scaled(limited(recorded, self.requests), self.rate_scale)
        lengths, seed = self._lengths(), self.seed
        if self.concurrency is not None:
            requests = 10 * self.concurrency if self.requests is None else self.requests
            return ClosedLoop(self.concurrency, lengths, requests, self.think_s, seed=seed)
        requests = DEFAULT_REQUESTS if self.requests is None else self.requests
        made: Open
        if self.ramp is not None:
            first, last, duration = self.ramp
            made = ramped(first, last, duration, lengths, requests, seed)
        else:
            assert self.rate is not None
            made = open_loop(self.rate, lengths, requests, burstiness=self.burstiness, seed=seed)
        return scaled(made, self.rate_scale)

    def _lengths(self) -> Lengths:
        if self.sizes:
            return InOrder(self.sizes)
        if self.lengths == "fixed":
            return Fixed(self.prompt, self.output)
        if self.lengths == "uniform":
            return Uniform(self.prompt, self.output)
        if self.lengths == "lognormal":
            return LogNormal(self.prompt, self.output)
        if self.lengths in NAMED:
            return NAMED[self.lengths]
        known = ", ".join(["fixed", "uniform", "lognormal", *NAMED])
        raise InputError(f"--lengths {self.lengths}: one of {known}")
