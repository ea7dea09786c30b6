"""A step's seconds as plain arithmetic on a few numbers: what a simulation asks a million times.

`StepCost` multiplies matrices of coefficients by the features of a step. Most of these features depend on one
number alone: rows, or rows that sample. What depends only on them is tabulated. What is left is the attention
over the caches: for most models one square root for what decodes, and one for prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from membound.costs.features import Features, Vector, Window
from membound.costs.roofline import Stage, StepCost
from membound.models.operators import attention_keys, attention_pairs, chosen_keys

FIRST_ROWS = 1024  # entries of a table when it is made; it doubles when more are asked for
LONG, LONGEST = 100, 4096  # steps from which on, and up to which, arrays are quicker than a loop
NEVER = float("inf")
KEPT = 200_000  # values kept of what has no table: fractions of rows, of which there is no end

Terms = tuple[float, float, float, float, float, float]
Polynomials = tuple[float, float, float, float, float]
Chunk = tuple[int, int, int]  # new tokens, cached tokens, rows that sample


class FoldedCost:
    """The seconds of a `StepCost`, within rounding, at about a microsecond a step."""

    def __init__(self, cost: StepCost) -> None:
        self.windows = cost.features.windows
        self._stages = [FoldedStage(stage, cost.features) for stage in cost.stages]
        self._only = self._stages[0] if len(self._stages) == 1 else None
        self._plain = self._only if self._only is not None and self._only.plain else None

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        """Of a step of sequences that compute one token each, known by their summed contexts, and chunks."""
        if self._plain is not None:
            return self._plain.plain_seconds(sequences, context[None] if sequences else 0, chunks)
        singles, rows, sampled, longer = sequences, sequences, sequences, 0
        one = [
            float(context[w] + sequences if w is None else min(_of(context, w) + sequences, sequences * w))
            for w in self.windows
        ]
        many: list[float] = []
        longer_rows = 0
        for tokens, cached, samples in chunks:
            rows += tokens
            sampled += samples
            if tokens == 1:
                singles += 1
                for place, window in enumerate(self.windows):
                    one[place] += cached + 1 if window is None else min(cached + 1, window)
                continue
            longer += 1
            longer_rows += tokens
            seen: list[float] = []
            for window in self.windows:
                seen += (
                    attention_pairs(tokens, cached, window),
                    attention_keys(tokens, cached, window),
                    chosen_keys(tokens, cached, window),
                )
            many = [a + b for a, b in zip(many, seen, strict=True)] if many else seen
        several = singles + longer
        if self._only is not None:
            return self._only.seconds(rows, sampled, several, singles, one, longer_rows, many)
        parts = min(max(several, 1.0), float(len(self._stages)))
        times = [
            stage.seconds(
                rows / parts, sampled / parts, several / parts, singles / parts, [k / parts for k in one],
                longer_rows / parts, [k / parts for k in many],
            )
            for stage in self._stages
        ]  # fmt: skip
        return max(sum(times), parts * max(times))

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        """Repeats a step without chunks, whose contexts grow: the time after it, and how often it ran.

        At most `most` times, and no more once the time is `until`. Seconds are added one after another.
        """
        if self._plain is not None:
            return self._plain.plain_run(sequences, context[None], growth[None], now, until, most)
        grown = dict(context)
        times = 0
        while times < most:
            now += self.seconds(sequences, grown)
            times += 1
            if now >= until:
                break
            for window, more in growth.items():
                grown[window] += more
        return now, times


@dataclass(frozen=True)
class Part:
    """Kernels that depend on the same few features: coefficients in the order of `places`."""

    places: list[int]
    linear: Vector  # (places,)
    memory: Vector  # (curved kernels, places)
    math: Vector
    rivals: list[list[int]]  # rows of which the slower is not taken


class FoldedStage:
    """One pipeline stage: a table for what depends on rows, and curves for attention."""

    def __init__(self, stage: Stage, features: Features) -> None:
        self._features = features
        self._sharpness = stage.sharpness
        place, windows = features.place, features.windows
        self._rows, self._sampled, self._one, self._many = _parts(
            stage,
            [
                [place("any"), place("rows"), place("sequences")]
                + [place("distinct", shape) for shape in features.experts],
                [place("any_sampled"), place("sampled")],
                [place("any_one"), place("rows_one")] + [place("keys_one", w) for w in windows],
                [place("any_many"), place("rows_many")]
                + [place(name, w) for w in windows for name in ("pairs_many", "keys_many", "chosen_many")],
            ],
        )
        self._one_terms, self._many_terms = _Terms(self._one), _Terms(self._many)
        self._combine = _combined(stage.sharpness)
        # Sequences come in linearly, but for recurrent layers, which keep a state for each.
        self._of_sequence = float(self._rows.linear[2])
        self._recurrent = bool(self._rows.memory[:, 2].any() or self._rows.math[:, 2].any())
        self._by_rows: list[float] = []
        self._by_sampled: list[float] = []
        self._decoding: dict[int, Polynomials] = {}
        self._kept: dict[tuple[float, float], float] = {}
        one_kernel = len(self._one.memory) == len(self._many.memory) == 1
        # One attention over all cached tokens at a sharpness of two: the common case, written out.
        self.plain = stage.sharpness == 2 and windows == (None,) and one_kernel and not self._recurrent
        if self.plain:
            self._grow_tables(FIRST_ROWS)

    def seconds(
        self,
        rows: float,
        sampled: float,
        sequences: float,
        singles: float,
        keys: Sequence[float],
        longer_rows: float,
        longer: Sequence[float],
    ) -> float:
        """Of a step by its features; `longer` holds pairs, keys and chosen keys for each window."""
        total = self._of_rows(rows, sequences) + self._of_sampled(sampled)
        if singles:
            total += self._one_terms.seconds((1.0, singles, *keys), self._combine)
        if longer:
            total += self._many_terms.seconds((1.0, longer_rows, *longer), self._combine)
        return total

    def plain_seconds(self, sequences: int, context: int, chunks: Sequence[Chunk]) -> float:
        """`FoldedCost.seconds` of a model with one attention over all cached tokens."""
        rows = sampled = singles = sequences
        several = sequences + len(chunks)
        keys, pairs, longer_keys = context + sequences, 0, 0
        for tokens, cached, samples in chunks:
            rows += tokens
            sampled += samples
            if tokens == 1:
                singles += 1
                keys += cached + 1
            else:
                pairs += tokens * cached + tokens * (tokens + 1) // 2
                longer_keys += cached + tokens
        while rows >= len(self._by_rows) or sampled >= len(self._by_sampled):
            self._grow_tables(2 * len(self._by_rows))
        total = self._by_rows[rows] + self._by_sampled[sampled] + self._of_sequence * several
        if singles:
            total += self._one_terms.of_keys(singles, keys)
        if pairs:
            total += self._many_terms.of_pairs(rows - singles, pairs, longer_keys)
        return total

    def plain_run(
        self, sequences: int, context: int, growth: int, now: float, until: float, most: int
    ) -> tuple[float, int]:
        """`FoldedCost.run` of a model with one attention over all cached tokens."""
        terms = self._decoding.get(sequences)
        if terms is None:
            terms = self._decoding[sequences] = self._decoding_terms(sequences)
        base, of_key, zeroth, first, second = terms
        keys = context + sequences
        if most >= LONG:
            step = base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
            if now + LONG * step < until:
                return self._long_run(sequences, keys, growth, now, until, most)
        for times in range(1, most + 1):
            now += base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
            if now >= until:
                return now, times
            keys += growth
        return now, most

    def _long_run(
        self, sequences: int, keys: int, growth: int, now: float, until: float, most: int
    ) -> tuple[float, int]:
        """The same of many steps at once: to the last bit, since their seconds are added in turn as well."""
        base, of_key, zeroth, first, second = self._decoding[sequences]
        count = min(most, LONGEST)
        if until < NEVER:  # steps only grow longer: not more than these
            step = base + of_key * keys + sqrt(zeroth + keys * (first + second * keys))
            count = min(count, int((until - now) / step) + 2)
        seen = keys + growth * np.arange(count)
        moments = np.empty(count + 1)
        moments[0] = now
        moments[1:] = base + of_key * seen + np.sqrt(zeroth + seen * (first + second * seen))
        moments = np.cumsum(moments)
        times = min(count, int(np.searchsorted(moments[1:], until)) + 1)
        now = float(moments[times])
        if times == most or now >= until:
            return now, times
        now, more = self.plain_run(
            sequences, keys - sequences + times * growth, growth, now, until, most - times
        )
        return now, times + more

    def _decoding_terms(self, sequences: int) -> Polynomials:
        """Seconds of so many sequences that decode, by the keys they see: base + linear + √(quadratic)."""
        while sequences >= len(self._by_rows):
            self._grow_tables(2 * len(self._by_rows))
        base = self._by_rows[sequences] + self._by_sampled[sequences] + self._of_sequence * sequences
        more, of_key, memory, memory_key, math, math_key = self._one_terms.decoding(sequences)
        return (
            base + more, of_key, memory**2 + math**2, 2 * (memory * memory_key + math * math_key),
            memory_key**2 + math_key**2,
        )  # fmt: skip

    def _of_rows(self, rows: float, sequences: float) -> float:
        """Everything that depends on rows, sequences and the experts that the rows choose."""
        found = self._kept.get((rows, sequences))
        if found is None:
            features = np.array([float(rows > 0), rows, sequences, *self._features.distinct(rows)])
            found = float(self._summed(self._rows, features))
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[rows, sequences] = found
        return found

    def _of_sampled(self, sampled: float) -> float:
        if not sampled:
            return 0.0
        found = self._kept.get((-1.0, sampled))
        if found is None:
            found = self._kept[-1.0, sampled] = float(self._summed(self._sampled, np.array([1.0, sampled])))
        return found

    def _grow_tables(self, size: int) -> None:
        """Seconds of 0 … size - 1 rows, without what each sequence adds, and of as many that sample."""
        rows = np.arange(size, dtype=np.float64)
        some = np.minimum(rows, 1.0)
        distinct = self._features.distinct_of(rows)
        self._by_rows = self._summed(self._rows, np.array([some, rows, 0 * rows, *distinct])).tolist()
        self._by_sampled = self._summed(self._sampled, np.array([some, rows])).tolist()

    def _summed(self, part: Part, found: Vector) -> Vector:
        """Of features of shape (places,) or (places, steps)."""
        each = _combined_arrays(self._sharpness, part.memory @ found, part.math @ found)
        total: Vector = part.linear @ found + each.sum(axis=0)
        for rows in part.rivals:
            total = total - each[rows].max(axis=0)
        return total


class _Terms:
    """The coefficients of a part as plain numbers."""

    def __init__(self, part: Part) -> None:
        self.linear: list[float] = part.linear.tolist()
        self.curves: list[tuple[list[float], list[float]]] = [
            (memory.tolist(), math.tolist()) for memory, math in zip(part.memory, part.math, strict=True)
        ]
        self.rivals = part.rivals
        # For `of_pairs`: of the kernel's memory and math, and linear; without windows all keys are chosen.
        self._by_pairs: list[list[float]] = [
            [*terms[:3], terms[3] + terms[4]]
            for terms in (*(self.curves[0] if len(self.curves) == 1 else ()), self.linear)
            if len(terms) == 5
        ]

    def seconds(self, found: Sequence[float], combine: Callable[[float, float], float]) -> float:
        """Of features in the order of the part's places."""
        each = [combine(_dot(memory, found), _dot(math, found)) for memory, math in self.curves]
        total = _dot(self.linear, found) + sum(each)
        for group in self.rivals:
            total -= max(each[row] for row in group)
        return total

    def of_keys(self, rows: int, keys: int) -> float:
        """Of one kernel: rows of one token that see so many keys."""
        more, of_key, memory, memory_key, math, math_key = self.decoding(rows)
        reading, reckoning = memory + memory_key * keys, math + math_key * keys
        return more + of_key * keys + sqrt(reading * reading + reckoning * reckoning)

    def decoding(self, rows: int) -> Terms:
        """Linear seconds, memory and math of so many rows, each as a base and what a key adds."""
        any_, of_row, of_key = self.linear
        memory, math = self.curves[0]
        return (
            any_ + of_row * rows, of_key,
            memory[0] + memory[1] * rows, memory[2], math[0] + math[1] * rows, math[2],
        )  # fmt: skip

    def of_pairs(self, rows: int, pairs: int, keys: int) -> float:
        """Of one kernel: rows of longer chunks, with their pairs and keys."""
        (m0, m1, m2, m3), (c0, c1, c2, c3), (l0, l1, l2, l3) = self._by_pairs
        reading, reckoning = m0 + m1 * rows + m2 * pairs + m3 * keys, c0 + c1 * rows + c2 * pairs + c3 * keys
        return l0 + l1 * rows + l2 * pairs + l3 * keys + sqrt(reading * reading + reckoning * reckoning)


def _parts(stage: Stage, places: list[list[int]]) -> list[Part]:
    """The curved kernels of a stage, each in the first group of places that holds all it depends on."""
    memory, math = stage.curved_memory, stage.curved_math
    rows: list[list[int]] = [[] for _ in places]
    for row in range(len(memory)):
        used = {int(i) for i in np.flatnonzero(memory[row] + math[row])}
        homes = [group for group, held in enumerate(places) if used <= set(held)]
        assert homes, f"a kernel depends on features of several kinds: {used}"
        rows[homes[0]].append(row)
    return [
        Part(
            held,
            stage.linear[held],
            memory[np.ix_(mine, held)],
            math[np.ix_(mine, held)],
            [[mine.index(row) for row in group] for group in stage.curved_rivals if group[0] in mine],
        )
        for held, mine in zip(places, rows, strict=True)
    ]


def _of(context: Mapping[Window, int], window: Window) -> int:
    return context[window] if window in context else context[None]


def _dot(coefficients: Iterable[float], found: Iterable[float]) -> float:
    total = 0.0
    for coefficient, value in zip(coefficients, found, strict=True):
        total += coefficient * value
    return total


def _combined(sharpness: float | None) -> Callable[[float, float], float]:
    """Seconds of a kernel that reads and multiplies for so many seconds."""
    if sharpness is None:
        return max
    if sharpness == 2:
        return lambda memory, math: sqrt(memory * memory + math * math)
    return lambda memory, math: (memory**sharpness + math**sharpness) ** (1 / sharpness)


def _combined_arrays(sharpness: float | None, memory: Vector, math: Vector) -> Vector:
    if sharpness is None:
        return np.maximum(memory, math)
    seconds: Vector = (memory**sharpness + math**sharpness) ** (1 / sharpness)
    return seconds
