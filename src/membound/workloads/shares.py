"""A workload divided among several senders, so that together they send the same traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

from membound.errors import InputError
from membound.workloads.arrivals import ClosedLoop, Conversations, Open, SharedPrefix, Workload
from membound.workloads.lengths import Lengths, Size


@dataclass(frozen=True)
class EveryNth:
    """Every `of`-th of another supply's sizes, from `index` on."""

    lengths: Lengths
    index: int
    of: int

    def draw(self, random: Random) -> Iterator[Size]:
        return islice(self.lengths.draw(random), self.index, None, self.of)


def share(workload: Workload, index: int, of: int) -> Workload:
    """The part of sender `index` among `of`: every of-th arrival, or its part of a closed loop's users."""
    if of == 1:
        return workload
    match workload:
        case Open():
            return Open(lambda: islice(workload.make(), index, None, of), workload.key_tokens)
        case ClosedLoop():
            users, requests = (_part(n, index, of) for n in (workload.concurrency, workload.requests))
            return replace(
                workload,
                concurrency=max(1, users),
                requests=requests if users else 0,
                lengths=EveryNth(workload.lengths, index, of),
            )
        case SharedPrefix():
            return replace(workload, workload=share(workload.workload, index, of))
        case Conversations():
            return replace(workload, starts=share(workload.starts, index, of))
        case _:
            raise InputError("this workload cannot be divided among several clients: use --clients 1")


def _part(whole: int, index: int, of: int) -> int:
    return whole // of + (index < whole % of)
