"""A light HTTP/1.1 client on asyncio's protocols: bodies are handed over piece by piece, with their times.

General clients cost tens of microseconds for each piece of a stream; here it is a few, so that one process
can time tens of thousands of stream events per second. Connections are kept open and reused.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from membound.errors import InputError

HEAD_LIMIT = 64 * 1024
READ_LIMIT = 64 * 1024  # bytes taken from a socket at once
Sink = Callable[[bytes, float], None]  # a piece of a body, and when it came
Connect = Callable[["Endpoint", Callable[[], "Connection"]], Awaitable["Connection"]]


class ExchangeError(Exception):
    """An exchange that did not come to its end; `kind` is a word to count it by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an OpenAI-compatible API is."""

    host: str
    port: int
    tls: bool
    prefix: str  # of every path: "" or such as "/openai"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self._address}{self.prefix}"

    @property
    def _address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def head(self, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
        """A request's head."""
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self._address}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if method != "GET":
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def endpoint(url: str) -> Endpoint:
    """Of a URL as typed, with or without a scheme and a final `/v1`."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise InputError(f"{url}: not a URL; give one such as http://127.0.0.1:8000") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise InputError(f"{url}: not a URL of a server; give one such as http://127.0.0.1:8000")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Endpoint(parts.hostname, port or (443 if tls else 80), tls, prefix)


class Connection(asyncio.BufferedProtocol):
    """One exchange at a time on one socket."""

    _arriving = bytearray(READ_LIMIT)  # of all connections: what arrives is copied out of it at once

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._ended: asyncio.Future[int] | None = None
        self._sink: Sink | None = None
        self._buffer = b""
        self._decoder: _Length | _Chunked | _UntilClosed | None = None
        self._status = 0
        self._keeps = True
        self._lost: Exception | None = None
        self.heard = False  # whether anything came of the present exchange

    @property
    def usable(self) -> bool:
        """Whether another exchange can begin."""
        return self._lost is None and self._keeps and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def begin(self, head: bytes, body: bytes, sink: Sink) -> asyncio.Future[int]:
        """Send a request; the future is the status once the last piece has gone to `sink`.

        It fails with ExchangeError where the peer breaks off or does not speak HTTP.
        """
        self._ended = self._loop.create_future()
        self._sink, self._buffer, self._decoder, self.heard = sink, b"", None, False
        if self._lost is not None:
            self._fail("disconnected", "the server closed the connection")
        else:
            self._transport.write(head + body)
        return self._ended

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._arriving

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self._arriving)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """What came in one piece."""
        if self._ended is None or self._ended.done():
            self.close()  # nobody asked
            return
        now = self._loop.time()
        self.heard = True
        try:
            while data:
                if self._decoder is None:
                    data = self._read_head(data)
                else:
                    self._decoder.feed(data, now)
                    data = b""
                if self._decoder is not None and self._decoder.finished:
                    self._finish()
                    return
        except ExchangeError as error:
            self._fail(error.kind, str(error))
            self.close()

    def _read_head(self, data: bytes) -> bytes:
        """Take the head if it is complete; what follows it."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT or not b"HTTP/1.".startswith(self._buffer[:7]):
                raise ExchangeError("protocol", "the answer is not HTTP/1.1")
            return b""
        head, rest = self._buffer[:end], self._buffer[end + 4 :]
        self._buffer = b""
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not first.startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise ExchangeError("protocol", "the answer is not HTTP/1.1")
        self._status = int(words[1])
        if self._status < 200:
            return rest  # 100 Continue: the real head follows
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._keeps = headers.get("connection", "").lower() != "close" and not first.startswith("HTTP/1.0")
        assert self._sink is not None
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._decoder = _Chunked(self._sink)
        elif "content-length" in headers or self._status in (204, 304):
            length = headers.get("content-length", "0")
            if not length.isdigit():
                raise ExchangeError("protocol", "the answer has no proper Content-Length")
            self._decoder = _Length(self._sink, int(length))
        else:
            self._decoder = _UntilClosed(self._sink)
            self._keeps = False
        return rest

    def _finish(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._status)
        if not self._keeps:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = error or ConnectionError("closed")
        if self._ended is None or self._ended.done():
            return
        if isinstance(self._decoder, _UntilClosed) and error is None:
            self._finish()
        else:
            self._fail("disconnected", "the server closed the connection before the answer was complete")

    def _fail(self, kind: str, message: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(ExchangeError(kind, message))

    def close(self) -> None:
        """At once; an exchange under way fails."""
        self._transport.abort()


class _Length:
    """A body of known length."""

    def __init__(self, sink: Sink, left: int) -> None:
        self._sink, self._left = sink, left
        self.finished = left == 0

    def feed(self, data: bytes, now: float) -> None:
        self._sink(data[: self._left], now)
        self._left -= len(data)
        self.finished = self._left <= 0


class _UntilClosed:
    """A body that ends with the connection."""

    finished = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, data: bytes, now: float) -> None:
        self._sink(data, now)


class _Chunked:
    """A chunked body (RFC 9112, 7.1); extensions and trailers are passed over."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._line = b""  # a piece of a size or trailer line
        self._left = 0  # of the present chunk, with the line end behind it
        self._trailer = False
        self.finished = False

    def feed(self, data: bytes, now: float) -> None:
        at, end = 0, len(data)
        while at < end and not self.finished:
            if not (self._left or self._line or self._trailer):  # whole chunks, as most are
                stop = data.find(b"\n", at)
                try:
                    size = int(data[at:stop], 16) if stop > 0 else 0
                except ValueError:
                    size = 0  # extensions, or nonsense
                behind = stop + 1 + size
                if size > 0 and behind + 2 <= end:
                    self._sink(data[stop + 1 : behind], now)
                    at = behind + 2
                    continue
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                self._sink(piece, now)
                at += len(piece)
                self._left -= len(piece)
                continue
            if self._left:  # the line end behind a chunk
                skipped = min(self._left, end - at)
                self._left -= skipped
                at += skipped
                continue
            stop = data.find(b"\n", at)
            if stop < 0:
                self._line += data[at:]
                if len(self._line) > HEAD_LIMIT:
                    raise ExchangeError("protocol", "a chunk of the answer has no size")
                return
            line, self._line, at = (self._line + data[at:stop]).rstrip(b"\r"), b"", stop + 1
            self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        if self._trailer:
            self.finished = not line
            return
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise ExchangeError("protocol", "a chunk of the answer has no size") from None
        if size:
            self._left = size + 2
        else:
            self._trailer = True


def _reason(error: OSError) -> str:
    """In the system's words: asyncio's own name the address again."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


async def connect(where: Endpoint, make: Callable[[], Connection]) -> Connection:
    """Over TCP, with TLS where the endpoint says so."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if where.tls else None
    _, protocol = await loop.create_connection(make, where.host, where.port, ssl=context)
    return protocol


class Pool:
    """Connections to one endpoint, as many as there are exchanges at once, reused."""

    def __init__(
        self, where: Endpoint, headers: Mapping[str, str] | None = None, connect: Connect = connect
    ) -> None:
        self.endpoint = where
        self._headers, self._connect = dict(headers or {}), connect
        self._idle: list[Connection] = []

    async def exchange(self, method: str, path: str, body: bytes, sink: Sink) -> int:
        """Send a request and pass its answer's body to `sink`; the status. ExchangeError if it breaks.

        A cancelled exchange closes its connection: that is how a server learns of it.
        """
        head = self.endpoint.head(method, path, self._headers, len(body))
        while True:
            kept = self._take_idle()
            connection = kept or await self._open()
            try:
                status = await connection.begin(head, body, sink)
            except ExchangeError:
                connection.close()
                if kept and not kept.heard:
                    continue  # the server had closed it meanwhile: no fault of the request
                raise
            except BaseException:
                connection.close()
                raise
            if connection.usable:
                self._idle.append(connection)
            return status

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _open(self) -> Connection:
        try:
            return await self._connect(self.endpoint, Connection)
        except ssl.SSLError as error:
            raise ExchangeError("tls", f"{self.endpoint.url}: {error.reason or error}") from None
        except OSError as error:
            message = f"{self.endpoint.url} cannot be reached: {_reason(error)}; is a server running there?"
            raise ExchangeError("connect", message) from None

    def close(self) -> None:
        """All idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
