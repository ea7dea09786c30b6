"""Runs that were never made, for what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from membound.measuring.clients import Run
from membound.measuring.overhead import Overhead
from membound.measuring.record import Record

QUIET = Overhead(0.1, 0.0001, 0.001)


def done(number: int, sent: float, ttft: float = 0.5, gap: float = 0.1, tokens: int = 5) -> Record:
    """A request that succeeded, sent when it was due."""
    events = [sent + ttft + index * gap for index in range(tokens)]
    return Record(number, sent, sent, events[-1], 8, tokens, events, 8, None, tokens)


def failed(number: int, sent: float, kind: str = "status 500", after: float = 0.1) -> Record:
    return Record(number, sent, sent, sent + after, 8, 5, error=kind, message="it broke")


def made(records: Sequence[Record], overhead: Overhead = QUIET) -> Run:
    return Run(records, [overhead], max(record.ended_s for record in records))
