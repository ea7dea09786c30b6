"""What comes to the sockets all at once is taken a few at a time: running streams have turns in between."""

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 3  # requests that begin, or clients that leave, between two looks at the sockets


class Turns:
    """Of one event loop: what is taken in a turn is in the order in which it came."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._waiting: deque[Callable[[], object]] = deque()

    def take(self, work: Callable[[], object]) -> None:
        """Do it now, or after what came before it."""
        if self._left == AT_ONCE:
            asyncio.get_running_loop().call_soon(self._again)
        if self._left:
            self._left -= 1
            work()
        else:
            self._waiting.append(work)

    def _again(self) -> None:
        """The loop has looked at its sockets."""
        due = min(AT_ONCE, len(self._waiting))
        if due:
            asyncio.get_running_loop().call_soon(self._again)
        self._left = 0  # and so it stays if one of them fails: what comes then is behind the others
        for _ in range(due):
            self._waiting.popleft()()
        self._left = AT_ONCE - due
