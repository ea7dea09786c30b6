"""HTTP connections: uvicorn's, with bounds, and with turns for many that come or go at once."""

import asyncio
import re
from collections import deque
from functools import partial
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from membound.server.errors import error_body
from membound.server.streams import to_json
from membound.server.turns import Turns

PIECE = 1 << 13  # bytes that are read in a turn: thousands of headers or chunks may be in them
MOST_PIECES = 8  # that wait, of a connection
MOST_HEAD = 1 << 15  # bytes of a request's line and headers


class Connection(HttpToolsProtocol):
    """Of HTTP: takes turns with others at what came in, keeps a bounded part of it, writes parts of a stream
    past all that stands around the routes, and leaves nothing behind once it is lost.
    """

    def __init__(self, *, turns: Turns, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._turns = turns
        self._waiting: deque[bytes] = deque()  # what came in and has not been read
        self._due = False  # whether a turn will come
        self._in_head = True  # a request's line and headers, or between two requests
        self._head = 0  # bytes of it, by whole pieces
        # The request whose answer is made; others wait for it.
        self._answered: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        self._waiting.extend(data[start : start + PIECE] for start in range(0, len(data), PIECE))
        if len(self._waiting) > MOST_PIECES:
            self.transport.pause_reading()
        self._go_on()

    def _go_on(self) -> None:
        """A request that waits for another's answer is the last to be read. What comes then is kept: who
        does not look at a socket does not see either that a client leaves.
        """
        if self._waiting and not self._due and not self.pipeline:
            self._due = True
            self._turns.take(self._read)

    def _read(self) -> None:
        self._due = False
        if self.transport.is_closing():
            return
        piece = self._waiting.popleft()
        super().data_received(_without_upgrade(piece) if self._in_head else piece)
        if self._in_head:
            self._head += len(piece)
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self._refuse(431, f"the request's headers are longer than {MOST_HEAD} bytes")
        if self.transport.is_closing():
            return
        if len(self._waiting) <= MOST_PIECES and not self.flow.read_paused:
            self.transport.resume_reading()
        self._go_on()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        self.scope["state"]["straight"] = Line(self.transport, self.flow)
        if self.pipeline:
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._go_on()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not a request of HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        """The last words on this connection, unless they would be in the middle of an answer."""
        if self._answered is None or self._answered.response_complete:
            body = to_json(error_body(status, message))
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in (self.cycle, self._answered):
            if cycle is not None:
                cycle.disconnected = True  # nothing is written any more
        self._turns.take(partial(self._lost, exc))

    def _lost(self, exc: Exception | None) -> None:
        """Where a client breaks off, uvicorn leaves the timer for its next request running, and keeps the
        last request's objects for as long as a client may be silent.
        """
        super().connection_lost(exc)
        if self._answered is not None:
            self._answered.message_event.set()
            self._answered = None
        self._waiting.clear()
        self.pipeline.clear()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


def _without_upgrade(piece: bytes) -> bytes:
    """Java's own client offers HTTP/2 with each request: the parser would take what follows for that."""
    if b"h2c" not in piece:
        return piece
    head, end, rest = piece.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head + end) + rest


class Line:
    """The way of parts of an answer straight to the socket: `streams.Straight`."""

    __slots__ = ("_flow", "_transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow

    @property
    def free(self) -> bool:
        return not self._flow.write_paused

    def write(self, part: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(part), part))
