"""The engine in a thread of its own, and its events as asynchronous streams."""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from membound.errors import RunError
from membound.serving.constraint import Constraint
from membound.serving.engine import Engine, Event
from membound.serving.request import GREEDY, Request
from membound.serving.sampling import Sampling

STREAMS_A_TURN = 64  # whose news are taken between two looks of an event loop at its sockets


@dataclass(frozen=True, slots=True)
class Job:
    """A request as a stream asks for it."""

    prompt: Sequence[int]
    sampling: Sampling = GREEDY
    constraint: Constraint | None = None


class Stream:
    """The events of one or several requests, as they come; leaving it aborts what has not ended.

    async with engine.open([Job(ids)]) as stream:
        async for events in stream:
            for index, event in events: ...
    """

    def __init__(self, engine: "AsyncEngine", inlet: "_Inlet", jobs: Sequence[Job]) -> None:
        self._engine = engine
        self._inlet = inlet
        self._jobs = jobs
        self._sink: Callable[[list[tuple[int, Event]]], bool] | None = None
        self._pending: list[tuple[int, Event]] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._running = len(jobs)  # requests whose last event has not been taken
        self.requests: list[Request] = []  # as far as the engine took them; its thread appends

    async def __aenter__(self) -> "Stream":
        self._engine._post(lambda: self._engine._add(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def abort(self) -> None:
        """Have the engine drop what has not ended, before its next step."""
        self._sink = None
        if self._running:
            self._running = 0
            self._engine._post(lambda: self._engine._drop(self), quiet=True)

    def divert(self, sink: Callable[[list[tuple[int, Event]]], bool]) -> None:
        """Have `sink` take events as soon as they are in the event loop, without a turn of the task that
        follows the stream. What it does not take, as it tells by False, the iterator gives, as ever; what it
        raises, the iterator raises.
        """
        self._sink = sink

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> list[tuple[int, Event]]:
        """All that came since, at least one (index of the job, event)."""
        while not self._pending:
            if self._error is not None:
                self._running = 0
                raise self._error
            if not self._running:
                raise StopAsyncIteration
            self._waiter = self._inlet.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._pending = self._pending, []
        self._running -= sum(event.finish_reason is not None for _, event in events)
        return events

    def _put(self, news: list[tuple[int, Event]], error: Exception | None) -> None:
        """In the event loop: what came of a step."""
        if self._sink is not None and news and not self._pending:
            try:
                if self._sink(news):
                    for _, event in news:
                        if event.finish_reason is not None:
                            self._running -= 1
                    if self._running and error is None:
                        return
                    news = []
            except Exception as problem:
                news, error = [], problem
        self._pending += news
        self._error = error or self._error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_Item = tuple[Stream, list[tuple[int, Event]], Exception | None]


class _Inlet:
    """News on their way into one event loop: one call for all of a step, taken in turns of some streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._items: deque[_Item] = deque()
        self._due = False  # whether the loop will look

    def put(self, items: Iterable[_Item]) -> None:
        """In any thread; RuntimeError where the loop is closed."""
        self._items.extend(items)
        if not self._due:
            self._due = True
            try:
                self.loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                self._due = False  # so that the next ones learn of it too
                raise

    def _take(self) -> None:
        for _ in range(min(STREAMS_A_TURN, len(self._items))):
            stream, events, error = self._items.popleft()
            stream._put(events, error)
        self._due = False
        if self._items:  # also what was put just now by who thought that the loop would look
            self._due = True
            self.loop.call_soon(self._take)


class AsyncEngine:
    """Runs the steps of `engine` in one worker thread, which alone touches it from then on."""

    def __init__(self, engine: Engine, idle: Callable[[], bool] | None = None) -> None:
        """`idle` does a little work, some milliseconds, while no request is there; False if none is left."""
        self.engine = engine
        self._idle = idle
        self._condition = threading.Condition()
        self._inbox: list[Callable[[], None]] = []  # what to do before the next step
        self._streams: dict[Request, tuple[Stream, int]] = {}
        self._inlets: dict[asyncio.AbstractEventLoop, _Inlet] = {}
        self._closed: str | None = None  # why no more requests are taken
        self._thread = threading.Thread(target=self._run, name="membound-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._closed is None

    def open(self, jobs: Sequence[Job]) -> Stream:
        """A stream of these requests, which begin when it is entered."""
        loop = asyncio.get_running_loop()
        inlet = self._inlets.get(loop)
        if inlet is None:
            self._inlets = {old: kept for old, kept in self._inlets.items() if not old.is_closed()}
            inlet = self._inlets[loop] = _Inlet(loop)
        return Stream(self, inlet, jobs)

    async def stream(
        self, prompt: str | Sequence[int], sampling: Sampling = GREEDY
    ) -> AsyncGenerator[Event, None]:
        """The events of one request, the last with a finish reason. Leaving early aborts the request."""
        ids = await asyncio.to_thread(self.engine.encode, prompt) if isinstance(prompt, str) else prompt
        async with self.open([Job(ids, sampling)]) as stream:
            async for events in stream:
                for _, event in events:
                    yield event

    def close(self) -> None:
        """Abort what runs and end the thread."""
        with self._condition:
            self._closed = self._closed or "the engine is closed"
            self._condition.notify()
        self._thread.join()

    def _post(self, action: Callable[[], None], *, quiet: bool = False) -> None:
        with self._condition:
            if self._closed is not None:
                if quiet:
                    return
                raise RunError(self._closed)
            self._inbox.append(action)
            self._condition.notify()

    def _add(self, stream: Stream) -> None:
        try:
            for index, job in enumerate(stream._jobs):
                request = self.engine.add(job.prompt, job.sampling, job.constraint)
                stream.requests.append(request)
                self._streams[request] = stream, index
        except Exception as error:
            self._drop(stream)
            _deliver([(stream, [], error)])

    def _drop(self, stream: Stream) -> None:
        for request in stream.requests:
            if self._streams.pop(request, None) is not None:
                self.engine.abort(request)

    def _run(self) -> None:
        try:
            while self._take_inbox():
                news: dict[Stream, list[tuple[int, Event]]] = {}
                for event in self.engine.step():
                    found = self._streams.get(event.request)
                    if found is not None:
                        news.setdefault(found[0], []).append((found[1], event))
                        if event.finish_reason is not None:
                            del self._streams[event.request]
                for lost in _deliver([(stream, events, None) for stream, events in news.items()]):
                    self._drop(lost)
        except Exception as error:
            with self._condition:
                self._closed = f"the engine broke: {error!r}; start it again"
        finally:
            self._end()

    def _take_inbox(self) -> bool:
        """Wait for work; False when closed."""
        idle = self._idle
        with self._condition:
            while not (self._inbox or self.engine.busy or self._closed):
                if idle is None:
                    self._condition.wait()
                    continue
                self._condition.release()
                try:
                    if not idle():
                        idle = None
                finally:
                    self._condition.acquire()
            if self._closed:
                return False
            actions, self._inbox = self._inbox, []
        for action in actions:
            action()
        return True

    def _end(self) -> None:
        """Requests that the engine has not heard of yet, and those it serves, end here."""
        with self._condition:
            self._closed = self._closed or "the engine is closed"
            actions, self._inbox = self._inbox, []
        for action in actions:
            action()
        streams = dict.fromkeys(stream for stream, _ in self._streams.values())
        for stream in streams:
            self._drop(stream)
        _deliver([(stream, [], RunError(self._closed)) for stream in streams])


def _deliver(items: Iterable[_Item]) -> list[Stream]:
    """Hand news to their event loops; the streams whose loop is gone."""
    by_inlet: dict[_Inlet, list[_Item]] = defaultdict(list)
    for item in items:
        by_inlet[item[0]._inlet].append(item)
    lost: list[Stream] = []
    for inlet, its in by_inlet.items():
        try:
            inlet.put(its)
        except RuntimeError:  # the loop is closed
            lost += [stream for stream, _, _ in its]
    return lost
