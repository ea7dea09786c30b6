"""Sends a workload at its intended times, whatever becomes of earlier requests, and records each of them.

Prompts are made before they are due, so that making them delays nothing. A request that has no room to be
sent in time shows in its dispatch delay: intended times are never moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from membound.measuring.record import Record
from membound.measuring.sender import Prompt, Sender
from membound.workloads.arrivals import Arrival, Traffic


class Prompts(Protocol):
    """What arrivals say."""

    def prompt(self, number: int, arrival: Arrival) -> Prompt: ...

    def answered(self, arrival: Arrival, text: str, tokens: int, *, more: bool) -> None: ...


@dataclass(frozen=True)
class Share:
    """Which of several clients this one is: it numbers its requests index, index + of, …"""

    index: int = 0
    of: int = 1


class Load:
    """A run under way. `records` holds the requests that have ended."""

    def __init__(
        self,
        traffic: Traffic,
        prompts: Prompts,
        sender: Sender,
        *,
        begin: float,
        duration_s: float | None = None,
        share: Share,
        ended: Callable[[Record], None] | None = None,
    ) -> None:
        self.records: list[Record] = []
        self.sent = 0
        self._traffic, self._prompts, self._sender = traffic, prompts, sender
        self._begin, self._duration_s, self._ended = begin, duration_s, ended
        self._numbers = count(share.index, share.of)
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until all that was sent has ended. Cancelled, it gives up what is under way; `records` stay."""
        async with asyncio.TaskGroup() as group:
            for arrival in self._traffic:
                if self._is_over(arrival):
                    break
                number = next(self._numbers)
                body = self._body(number, arrival)
                await self._until(arrival.time_s)
                group.create_task(self._user(number, arrival, body))

    async def _user(self, number: int, arrival: Arrival, body: bytes) -> None:
        """A request and all that its end brings, one after another."""
        following: Arrival | None = arrival
        while following is not None:
            arrival = following
            record = Record(
                number,
                arrival.time_s,
                0.0,
                0.0,
                arrival.prompt_tokens,
                arrival.output_tokens,
                session=arrival.session,
                turn=arrival.turn,
            )
            self.sent += 1
            text = await self._sender.send(record, body, keep_text=arrival.session >= 0)
            self.records.append(record)
            if self._ended is not None:
                self._ended(record)
            following = self._traffic.after(arrival, record.ended_s)
            if following is not None and (self._is_over(following) or _breaks(record)):
                following = None
            if arrival.session >= 0:
                said = (record.prompt_tokens or arrival.prompt_tokens) + record.output_tokens
                self._prompts.answered(arrival, text, said, more=following is not None)
            if following is not None:
                number = next(self._numbers)
                body = self._body(number, following)
                await self._until(following.time_s)

    def _body(self, number: int, arrival: Arrival) -> bytes:
        return self._sender.body(self._prompts.prompt(number, arrival), arrival.output_tokens)

    def _is_over(self, arrival: Arrival) -> bool:
        return self._duration_s is not None and arrival.time_s > self._duration_s

    async def _until(self, time_s: float) -> None:
        wait = self._begin + time_s - self._loop.time()
        if wait > 0:
            await asyncio.sleep(wait)


def _breaks(record: Record) -> bool:
    """A conversation whose turn failed has nothing to go on with."""
    return record.session >= 0 and not record.succeeded
