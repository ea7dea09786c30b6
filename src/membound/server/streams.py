"""Answers that end as soon as the client is gone: server-sent events, and whole bodies."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from json.encoder import encode_basestring
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from membound.server.errors import ApiError

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

    What lies between the first and the last message goes by `straight`, past all that stands around the
    routes: for each token that would take as long as making its event.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None], straight: Send) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.chunks = chunks
        self.straight = straight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        watch = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((pump, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (pump, watch):
                each.cancel()
            results = await asyncio.gather(pump, watch, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    async def _pump(self, send: Send) -> None:
        async with aclosing(self.chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for chunk in chunks:
                    await self.straight({"type": "http.response.body", "body": chunk, "more_body": True})
            except ApiError as error:
                body = sse(error.body) + DONE
                await self.straight({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
