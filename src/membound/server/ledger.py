"""What happened to each request and when: for the metrics, the log and the page."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from membound.serving.engine import Event, FinishReason
from membound.serving.request import Request

LATELY = 256  # ended requests that are remembered


@dataclass(slots=True, eq=False)
class Entry:
    """One request of the engine. Times in seconds on the engine's clock."""

    id: str
    arrived: float  # at the server
    sent: float  # to the engine, read and tokenized
    prompt_tokens: int
    max_tokens: int | None
    cached_tokens: int = 0
    output_tokens: int = 0
    admitted: float | None = None
    first: float | None = None
    last: float | None = None
    ended: float | None = None
    preemptions: int = 0
    reason: FinishReason | None = None
    requests: Sequence[Request] = ()  # of its stream, as far as the engine took them
    place: int = 0  # its own among them

    @property
    def request(self) -> Request | None:
        """The engine's, once it took it and until it ended."""
        return self.requests[self.place] if self.place < len(self.requests) else None

    @property
    def queue_s(self) -> float | None:
        return None if self.admitted is None else self.admitted - self.sent

    @property
    def ttft_s(self) -> float | None:
        return None if self.first is None else self.first - self.arrived

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None below two tokens."""
        if self.first is None or self.last is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float | None:
        return None if self.ended is None else self.ended - self.arrived


class Watcher(Protocol):
    """Told of what the metrics count."""

    def first_token(self, entry: Entry) -> None: ...

    def later_tokens(self, count: int, gap_s: float) -> None: ...

    def ended(self, entry: Entry) -> None: ...


@dataclass
class Ledger:
    """Requests that are here, and those that left lately. The event loop alone writes it."""

    now: Callable[[], float]
    watcher: Watcher | None = None
    here: dict[Entry, None] = field(default_factory=dict)
    lately: deque[Entry] = field(default_factory=lambda: deque(maxlen=LATELY))

    @property
    def active(self) -> int:
        """Requests that are waiting or running."""
        return len(self.here)

    def open(self, id: str, arrived: float, prompt_tokens: int, max_tokens: int | None) -> Entry:
        """A request was sent to the engine."""
        entry = Entry(id, arrived, self.now(), prompt_tokens, max_tokens)
        self.here[entry] = None
        return entry

    def take(self, entry: Entry, event: Event) -> None:
        """News of it."""
        request = event.request
        count = len(event.token_ids)
        if count:
            entry.output_tokens += count
            if entry.last is None:
                entry.admitted, entry.cached_tokens = request.admitted, request.hit_tokens
                entry.first = event.now
                if self.watcher is not None:
                    self.watcher.first_token(entry)
            elif self.watcher is not None:
                self.watcher.later_tokens(count, event.now - entry.last)
            entry.last = event.now
        if event.finish_reason is not None:
            self._end(entry, event.finish_reason, event.now)

    def close(self, entries: Sequence[Entry]) -> None:
        """Nobody listens any more: what has not ended was aborted."""
        for entry in entries:
            if entry.ended is None:
                self._end(entry, "abort", self.now())

    def _end(self, entry: Entry, reason: FinishReason, now: float) -> None:
        entry.ended, entry.reason = now, reason
        if entry.request is not None:
            entry.preemptions, entry.requests = entry.request.preemptions, ()
        del self.here[entry]
        self.lately.append(entry)
        if self.watcher is not None:
            self.watcher.ended(entry)

    def seconds_until_room(self, at_once: int) -> int:
        """A guess at when one more would be taken: the latest time of service, shared by all that run."""
        served = [e.ended - e.admitted for e in self.lately if e.ended is not None and e.admitted is not None]
        return max(1, min(60, math.ceil(sum(served) / len(served) / at_once))) if served else 1
