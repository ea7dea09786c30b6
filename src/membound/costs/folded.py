"""A step's seconds as plain arithmetic on a few numbers: what a simulation asks a million times.

`StepCost` multiplies matrices of coefficients by the features of a step. Of these features most depend on one
number alone: rows, or rows that sample. Whatever depends only on them is computed once for each number and
kept. What is left for a step is the attention over its caches, a square root or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from typing import TypeVar

from membound.costs.features import Features, Window
from membound.costs.roofline import Stage, StepCost
from membound.models.operators import attention_keys, attention_pairs, chosen_keys

KEPT = 200_000  # values kept of each kind: pipelines ask for fractions of rows, of which there is no end

Chunk = tuple[int, int, int]  # new tokens, cached tokens, rows that sample
Key = TypeVar("Key")
Curve = tuple[tuple[float, ...], tuple[float, ...]]  # coefficients of memory and of math


class FoldedCost:
    """The seconds of a `StepCost`, within rounding, at a few microseconds a step."""

    def __init__(self, cost: StepCost) -> None:
        self.windows = cost.features.windows
        self._stages = [FoldedStage(stage, cost.features) for stage in cost.stages]
        self._only = self._stages[0] if len(self._stages) == 1 else None
        self._plain = len(self.windows) == 1 and self._only is not None and self._only.plain

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Iterable[Chunk] = ()) -> float:
        """Of a step of sequences that compute one token each, known by their summed contexts, and chunks."""
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
        if self._plain and self._only is not None:
            return self._only.run(sequences, context[None], growth[None], now, until, most)
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


class FoldedStage:
    """One pipeline stage: a number for what depends on rows, and curves for attention."""

    def __init__(self, stage: Stage, features: Features) -> None:
        self._stage = stage
        self._features = features
        self._combine = _combined(stage.sharpness)
        place, windows = features.place, features.windows
        width = len(features)
        groups = {
            "rows": [place("any"), place("rows"), place("sequences")]
            + [place("distinct", shape) for shape in features.experts],
            "sampled": [place("any_sampled"), place("sampled")],
            "one": [place("any_one"), place("rows_one")] + [place("keys_one", w) for w in windows],
            "many": [place("any_many"), place("rows_many")]
            + [place(name, w) for w in windows for name in ("pairs_many", "keys_many", "chosen_many")],
        }
        curves: dict[str, list[int]] = {name: [] for name in groups}
        memory, math = stage.curved_memory, stage.curved_math
        for row in range(len(memory)):
            used = {i for i in range(width) if memory[row, i] or math[row, i]}
            home = [name for name, places in groups.items() if used <= set(places)]
            assert home, f"a kernel depends on features of several kinds: {used}"
            curves[home[0]].append(row)

        def folded(name: str) -> tuple[tuple[float, ...], list[Curve], list[list[int]]]:
            """Linear coefficients, curves, and which of the curves are rivals."""
            rows, places = curves[name], groups[name]
            pairs = [(tuple(memory[r, places].tolist()), tuple(math[r, places].tolist())) for r in rows]
            rivals = [[rows.index(r) for r in group] for group in stage.curved_rivals if group[0] in rows]
            return tuple(stage.linear[places].tolist()), pairs, rivals

        self._rows = folded("rows")
        self._sampled = folded("sampled")
        self._one = folded("one")
        self._many = folded("many")
        self._rows_kept: dict[tuple[float, float], float] = {}
        self._sampled_kept: dict[float, float] = {}
        # One attention kernel over all cached tokens, at a sharpness of two: the common case, written out.
        self.plain = stage.sharpness == 2 and len(windows) == 1 and len(self._one[1]) == 1

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
        total = self._rows_kept.get((rows, sequences))
        if total is None:
            total = self._of_rows(rows, sequences)
        if sampled:
            more = self._sampled_kept.get(sampled)
            total += self._of_sampled(sampled) if more is None else more
        if singles:
            total += self._summed(self._one, (1.0, singles, *keys))
        if longer:
            total += self._summed(self._many, (1.0, longer_rows, *longer))
        return total

    def run(
        self, sequences: int, context: int, growth: int, now: float, until: float, most: int
    ) -> tuple[float, int]:
        """`FoldedCost.run` of a model with one attention over all cached tokens."""
        base = self._rows_kept.get((sequences, sequences))
        if base is None:
            base = self._of_rows(sequences, sequences)
        more = self._sampled_kept.get(sequences)
        base += self._of_sampled(sequences) if more is None else more
        (launch, of_row, of_key), [(memory, math)], _ = self._one
        base += launch + of_row * sequences
        memory_base, math_base = memory[0] + memory[1] * sequences, math[0] + math[1] * sequences
        memory_key, math_key = memory[2], math[2]
        keys = context + sequences
        times = 0
        while times < most:
            reading, reckoning = memory_base + memory_key * keys, math_base + math_key * keys
            now += base + of_key * keys + sqrt(reading * reading + reckoning * reckoning)
            times += 1
            if now >= until:
                break
            keys += growth
        return now, times

    def _of_rows(self, rows: float, sequences: float) -> float:
        """Everything that depends on rows, sequences and the experts that the rows choose."""
        distinct = self._features.distinct(rows)
        found = self._summed(self._rows, (float(rows > 0), rows, sequences, *distinct))
        return _keep(self._rows_kept, (rows, sequences), found)

    def _of_sampled(self, sampled: float) -> float:
        return _keep(self._sampled_kept, sampled, self._summed(self._sampled, (1.0, sampled)))

    def _summed(
        self, part: tuple[tuple[float, ...], list[Curve], list[list[int]]], found: Sequence[float]
    ) -> float:
        linear, curves, rivals = part
        total = _dot(linear, found)
        if not rivals:
            for memory, math in curves:
                total += self._combine(_dot(memory, found), _dot(math, found))
            return total
        each = [self._combine(_dot(memory, found), _dot(math, found)) for memory, math in curves]
        return total + sum(each) - sum(max(each[row] for row in group) for group in rivals)


def _of(context: Mapping[Window, int], window: Window) -> int:
    return context[window] if window in context else context[None]


def _dot(coefficients: Sequence[float], found: Sequence[float]) -> float:
    total = 0.0
    for coefficient, value in zip(coefficients, found, strict=True):
        total += coefficient * value
    return total


def _keep(kept: dict[Key, float], key: Key, value: float) -> float:
    if len(kept) >= KEPT:
        kept.clear()
    kept[key] = value
    return value


def _combined(sharpness: float | None) -> Callable[[float, float], float]:
    """Seconds of a kernel that reads and multiplies for so many seconds."""
    if sharpness is None:
        return max
    if sharpness == 2:
        return lambda memory, math: sqrt(memory * memory + math * math)
    return lambda memory, math: (memory**sharpness + math**sharpness) ** (1 / sharpness)
