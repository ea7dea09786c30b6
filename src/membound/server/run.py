"""Listening, and stopping without dropping anyone."""

import asyncio
import gc
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from membound.errors import RunError
from membound.server.connection import Connection
from membound.server.served import Served
from membound.server.turns import Turns

SWITCH_S = 0.0005
"""How long one thread may hold the interpreter while another waits; Python's 5 ms would delay every step."""


COLLECTED = (700, 4, 2**31 - 1)
"""When the garbage collector looks by itself, which is at 3,500 objects at most, a millisecond; Python's own
middle number is 10. All objects, 160 of each stream and lists of whatever length, are for `DrainingServer` to
have looked at.
"""

TICKS_IDLE = 100  # of 0.1 s: all are looked at so often if no request is under way at that moment
TICKS_BUSY = 6000  # and so often in any case; requests leave no circles, so little has piled up


class DrainingServer(uvicorn.Server):
    """The first signal lets requests finish, for as long as the settings say; the second ends them."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = False  # a second signal came
        self._thresholds = gc.get_threshold()
        self._ticks = 0  # since all objects were looked at

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # the vocabulary and all modules: going through them takes 25 ms, now and then
        gc.set_threshold(*COLLECTED)

    async def on_tick(self, counter: int) -> bool:
        self._ticks += 1
        if self._ticks >= (TICKS_BUSY if self.server_state.tasks else TICKS_IDLE):
            self._ticks = 0
            gc.collect()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        gc.set_threshold(*self._thresholds)
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
        ws="none",
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
