"""Requests that come all at once begin a few at a time, so that running streams have turns in between."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE = 8  # requests that begin between two looks at the sockets: some 0.2 ms of work each


class Turns:
    """Outermost: before a request's own turn nothing is done for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._left = AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._turn()
        await self.app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._left == AT_ONCE:
            loop.call_soon(self._again)
        if self._left:
            self._left -= 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _again(self) -> None:
        """The loop has looked at its sockets."""
        self._left = AT_ONCE
        while self._waiting and self._left:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._left -= 1
                waiter.set_result(None)
        if self._left < AT_ONCE:
            asyncio.get_running_loop().call_soon(self._again)
