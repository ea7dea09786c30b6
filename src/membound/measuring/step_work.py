"""A step's bytes and FLOPs in a few additions: what a server asks hundreds of times a second.

Every operator of a dense model costs so much per step, per row, per sampled row, per pair and per key of each
attention window. These coefficients are read off the operators once, by asking them for loads of one.
"""

from collections.abc import Sequence
from dataclasses import replace

from membound.errors import InputError
from membound.models.graph import ModelGraph, WeightTypes
from membound.models.mixtures import Experts
from membound.models.operators import Load, Work, attention_keys, attention_pairs
from membound.serving.engine import StepRecord

Pair = tuple[float, float]  # bytes, FLOPs


class StepWork:
    """Exactly what `Ruler.work` says, for models without experts."""

    def __init__(self, graph: ModelGraph, types: WeightTypes, kv_bytes: float) -> None:
        if any(isinstance(op, Experts) for group in graph.groups for op in group.operators):
            raise InputError("a step's work is no sum of its rows where experts are chosen")
        self.windows = sorted(graph.windows, key=lambda window: (window is not None, window))
        nothing = dict.fromkeys(self.windows, 0.0)
        one = Load(rows=1, sampled=0, pairs=nothing, keys=nothing, kv_bytes=kv_bytes)

        def of(load: Load) -> Pair:
            work = sum(graph.works_of(load, types).values(), Work())
            return work.bytes, work.flops

        def less(a: Pair, b: Pair) -> Pair:
            return a[0] - b[0], a[1] - b[1]

        base = of(one)
        self._row = less(of(replace(one, rows=2)), base)
        self._step = less(base, self._row)
        sampling = of(replace(one, sampled=1))
        self._sample = less(of(replace(one, sampled=2)), sampling)
        self._head = less(less(sampling, self._sample), base)
        self._pairs = [less(of(replace(one, pairs={**nothing, w: 1.0})), base) for w in self.windows]
        self._keys = [less(of(replace(one, keys={**nothing, w: 1.0})), base) for w in self.windows]

    def of(self, record: StepRecord) -> Pair:
        """(bytes, FLOPs); each chunk samples once, as `Ruler.work` has it."""
        sampled = len(record.decodes) + len(record.chunks)
        rows = record.tokens
        bytes_, flops = self._step
        bytes_ += rows * self._row[0] + sampled * self._sample[0] + self._head[0]
        flops += rows * self._row[1] + sampled * self._sample[1] + self._head[1]
        for place, window in enumerate(self.windows):
            seen = _seen(record.decodes, window)
            pairs = seen + sum(attention_pairs(new, cached, window) for new, cached in record.chunks)
            keys = seen + sum(attention_keys(new, cached, window) for new, cached in record.chunks)
            bytes_ += pairs * self._pairs[place][0] + keys * self._keys[place][0]
            flops += pairs * self._pairs[place][1] + keys * self._keys[place][1]
        return bytes_, flops


def _seen(cached: Sequence[int], window: int | None) -> int:
    """Keys that single tokens see, each its own among them."""
    if window is None:
        return sum(cached) + len(cached)
    return sum(min(count + 1, window) for count in cached)
