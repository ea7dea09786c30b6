"""What comes all at once."""

import asyncio

from membound.server.turns import AT_ONCE, Turns


def test_a_few_are_taken_at_a_time_and_in_their_order() -> None:
    taken: list[int] = []

    async def main() -> None:
        turns = Turns()
        count = 3 * AT_ONCE + 1
        for number in range(count - 1):
            turns.take(lambda number=number: taken.append(number))  # type: ignore[misc]
        assert taken == list(range(AT_ONCE)), "the first need not wait"
        before = len(taken)
        while len(taken) < count:
            await asyncio.sleep(0)
            if before == AT_ONCE:
                turns.take(lambda: taken.append(count - 1))
            assert len(taken) - before <= AT_ONCE
            before = len(taken)
        assert taken == list(range(count))

    asyncio.run(asyncio.wait_for(main(), 10))


def test_what_fails_stops_nobody_else() -> None:
    taken: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        turns = Turns()
        for _ in range(AT_ONCE):
            turns.take(lambda: None)
        turns.take(lambda: 1 / 0)
        for number in range(AT_ONCE):
            turns.take(lambda number=number: taken.append(number))  # type: ignore[misc]
        while len(taken) < AT_ONCE:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 10))
