"""A step's seconds as plain arithmetic on a few numbers: what a simulation asks a million times.

`StepCost` multiplies matrices of coefficients by the features of a step. Most of these features depend on one
number alone: rows, or rows that sample. What depends only on them is tabulated. What is left is the attention
over the caches: for most models one square root for what decodes, and one for prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from membound.costs.calibration import ByRows
from membound.costs.features import Features, Vector, Window
from membound.costs.roofline import Stage, StepCost
from membound.models.operators import attention_keys, attention_pairs, chosen_keys

KEPT = 200_000  # values kept of what has no table: fractions of rows, of which there is no end

Chunk = tuple[int, int, int]  # new tokens, cached tokens, rows that sample


class FoldedCost:
    """The seconds of a `StepCost`, within rounding, at about a microsecond a step."""

    def __init__(self, cost: StepCost) -> None:
        self.windows = cost.features.windows
        self._stages = [FoldedStage(stage, cost.features) for stage in cost.stages]
        self._only = self._stages[0] if len(self._stages) == 1 else None

    @property
    def plain(self) -> bool:
        """Whether it is one attention over all cached tokens at a sharpness of two, and no pipeline."""
        return self._only is not None and self._only.plain

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        """Of a step of sequences that compute one token each, known by their summed contexts, and chunks."""
        singles, rows, sampled, longer = sequences, sequences, sequences, 0
        one = [float(_with_own(context, window, sequences)) for window in self.windows]
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
    by_second: ByRows | None = None  # factors on the curved kernels, by the feature at the second place


class FoldedStage:
    """One pipeline stage: a table for what depends on rows, and curves for attention."""

    def __init__(self, stage: Stage, features: Features) -> None:
        self._features = features
        self._sharpness = stage.sharpness
        place, windows = features.place, features.windows
        self._rows, self._sampled, one, many = _parts(
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
        self.one, self.many = Terms(one), Terms(many)
        self._rows = replace(self._rows, by_second=stage.by_rows)
        self._sampled = replace(self._sampled, by_second=stage.by_sampled)
        self._combine = _combined(stage.sharpness)
        # Sequences come in linearly, but for recurrent layers, which keep a state for each.
        self.floor = float(stage.floor[place("any_many")])  # of a step with prompts
        self.of_sequence = float(self._rows.linear[2])
        recurrent = bool(self._rows.memory[:, 2].any() or self._rows.math[:, 2].any())
        kernels = len(one.memory), len(many.memory)
        self.plain = stage.sharpness == 2 and windows == (None,) and kernels == (1, 1) and not recurrent
        self._kept: dict[tuple[float, float], float] = {}

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
            total += self.one.seconds((1.0, singles, *keys), self._combine)
        if longer:
            total += self.many.seconds((1.0, longer_rows, *longer), self._combine)
            if total < self.floor:
                return self.floor
        return total

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

    def tables(self, size: int) -> tuple[list[float], list[float]]:
        """Seconds of 0 … size - 1 rows, without what each sequence adds, and of as many that sample."""
        rows: Vector = np.arange(size, dtype=np.float64)
        some = np.minimum(rows, 1.0)
        distinct = self._features.distinct_of(rows)
        by_rows = self._summed(self._rows, np.array([some, rows, 0 * rows, *distinct]))
        by_sampled = self._summed(self._sampled, np.array([some, rows]))
        return by_rows.tolist(), by_sampled.tolist()

    def _summed(self, part: Part, found: Vector) -> Vector:
        """Of features of shape (places,) or (places, steps)."""
        each = _combined_arrays(self._sharpness, part.memory @ found, part.math @ found)
        if part.by_second is not None:
            each = each * part.by_second.of(found[1])
        total: Vector = part.linear @ found + each.sum(axis=0)
        for rows in part.rivals:
            total = total - each[rows].max(axis=0)
        return total


class Terms:
    """The coefficients of a part as plain numbers."""

    def __init__(self, part: Part) -> None:
        self.linear: list[float] = part.linear.tolist()
        self.curves: list[tuple[list[float], list[float]]] = [
            (memory.tolist(), math.tolist()) for memory, math in zip(part.memory, part.math, strict=True)
        ]
        self.rivals = part.rivals

    def seconds(self, found: Sequence[float], combine: Callable[[float, float], float]) -> float:
        """Of features in the order of the part's places."""
        each = [combine(_dot(memory, found), _dot(math, found)) for memory, math in self.curves]
        total = _dot(self.linear, found) + sum(each)
        for group in self.rivals:
            total -= max(each[row] for row in group)
        return total


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


def _with_own(context: Mapping[Window, int], window: Window, sequences: int) -> int:
    """The keys that so many sequences see, each its own newest among them."""
    if window is None:
        return context[None] + sequences
    cached = context[window] if window in context else context[None]
    return min(cached + sequences, sequences * window)


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
