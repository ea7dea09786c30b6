"""Listening, and stopping without dropping anyone."""

import asyncio
import gc
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from membound.errors import RunError
from membound.server.served import Served

SWITCH_S = 0.0005
"""How long one thread may hold the interpreter while another waits; Python's 5 ms would delay every step."""


class Connection(HttpToolsProtocol):
    """An HTTP connection of which nothing stays once it is lost.

    Where a client breaks off, uvicorn leaves the timer for its next request running, and keeps the last
    request's objects for as long as a client may be silent.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


class DrainingServer(uvicorn.Server):
    """The first signal lets requests finish, for as long as the settings say; the second ends them."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = False  # a second signal came

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # the vocabulary and all modules: going through them takes 25 ms, now and then
        gc.collect()  # of what is left: it looks again once a quarter of what it counted here has piled up

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
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


def serve(app: FastAPI, served: Served, listener: socket.socket) -> None:
    """Serve until a signal, drain, and close the engine."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        http=Connection,
    )
    server = DrainingServer(config, served)
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
