"""Listening, and stopping without dropping anyone."""

import asyncio
import gc
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from membound.errors import RunError
from membound.server.served import Served
from membound.server.turns import Turns

SWITCH_S = 0.0005
"""How long one thread may hold the interpreter while another waits; Python's 5 ms would delay every step."""


COLLECTED = (700, 4, 2**31 - 1)
"""When the garbage collector looks by itself, which is at 3,500 objects at most, a millisecond; Python's own
middle number is 10. All objects, 160 of each stream that runs, are for `DrainingServer` to have looked at.
"""

FEW = 64  # connections, whose objects take the collector 3 ms
TICKS_FEW = 100  # of 0.1 s: all are looked at so often while there are few
TICKS_MANY = 6000  # and so often whatever there is; requests leave no circles, so little has piled up


class Connection(HttpToolsProtocol):
    """An HTTP connection that waits for its turn, takes parts of a stream past all that stands around the
    routes, and leaves nothing behind once it is lost.
    """

    def __init__(self, *, turns: Turns, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._turns = turns

    def data_received(self, data: bytes) -> None:
        self._turns.take(partial(self._read, data))

    def _read(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["state"]["straight"] = Line(self.transport, self.flow)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # nothing is written any more
        self._turns.take(partial(self._lost, exc))

    def _lost(self, exc: Exception | None) -> None:
        """Where a client breaks off, uvicorn leaves the timer for its next request running, and keeps the
        last request's objects for as long as a client may be silent.
        """
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


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


class DrainingServer(uvicorn.Server):
    """The first signal lets requests finish, for as long as the settings say; the second ends them."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = False  # a second signal came
        self._collected = gc.get_threshold()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # the vocabulary and all modules: going through them takes 25 ms, now and then
        gc.set_threshold(*COLLECTED)

    async def on_tick(self, counter: int) -> bool:
        few = len(self.server_state.connections) <= FEW
        if counter % (TICKS_FEW if few else TICKS_MANY) == 0:
            gc.collect()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        gc.set_threshold(*self._collected)
        gc.unfreeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
        elif self.served.draining:
            self._hurry = True
        else:
            self.served.draining = True
            self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        """New connections are still taken, so that /ready can say no. Who cannot finish is told so."""
        until = time.monotonic() + self.served.settings.drain_s
        while self.served.ledger.active and not self._hurry and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self.served.engine.close)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; RunError says why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except (OSError, OverflowError) as error:
        found.close()
        raise RunError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from None
    return found


def configured(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves it."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        http=partial(Connection, turns=Turns()),  # type: ignore[arg-type]
    )


def serve(app: FastAPI, served: Served, listener: socket.socket) -> None:
    """Serve until a signal, drain, and close the engine."""
    server = DrainingServer(configured(app), served)
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    original = signal.getsignal(signal.SIGINT)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again once all is served
        pass
    finally:
        signal.signal(signal.SIGINT, original)
        sys.setswitchinterval(before)
        served.engine.close()
