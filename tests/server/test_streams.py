"""Streams whose client does not read."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from membound.server.errors import ApiError
from membound.server.log import Told
from membound.server.streams import EventStream


def test_a_deadline_ends_a_stream_that_nobody_reads() -> None:
    left: list[str] = []
    sent: list[bytes] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            async with asyncio.timeout(0.01):
                yield b"first"
                yield b"second"
        except TimeoutError:
            raise ApiError(504, "too late") from None
        finally:
            left.append("chunks")

    async def send(message: Any) -> None:
        if message.get("body") == b"first":
            await asyncio.sleep(3600)  # until the client reads
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.sleep(3600)

    async def main() -> None:
        told = Told("", 0.0)
        await EventStream(chunks(), told)({}, receive, send)
        assert told.rest is not None
        await told.rest(receive, send)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert left == ["chunks"]
    assert b"too late" in sent[1]
    assert sent[1].endswith(b"data: [DONE]\n\n")
