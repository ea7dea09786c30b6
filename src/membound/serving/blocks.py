"""The block pool: which blocks of the KV cache are free, used, shared, and what the named ones hold.

A block is private until it is named. Only named blocks can be found and shared, and only where several users
share one are they counted. A named block that nobody uses is free and keeps its content until it is taken
again: the free list is in order of release, and its head is the one unused for longest.

A named block that is found while free leaves its place in the middle of the free list behind; the pool counts
such stale places and skips them when they come to the head.

Where nobody reads block tables and nothing is named, it does not matter which block is whose: then blocks may
be counted only, and every table is empty.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Final


def table(blocks: Iterable[int] = ()) -> array[int]:
    """Ids of blocks, in one piece of memory: a list would point at tens of thousands of integers, each of
    which the processor had to fetch to hand a block on.
    """
    return array("i", blocks)


NO_BLOCKS: Final = table()


class BlockPool:
    """`blocks` blocks, by id from 0."""

    __slots__ = (
        "_found", "_head", "_idle", "_names", "_others", "_queue", "_stale", "blocks", "counted", "free",
    )  # fmt: skip

    def __init__(self, blocks: int, *, counted: bool = False) -> None:
        self.blocks = blocks
        self.counted = counted  # without ids so far
        self.free = blocks  # how many nobody uses
        self._queue = table(range(blocks))  # from `_head` on: free, longest unused first, and stale places
        self._head = 0
        self._stale: dict[int, int] = {}  # places of a block in the queue that no longer count, the foremost
        self._names: list[Hashable | None] = []  # of each block, used or free; made with the first
        self._found: dict[Hashable, int] = {}  # the inverse
        self._others: dict[int, int] = {}  # users of a block beside the first, where there are any
        self._idle: set[int] = set()  # free blocks that may have a name: all that have are among them

    def find(self, name: Hashable) -> int | None:
        """The block of that name, used or free."""
        return self._found.get(name)

    def acquire(self, shared: Sequence[int], count: int) -> array[int] | None:
        """The found blocks `shared` and `count` fresh ones after them, or None and nothing changes."""
        if not shared:
            return self.take(count) if count <= self.free else None
        revived = self._idle.intersection(shared)
        if count + len(revived) > self.free:
            return None
        for block in shared:
            changed = self._stale if block in revived else self._others
            changed[block] = changed.get(block, 0) + 1
        self._idle -= revived
        self.free -= len(revived)
        return table(shared) + self.take(count)

    def take(self, count: int) -> array[int]:
        """`count` fresh blocks, longest unused first, which forget what they held; so many must be free."""
        self.free -= count
        if self.counted:
            return NO_BLOCKS
        begin = self._head
        self._head = begin + count
        blocks = self._queue[begin : self._head]
        if self._stale and not self._stale.keys().isdisjoint(blocks):
            blocks = self._skip_stale(blocks)
        if self._idle:
            self._forget(blocks.tolist())
        return blocks

    def _forget(self, blocks: list[int]) -> None:
        """These free blocks will hold something else."""
        if not self._idle.isdisjoint(blocks):
            self._idle.difference_update(blocks)
            found, names = self._found, self._names
            for block in blocks:
                name = names[block]
                if name is not None:
                    names[block] = None
                    del found[name]

    def _skip_stale(self, blocks: array[int]) -> array[int]:
        """As many blocks as there are, from the places that count and those after them."""
        fresh = table()
        missing = len(blocks)
        while blocks:
            for block in blocks:
                places = self._stale.pop(block, 0)
                if not places:
                    fresh.append(block)
                elif places > 1:
                    self._stale[block] = places - 1
            begin = self._head
            self._head += missing - len(fresh)
            blocks = self._queue[begin : self._head]
        return fresh

    def name(self, blocks: Iterable[int], names: Iterable[Hashable]) -> None:
        """Used private blocks hold these names from now on; where another does already, it stays private."""
        if not self._names:
            self._names = [None] * self.blocks
        found, known = self._found, self._names
        for block, name in zip(blocks, names, strict=True):
            if name not in found:
                found[name] = block
                known[block] = name

    def number(self, held: Iterable[int]) -> list[array[int]]:
        """From now on blocks have ids: the tables of users who hold so many each."""
        self.counted = False
        self.free = self.blocks
        return [self.take(count) for count in held]

    def release(self, blocks: array[int], published: int) -> None:
        """One user of `blocks` leaves, of which those from `published` on are private.

        The last block is free first, so that the head of a prefix outlives its tail.
        """
        left = blocks[::-1]
        if published:
            if not self._others.keys().isdisjoint(left):
                left = self._without_users(left)
            self._idle.update(left)
        self._queue.extend(left)
        self.free += len(left)
        if self._head > self.blocks:
            del self._queue[: self._head]
            self._head = 0
        if len(self._queue) > 4 * self.blocks:
            self._compact()

    def _without_users(self, blocks: Iterable[int]) -> array[int]:
        """Those of `blocks` that nobody uses once one user has left each."""
        left = table()
        for block in blocks:
            others = self._others.pop(block, 0)
            if others > 1:
                self._others[block] = others - 1
            elif not others:
                left.append(block)
        return left

    def _compact(self) -> None:
        """Drop the stale places: a prefix found again and again would leave them without end."""
        self._queue = table(self.free_order())
        self._head = 0
        self._stale.clear()

    def free_order(self) -> list[int]:
        """The free blocks in the order in which they would be taken."""
        skip = Counter(self._stale)
        order = []
        for block in self._queue[self._head :]:
            if skip[block]:
                skip[block] -= 1
            else:
                order.append(block)
        return order

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert the invariants B1 to B6 of docs/scheduler.md, given the block tables of all users."""
        if self.counted:
            assert not any(tables), "B0: tables are empty where blocks are only counted"
            assert not self._names, "B0: nothing is named then"
            return
        names = {block: name for block, name in enumerate(self._names) if name is not None}
        users = Counter([block for table in tables for block in table])
        places = Counter(self._queue[self._head :])
        free = Counter(self.free_order())
        assert self.free + len(users) == self.blocks, "B1: every block is free or used"
        assert set(free) == set(range(self.blocks)) - set(users), "B2: no block is both"
        assert all(count == 1 for count in free.values()), "B2: no block is free twice"
        assert len(free) == self.free, "B2: the count of free blocks is right"
        assert all(0 < count <= places[block] for block, count in self._stale.items()), (
            "B3: stale places exist"
        )
        assert all(count == 1 for block, count in users.items() if block not in names), (
            "B4: private blocks have one user"
        )
        shared = {block: count - 1 for block, count in users.items() if count > 1}
        assert self._others == shared, "B5: users are counted where there are several"
        assert names.keys() - users.keys() <= self._idle <= free.keys(), "B5: idle blocks are free"
        assert self._found == {name: block for block, name in names.items()}, "B6: one block per name"
        assert len(self._found) == len(names), "B6: one name per block"
