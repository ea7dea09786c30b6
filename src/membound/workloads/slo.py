"""Service level objectives: what every request should hold, and how many did.

Attainment is the share of all requests, failed ones included, that succeeded and held every limit; goodput
is those requests per second (Zhong et al., DistServe, OSDI 2024).
"""

import math
from dataclasses import dataclass

from membound.errors import InputError
from membound.workloads.metrics import Timing


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds, each for every single request; infinite where nothing is asked."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    e2e_s: float = math.inf

    def held_by(self, timing: Timing) -> bool:
        """Of a request that succeeded. One with a single token has no TPOT and holds any limit of it."""
        ttft, tpot, e2e = timing.ttft_s, timing.tpot_s, timing.e2e_s
        if ttft is None or e2e is None:
            return False
        return ttft <= self.ttft_s and (tpot is None or tpot <= self.tpot_s) and e2e <= self.e2e_s

    def __str__(self) -> str:
        limits = (("ttft", self.ttft_s), ("tpot", self.tpot_s), ("e2e", self.e2e_s))
        return ",".join(f"{name}={limit:g}" for name, limit in limits if limit < math.inf)


def parse_slo(text: str) -> Slo:
    """`ttft=0.5,tpot=0.05,e2e=10`, in seconds, any of them; InputError says what cannot be read."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if name not in ("ttft", "tpot", "e2e") or name in limits or not limit > 0:
            raise InputError(f"--slo {text}: give limits in seconds, such as ttft=0.5,tpot=0.05,e2e=10")
        limits[name] = limit
    return Slo(**{f"{name}_s": limit for name, limit in limits.items()})
