"""Streams: concurrent, cancelled, refused, closed."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from membound.errors import InputError, RunError
from membound.serving.async_engine import AsyncEngine
from membound.serving.clock import Wall
from membound.serving.engine import Engine
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step
from tests.serving.fakes import Letters, PagedFake, continuation


class Slow(PagedFake):
    def execute(self, step: Step, now: float, until: float) -> Outcome:
        time.sleep(0.001)
        return super().execute(step, now, until)


@pytest.fixture
def served() -> Iterator[AsyncEngine]:
    server = AsyncEngine(Engine(Scheduler(64), Slow(), Wall(), Letters()))
    yield server
    server.close()


def limited(count: int) -> Sampling:
    return Sampling(max_tokens=count, ignore_eos=True)


async def collect(server: AsyncEngine, prompt: str | list[int], count: int) -> list[int]:
    return [token async for event in server.stream(prompt, limited(count)) for token in event.token_ids]


def test_concurrent_streams_each_get_their_own(served: AsyncEngine) -> None:
    async def main() -> list[list[int]]:
        return await asyncio.gather(*(collect(served, [n] * 20, 5 + n) for n in range(10)))

    assert asyncio.run(main()) == [continuation([n] * 20, 5 + n) for n in range(10)]


def test_text_arrives_in_pieces(served: AsyncEngine) -> None:
    async def main() -> list[str]:
        return [event.text async for event in served.stream("tell me", limited(6))]

    assert asyncio.run(main()) == [chr(token) for token in continuation(Letters().encode("tell me"), 6)]


def test_leaving_early_aborts(served: AsyncEngine) -> None:
    async def main() -> None:
        stream = served.stream([1] * 20, limited(900))
        assert (await anext(stream)).token_ids == continuation([1] * 20, 1)
        await stream.aclose()
        hung = asyncio.create_task(collect(served, [2] * 20, 900))
        await asyncio.sleep(0.02)
        hung.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hung
        for _ in range(200):
            if served.engine.scheduler.pool.free == 64:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the blocks never came back")

    asyncio.run(main())


def test_what_cannot_be_served_is_refused_in_the_stream(served: AsyncEngine) -> None:
    with pytest.raises(InputError, match="the context 1024"):
        asyncio.run(collect(served, [1] * 2000, 5))
    assert asyncio.run(collect(served, [1] * 20, 5)) == continuation([1] * 20, 5)


def test_closing_ends_streams_and_refuses_more() -> None:
    server = AsyncEngine(Engine(Scheduler(64), Slow(), Wall()))

    async def main() -> None:
        stream = server.stream([1] * 20, limited(900))
        await anext(stream)
        await asyncio.to_thread(server.close)
        with pytest.raises(RunError, match="closed"):
            async for _ in stream:
                pass
        with pytest.raises(RunError, match="closed"):
            await collect(server, [1], 1)

    asyncio.run(main())


def test_an_engine_that_breaks_says_so() -> None:
    server = AsyncEngine(Engine(Scheduler(64), Slow(), Wall()))
    server.engine.step = None  # type: ignore[method-assign, assignment]
    with pytest.raises(RunError, match="the engine broke"):
        asyncio.run(collect(server, [1], 1))
    with pytest.raises(RunError, match="the engine broke"):
        asyncio.run(collect(server, [1], 1))
    server.close()
