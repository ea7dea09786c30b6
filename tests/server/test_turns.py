"""Requests that come all at once."""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from membound.server.turns import AT_ONCE, Turns


async def receive() -> Message:
    return {}


async def send(message: Message) -> None:
    pass


def test_a_few_begin_at_a_time_and_in_their_order() -> None:
    begun: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["number"])

    async def main() -> None:
        turns = Turns(app)
        count = 3 * AT_ONCE + 1
        scopes = [{"type": "http", "number": number} for number in range(count)]
        tasks = [asyncio.ensure_future(turns(scope, receive, send)) for scope in scopes]
        tasks[AT_ONCE + 2].cancel()  # left before its turn
        before = 0
        while len(begun) < count - 1:
            await asyncio.sleep(0)
            assert len(begun) - before <= AT_ONCE
            before = len(begun)
        assert begun == [n for n in range(count) if n != AT_ONCE + 2]
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 10))
