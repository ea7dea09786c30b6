"""An event loop whose timers are on time to some tens of microseconds."""

import asyncio
import select
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _FineSelector(selectors.DefaultSelector):
    """epoll rounds its timeout up to milliseconds; waiting for the epoll descriptor by select does not."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def fine_loop() -> asyncio.AbstractEventLoop:
    """A new loop; a plain one where the platform has no epoll."""
    if hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(_FineSelector())
    return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Like asyncio.run, on a fine loop."""
    with asyncio.Runner(loop_factory=fine_loop) as runner:
        return runner.run(main)
