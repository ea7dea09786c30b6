"""Answers that end as soon as the client is gone: server-sent events, and whole bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from json.encoder import encode_basestring
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from membound.server.errors import ApiError
from membound.server.log import Told

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves before: then ClientGoneError."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(data: Any) -> bytes:
    return _encode(data).encode()


def sse(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(data) + b"\n\n"


class Straight(Protocol):
    """The way of the parts between an answer's head and its end, past all that stands around the routes and
    without a turn of the task that answers: for each token that would take as long as the rest together.
    """

    @property
    def free(self) -> bool:
        """Whether the client keeps up."""
        ...

    def write(self, part: bytes) -> None: ...


def straight(request: Request) -> Straight | None:
    """A request's own, where its server has one."""
    found: Straight | None = getattr(request.state, "straight", None)
    return found


DONE = b"data: [DONE]\n\n"
_GAP = "\0\0"  # in no text that a client sent: JSON would have escaped it


class TextEvent:
    """Server-sent events that differ in one text: what stands around it is rendered once."""

    __slots__ = ("_after", "_before")

    def __init__(self, data: Callable[[str], Any]) -> None:
        """`data`: the event of a text, which holds it once."""
        self._before, _, self._after = sse(data(_GAP)).partition(to_json(_GAP))

    def of(self, text: str) -> bytes:
        return self._before + encode_basestring(text).encode() + self._after


class EventStream(Response):
    """Sends what `chunks` gives. A failure after the headers becomes an event of its own.

    All but the headers is sent by who asked the application: what stands around the routes, a dozen
    coroutines, has ended by then, and is not kept for as long as a stream lasts.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None], told: Told) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.chunks = chunks
        self.told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.told.rest = self._rest

    async def _rest(self, receive: Receive, send: Send) -> None:
        """To the end, or until the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        over = left = False

        def leave(watch: asyncio.Future[None]) -> None:
            nonlocal left
            if not over:
                left = True
                task.cancel()

        watch = asyncio.ensure_future(_gone(receive))
        watch.add_done_callback(leave)
        try:
            await self._pump(send)
        except asyncio.CancelledError:
            if not left or task.uncancel():
                raise
        except OSError:
            pass  # nobody reads it
        finally:
            over = True
            watch.cancel()

    async def _pump(self, send: Send) -> None:
        async with aclosing(self.chunks) as chunks:
            try:
                async for chunk in chunks:
                    try:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    except asyncio.CancelledError as cancelled:
                        await chunks.athrow(cancelled)  # whose deadline it may be
                        raise
            except ApiError as error:
                body = sse(error.body) + DONE
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
