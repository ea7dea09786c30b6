"""Streams: concurrent, cancelled, refused, closed."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from membound.errors import InputError, RunError
from membound.serving import async_engine
from membound.serving.async_engine import AsyncEngine, Job, _Inlet
from membound.serving.clock import Wall
from membound.serving.engine import Engine, Event
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


def test_what_a_sink_does_not_take_comes_from_the_stream(served: AsyncEngine) -> None:
    async def main(fail_at: int | None) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def sink(events: list[tuple[int, Event]]) -> bool:
            if len(found) == fail_at:
                raise ValueError("the sink is full")
            if len(found) % 3 == 2:
                return False
            found.extend(("sunk", token) for _, event in events for token in event.token_ids)
            return True

        async with served.open([Job([3] * 20, limited(10))]) as stream:
            stream.divert(sink)
            async for events in stream:
                found.extend(("given", token) for _, event in events for token in event.token_ids)
        return found

    found = asyncio.run(main(None))
    assert [token for _, token in found] == continuation([3] * 20, 10)
    assert {way for way, _ in found} == {"sunk", "given"}
    with pytest.raises(ValueError, match="the sink is full"):
        asyncio.run(main(4))


def test_news_of_many_streams_take_several_turns_and_keep_their_order(
    served: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_engine, "STREAMS_A_TURN", 3)
    turns = [0]
    most = [0]

    async def main() -> list[list[int]]:
        async def one(n: int) -> list[int]:
            tokens: list[int] = []

            def sink(events: list[tuple[int, Event]]) -> bool:
                turns[0] += 1
                most[0] = max(most[0], turns[0])
                tokens.extend(token for _, event in events for token in event.token_ids)
                return True

            async with served.open([Job([n] * 20, limited(8))]) as stream:
                stream.divert(sink)
                assert [events async for events in stream] == []
            return tokens

        async def look() -> None:
            while True:
                turns[0] = 0
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        found = await asyncio.gather(*(one(n) for n in range(10)))
        looking.cancel()
        return found

    assert asyncio.run(main()) == [continuation([n] * 20, 8) for n in range(10)]
    assert 1 < most[0] <= 2 * 3, "at most two turns lie between two looks"


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


def test_while_nobody_asks_idle_work_is_done_to_its_end() -> None:
    left, done = [3], threading.Event()

    def idle() -> bool:
        left[0] -= 1
        more = left[0] > 0  # what the test changes once it is told counts for the next time
        if not more:
            done.set()
        return more

    server = AsyncEngine(Engine(Scheduler(64), Slow(), Wall()), idle)
    assert done.wait(10)
    done.clear()
    left[0] = 2
    assert len(asyncio.run(collect(server, [1], 4))) == 4
    assert done.wait(10)
    server.close()
    assert left == [0]


def test_an_engine_that_breaks_says_so() -> None:
    server = AsyncEngine(Engine(Scheduler(64), Slow(), Wall()))
    server.engine.step = None  # type: ignore[method-assign, assignment]
    with pytest.raises(RunError, match="the engine broke"):
        asyncio.run(collect(server, [1], 1))
    with pytest.raises(RunError, match="the engine broke"):
        asyncio.run(collect(server, [1], 1))
    server.close()


def test_whoever_delivers_to_a_closed_loop_learns_of_it() -> None:
    loop = asyncio.new_event_loop()
    inlet = _Inlet(loop)
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            inlet.put([])
