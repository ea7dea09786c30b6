"""A fake OpenAI endpoint that answers at the times a script says, in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from membound.measuring.http import Connection, Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """One request as the endpoint received it."""

    at: float
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


Piece = tuple[float, bytes]  # seconds after the request, and what is sent then; b"" closes the connection
Script = Callable[[Asked], Iterator[Piece]]


@dataclass
class ScriptedEndpoint:
    """Give `connect` to a Pool. `script` says what is sent when; `aborted` counts hang-ups."""

    script: Script
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    aborted: int = 0

    async def connect(self, where: Endpoint, make: Callable[[], Connection]) -> Connection:
        self.connections += 1
        connection = make()
        connection.connection_made(_Wire(self, connection))
        return connection


class _Wire(asyncio.Transport):
    """Carries the client's bytes to the script, and the script's back."""

    def __init__(self, endpoint: ScriptedEndpoint, connection: Connection) -> None:
        super().__init__()
        self._endpoint, self._connection = endpoint, connection
        self._loop = asyncio.get_running_loop()
        self._pieces: Iterator[Piece] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        now = self._loop.time()
        asked = Asked(now, first.split(" ")[1], json.loads(body) if body else {}, headers)
        self._endpoint.asked.append(asked)
        self._pieces = self._endpoint.script(asked)
        self._next(now)

    def _next(self, began: float) -> None:
        """One piece after another, so that those of one moment keep their order."""
        self._timer = None
        if (following := next(self._pieces, None)) is not None and not self._closed:
            after, piece = following
            self._timer = self._loop.call_at(began + after, self._arrive, piece, began)

    def _arrive(self, piece: bytes, began: float) -> None:
        if piece:
            self._connection.data_received(piece)
            self._next(began)
        else:
            self._close()

    def abort(self) -> None:
        if not self._closed:
            self._endpoint.aborted += self._timer is not None
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.call_soon(self._connection.connection_lost, None)

    def is_closing(self) -> bool:
        return self._closed


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def event(message: dict[str, Any] | str) -> bytes:
    """A server-sent event, as one chunk."""
    text = message if isinstance(message, str) else json.dumps(message)
    return chunk(f"data: {text}\n\n".encode())


def token(text: str = "a", *, chat: bool = False) -> bytes:
    choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
    return event({"choices": [choice]})


def usage(prompt: int, completion: int, cached: int | None = None) -> bytes:
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({"choices": [], "usage": counts})


def refusal(status: int, message: str) -> bytes:
    body = json.dumps({"error": {"message": message, "type": "x"}}).encode()
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def answer(body: dict[str, Any]) -> bytes:
    """A whole JSON answer."""
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


def steady(first: float, gap: float, tokens: int, prompt: int = 8, *, chat: bool = False) -> Iterator[Piece]:
    """A stream with its first token after `first` seconds and one more every `gap`."""
    yield 0.0, HEAD
    for index in range(tokens):
        yield first + index * gap, token(chat=chat)
    last = first + (tokens - 1) * gap
    yield last, usage(prompt, tokens) + event("[DONE]") + LAST
