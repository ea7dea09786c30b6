"""The engine in a thread of its own, and its events as asynchronous streams."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence

from membound.errors import RunError
from membound.serving.engine import Engine, Event
from membound.serving.request import GREEDY, Request
from membound.serving.sampling import Sampling

_Queue = asyncio.Queue[Event | Exception]


class _Listener:
    """One stream: where its events go."""

    __slots__ = ("loop", "queue", "request")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: _Queue = asyncio.Queue()
        self.request: Request | None = None  # known once the engine took it


class AsyncEngine:
    """Runs the steps of `engine` in one worker thread, which alone touches it from then on."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._condition = threading.Condition()
        self._inbox: list[Callable[[], None]] = []  # what to do before the next step
        self._listeners: dict[Request, _Listener] = {}
        self._closed: str | None = None  # why no more requests are taken
        self._thread = threading.Thread(target=self._run, name="membound-engine", daemon=True)
        self._thread.start()

    async def stream(
        self, prompt: str | Sequence[int], sampling: Sampling = GREEDY
    ) -> AsyncGenerator[Event, None]:
        """The events of one request, the last with a finish reason. Leaving early aborts the request."""
        ids = await asyncio.to_thread(self.engine.encode, prompt) if isinstance(prompt, str) else prompt
        listener = _Listener()
        self._post(lambda: self._add(listener, ids, sampling))
        ended = False
        try:
            while not ended:
                event = await listener.queue.get()
                if isinstance(event, Exception):
                    ended = True
                    raise event
                ended = event.finish_reason is not None
                yield event
        finally:
            if not ended:
                self._post(lambda: self._abort(listener), quiet=True)

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

    def _add(self, listener: _Listener, ids: Sequence[int], sampling: Sampling) -> None:
        try:
            listener.request = self.engine.add(ids, sampling)
        except Exception as error:
            _deliver([(listener, error)])
        else:
            self._listeners[listener.request] = listener

    def _abort(self, listener: _Listener) -> None:
        if listener.request is not None and self._listeners.pop(listener.request, None) is not None:
            self.engine.abort(listener.request)

    def _run(self) -> None:
        try:
            while self._take_inbox():
                news: list[tuple[_Listener, Event | Exception]] = []
                for event in self.engine.step():
                    listener = self._listeners.get(event.request)
                    if listener is not None:
                        news.append((listener, event))
                        if event.finish_reason is not None:
                            del self._listeners[event.request]
                for lost in _deliver(news):
                    self._abort(lost)
        except Exception as error:
            with self._condition:
                self._closed = f"the engine broke: {error!r}; start it again"
        finally:
            self._end()

    def _take_inbox(self) -> bool:
        """Wait for work; False when closed."""
        with self._condition:
            while not (self._inbox or self.engine.busy or self._closed):
                self._condition.wait()
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
        news: list[tuple[_Listener, Event | Exception]] = []
        for request, listener in self._listeners.items():
            self.engine.abort(request)
            news.append((listener, RunError(self._closed)))
        self._listeners.clear()
        _deliver(news)


def _deliver(news: list[tuple[_Listener, Event | Exception]]) -> list[_Listener]:
    """Hand events to their event loops, one call each; the listeners whose loop is gone."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Queue, Event | Exception]]] = defaultdict(list)
    for listener, event in news:
        by_loop[listener.loop].append((listener.queue, event))
    lost: list[_Listener] = []
    for loop, items in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, items)
        except RuntimeError:  # the loop is closed
            lost += [listener for listener, _ in news if listener.loop is loop]
    return lost


def _put_all(items: list[tuple[_Queue, Event | Exception]]) -> None:
    for queue, event in items:
        queue.put_nowait(event)
