"""Arrivals become requests, as long as they can ever fit."""

from __future__ import annotations

from membound.serving.request import Request
from membound.simulation.log import Log
from membound.workloads.arrivals import Arrival


class Run:
    """Makes requests of arrivals, refuses those that never fit, and keeps the books."""

    def __init__(self, room: int) -> None:
        """`room` is the tokens of the smallest cache that a request may come to."""
        self.room = room
        self.log = Log()
        self.sent = 0
        self.rejected = 0
        self.first = 0.0

    def admit(self, arrival: Arrival, now: float) -> Request | None:
        """Its request; None where prompt and output exceed the cache. The scheduler learns no length."""
        if not self.sent:
            self.first = arrival.time_s
        self.sent += 1
        prompt = arrival.prompt_tokens
        if prompt + arrival.output_tokens - 1 > self.room:
            self.rejected += 1
            return None
        return Request(
            self.sent - 1,
            max_tokens=self.room - prompt + 1,
            arrival=arrival.time_s,
            prompt_length=prompt,
            keys=arrival.keys,
        )
