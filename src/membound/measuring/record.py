"""What was measured of one request. Times are in seconds since the run began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.workloads.metrics import Timing


@dataclass(slots=True)
class Record:
    """One request, succeeded or not."""

    number: int  # in the order of the workload
    intended_s: float  # when the workload wanted it sent
    sent_s: float
    ended_s: float  # when its answer was complete, or it failed
    asked_prompt_tokens: int
    asked_output_tokens: int
    events_s: Sequence[float] = ()  # of the stream events that carried text
    prompt_tokens: int | None = None  # the server's count
    cached_tokens: int | None = None  # of the prompt, found in the server's prefix cache
    output_tokens: int = 0
    counted_by: str = "usage"  # or "tokenizer" or "events", where the server did not say
    error: str | None = None  # a word to count failures by: connect, timeout, status 429, …
    message: str = ""  # what the failure said
    session: int = -1
    turn: int = 0

    @property
    def succeeded(self) -> bool:
        return self.error is None

    @property
    def timing(self) -> Timing:
        return Timing(self.sent_s, self.events_s, self.output_tokens)

    @property
    def dispatch_delay_s(self) -> float:
        """Actual less intended send time."""
        return self.sent_s - self.intended_s

    @property
    def scheduled_latency_s(self) -> float:
        """End less intended send time."""
        return (self.events_s[-1] if self.events_s else self.ended_s) - self.intended_s
