"""The block pool under arbitrary operations, its invariants checked after each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from membound.serving.blocks import BlockPool

BLOCKS = 12


class PoolMachine(RuleBasedStateMachine):
    """Users that hold tables of blocks, some leading ones named; and a model of what named blocks hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS)
        self.tables: list[tuple[array[int], int, int]] = []  # blocks, how many are published, of which family
        self.contents: dict[int, object] = {}

    @rule(count=st.integers(0, BLOCKS + 1))
    def acquire_private(self, count: int) -> None:
        free = self.pool.free
        blocks = self.pool.acquire((), count)
        assert (blocks is None) == (count > free)
        if blocks:
            self.tables.append((blocks, 0, 0))
            self.forget(blocks)

    @rule(family=st.integers(0, 2), length=st.integers(1, 6), fresh=st.integers(0, 3))
    def acquire_with_prefix(self, family: int, length: int, fresh: int) -> None:
        shared: list[int] = []
        for index in range(length):
            block = self.pool.find((family, index))
            if block is None:
                break
            assert self.contents[block] == (family, index), "found blocks hold what their name says"
            shared.append(block)
        before = self.pool.free_order()
        blocks = self.pool.acquire(shared, fresh)
        if blocks is None:
            assert self.pool.free_order() == before, "all or nothing"
        elif blocks:
            assert list(blocks[: len(shared)]) == shared
            assert not set(blocks[len(shared) :]) & set(shared)
            self.forget(blocks[len(shared) :])
            self.tables.append((blocks, len(shared), family))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), family=st.integers(0, 2))
    def publish_next(self, data: st.DataObject, family: int) -> None:
        which = data.draw(st.integers(0, len(self.tables) - 1))
        blocks, published, own = self.tables[which]
        if published < len(blocks):
            family = own if published else family
            name = (family, published)
            if self.pool.find(name) is None:
                self.contents[blocks[published]] = name
            self.pool.name([blocks[published]], [name])
            self.tables[which] = (blocks, published + 1, family)

    @precondition(lambda self: self.tables and self.pool.free)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        first = self.pool.free_order()[0]
        (block,) = self.pool.take(1)
        assert block == first, "the longest unused goes first"
        self.forget([block])
        self.tables[data.draw(st.integers(0, len(self.tables) - 1))][0].append(block)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blocks, published, _ = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(blocks, published)

    def forget(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self.contents.pop(block, None)

    @invariant()
    def holds(self) -> None:
        self.pool.check(blocks for blocks, _, _ in self.tables)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_prefix_found_for_ever_leaves_no_trail() -> None:
    pool = BlockPool(8)
    blocks = pool.acquire((), 8)
    assert blocks is not None
    for index in range(6):
        pool.name([blocks[index]], [index])
    pool.release(blocks, 6)
    for _ in range(1000):
        shared = [block for block in map(pool.find, range(6)) if block is not None]
        assert len(shared) == 6
        again = pool.acquire(shared, 1)
        assert again is not None
        pool.release(again, 6)
    pool.check([])
    assert len(pool._queue) <= 5 * 8


def test_the_head_of_a_prefix_outlives_its_tail() -> None:
    pool = BlockPool(4)
    blocks = pool.acquire((), 4)
    assert blocks is not None
    for index, block in enumerate(blocks):
        pool.name([block], [index])
    pool.release(blocks, 4)
    pool.take(2)
    assert [pool.find(index) is not None for index in range(4)] == [True, True, False, False]
