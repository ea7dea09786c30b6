"""Requests on the engine as one HTTP request sees them: admitted, followed, and dropped when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from membound.errors import MemboundError
from membound.server.errors import ApiError
from membound.server.guidance import GrammarConstraint
from membound.server.ledger import Entry
from membound.server.log import Told
from membound.server.served import Served
from membound.server.streams import Straight
from membound.serving.async_engine import Job, Stream
from membound.serving.engine import Event


def constrained(served: Served, grammar: tuple[str, str] | None) -> GrammarConstraint | None:
    """A constraint of a grammar and the field that asked for it."""
    if grammar is None:
        return None
    if served.guide is None:
        message = f"{grammar[1]} is not supported: structured output is off on this server"
        raise ApiError(400, message, param=grammar[1], code="unsupported")
    return served.guide.constraint(*grammar)


News = Sequence[tuple[int, Event]]  # of a step: which of the requests, and what came of it


class Following:
    """The requests of one HTTP request. Each lot of events of `stream` is to be given to `take` at once."""

    def __init__(self, served: Served, stream: Stream, jobs: Sequence[Job], entries: Sequence[Entry]) -> None:
        self.stream = stream
        self.entries = entries
        self._served = served
        self._jobs = jobs

    def take(self, events: News) -> None:
        """What has just come."""
        self._served.heard(events[0][1].now)
        self._account(events)

    def _account(self, events: News) -> None:
        """ApiError where a request failed."""
        for index, event in events:
            self._served.ledger.take(self.entries[index], event)
            if event.finish_reason == "error":
                raise ApiError(500, event.error or "the step failed")
            constraint = self._jobs[index].constraint
            if isinstance(constraint, GrammarConstraint) and constraint.error:
                raise ApiError(500, f"the grammar failed: {constraint.error}", code="grammar_failed")

    def through(self, render: Callable[[News], bytes], straight: Straight | None) -> Callable[[News], bytes]:
        """Have what `render` makes of events go straight to the client while it keeps up; returns what makes
        a part of what the stream still gives.
        """

        def part(events: News) -> bytes:
            self._account(events)
            return render(events)

        def sent(events: News) -> bool:
            assert straight is not None
            self._served.heard(events[0][1].now)  # the others waited for their client
            if not straight.free:
                return False
            if made := part(events):
                straight.write(made)
            return True

        if straight is not None:
            self.stream.divert(sent)
        return part


@asynccontextmanager
async def following(served: Served, told: Told, jobs: Sequence[Job]) -> AsyncIterator[Following]:
    """The events of `jobs`; whatever happens in the block, afterwards nothing of them is left."""
    served.admit(len(jobs))
    ledger = served.ledger
    told.entries = [
        ledger.open(told.id, told.arrived, len(job.prompt), job.sampling.max_tokens) for job in jobs
    ]
    entries = told.entries
    try:
        async with asyncio.timeout(served.settings.deadline_s), AsyncExitStack() as stack:
            if served.before_s:
                await asyncio.sleep(served.before_s)
            stream = await stack.enter_async_context(served.engine.open(jobs))
            for place, entry in enumerate(entries):
                entry.requests, entry.place = stream.requests, place
            yield Following(served, stream, jobs, entries)
    except TimeoutError:
        message = f"the request took longer than this server's {served.settings.deadline_s:g} s"
        raise ApiError(504, message, code="deadline_exceeded", headers={"x-should-retry": "false"}) from None
    except MemboundError as error:
        raise ApiError(500, str(error)) from None
    finally:
        ledger.close(entries)
