"""The common case of a folded cost, written out: one attention over all cached tokens, and no pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Final

import numpy as np

from membound.costs.features import Window
from membound.costs.folded import Chunk, FoldedCost
from membound.costs.roofline import StepCost

FIRST_ROWS: Final = 1024  # entries of a table when it is made; it doubles when more are asked for
LONG: Final = 80  # steps from which on arrays are quicker than a loop
LONGEST: Final = 4096  # and up to which
COUNTED: Final = np.arange(float(LONGEST))
NEVER: Final = float("inf")

Curve = tuple[float, float, float, float, float]
"""Seconds by the keys that are seen: base + linear · keys + √(zeroth + first · keys + second · keys²)."""


def fold(cost: StepCost) -> FoldedCost:
    """The quickest form of a cost."""
    folded = FoldedCost(cost)
    return PlainCost(cost) if folded.plain else folded


class PlainCost(FoldedCost):
    """Tables by rows, and two square roots: for what decodes, and for prompts."""

    def __init__(self, cost: StepCost) -> None:
        super().__init__(cost)
        assert self.plain
        self._stage = self._stages[0]
        self._one, self._many = self._stage.one, self._stage.many
        self._of_sequence, self._floor = self._stage.of_sequence, self._stage.floor
        self._attention: dict[int, Curve] = {}  # of so many rows of one token
        self._decoding: dict[int, Curve] = {}  # of a whole step of so many sequences that decode
        # Of prompts, by 1, rows, pairs and keys, thrice; without windows all keys are chosen.
        self._prompts = [
            coefficient
            for any_, of_row, of_pair, of_key, of_chosen in (*self._many.curves[0], self._many.linear)
            for coefficient in (any_, of_row, of_pair, of_key + of_chosen)
        ]
        self._grow_tables(FIRST_ROWS)

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        rows = sampled = singles = sequences
        keys = context[None] + sequences if sequences else 0
        longer = longer_keys = 0
        for tokens, cached, samples in chunks:
            rows += tokens
            sampled += samples
            if tokens == 1:
                singles += 1
                keys += cached + 1
            else:
                longer += tokens * cached + tokens * (tokens + 1) // 2
                longer_keys += cached + tokens
        if rows >= self._tabulated:
            self._grow_tables(2 * rows)
        total = (
            self._by_rows[rows] + self._by_sampled[sampled] + self._of_sequence * (sequences + len(chunks))
        )
        if singles:
            curve = self._attention.get(singles)
            if curve is None:
                curve = self._attention[singles] = self._attending(singles)
            base, of_key, zeroth, first, second = curve
            seen = float(keys)  # of two floats the product is quicker
            total += base + of_key * seen + sqrt(zeroth + seen * (first + second * seen))
        if longer:
            many, pairs, seen = float(rows - singles), float(longer), float(longer_keys)
            m0, m1, m2, m3, c0, c1, c2, c3, l0, l1, l2, l3 = self._prompts
            memory = m0 + m1 * many + m2 * pairs + m3 * seen
            math = c0 + c1 * many + c2 * pairs + c3 * seen
            total += l0 + l1 * many + l2 * pairs + l3 * seen + sqrt(memory * memory + math * math)
            if total < self._floor:
                return self._floor
        return total

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        curve = self._decoding.get(sequences)
        if curve is None:
            curve = self._decoding[sequences] = self._whole_step(sequences)
        base, of_key, zeroth, first, second = curve
        keys, more = float(context[None] + sequences), float(growth[None])
        if most >= LONG:
            step = base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
            if now + LONG * step < until:
                return self._long_run(curve, keys, more, now, until, most)
        for times in range(1, most + 1):
            now += base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
            if now >= until:
                return now, times
            keys += more
        return now, most

    def _long_run(
        self, curve: Curve, keys: float, growth: float, now: float, until: float, most: int
    ) -> tuple[float, int]:
        """The same of many steps at once: to the last bit, since their seconds are added in turn as well."""
        base, of_key, zeroth, first, second = curve
        done = 0
        while done < most and now < until:
            count = min(most - done, LONGEST)
            if until < NEVER:  # steps only grow longer: not more than these
                step = base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
                count = min(count, int((until - now) / step) + 2)
            seen = keys + growth * COUNTED[:count]
            moments = np.empty(count + 1)
            moments[0] = now
            moments[1:] = base + of_key * seen + np.sqrt(zeroth + seen * (first + second * seen))
            moments = moments.cumsum()
            times = min(count, int(moments.searchsorted(until)))
            now = float(moments[times])
            done += times
            keys += times * growth
        return now, done

    def _attending(self, rows: int) -> Curve:
        """Attention of so many rows of one token."""
        any_, of_row, of_key = self._one.linear
        (m0, m1, m2), (c0, c1, c2) = self._one.curves[0]
        memory, math = m0 + m1 * rows, c0 + c1 * rows
        return (
            any_ + of_row * rows, of_key,
            memory * memory + math * math, 2 * (memory * m2 + math * c2), m2 * m2 + c2 * c2,
        )  # fmt: skip

    def _whole_step(self, sequences: int) -> Curve:
        """All of a step of so many sequences that decode."""
        base, *rest = self._attending(sequences)
        if sequences >= self._tabulated:
            self._grow_tables(2 * sequences)
        base += self._by_rows[sequences] + self._by_sampled[sequences] + self._of_sequence * sequences
        of_key, zeroth, first, second = rest
        return base, of_key, zeroth, first, second

    def _grow_tables(self, size: int) -> None:
        """For 0 … size - 1 rows."""
        self._tabulated = size
        self._by_rows, self._by_sampled = self._stage.tables(size)
