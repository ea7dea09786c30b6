"""A model as operators in the order in which they run, and what a step of it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from membound.models.mixtures import Experts
from membound.models.operators import Cache, Caching, Chunk, Load, Operator, Parameter, Work

if TYPE_CHECKING:  # the library takes a tenth of a second to load, and a model on paper needs none of it
    from gguf import GGMLQuantizationType

WeightTypes: TypeAlias = "Mapping[str, GGMLQuantizationType]"  # by canonical tensor name


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are alike: described once, standing at `indices`."""

    indices: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class ModelGraph:
    """`first` once per step, then the layers by index, then `last` for the rows that sample."""

    first: tuple[Operator, ...]
    groups: tuple[LayerGroup, ...]
    last: tuple[Operator, ...]

    @cached_property
    def layers(self) -> tuple[tuple[Operator, ...], ...]:
        """The operators of each layer, in order."""
        by_index = {index: group.operators for group in self.groups for index in group.indices}
        return tuple(by_index[index] for index in range(len(by_index)))

    @cached_property
    def windows(self) -> frozenset[int | None]:
        """The attention windows that occur."""
        return frozenset(w for group in self.groups for op in caching(group.operators) for w in op.windows)

    def caches(self) -> Iterator[tuple[Cache, int]]:
        """What each kind of layer keeps, and in how many layers."""
        for group in self.groups:
            for operator in caching(group.operators):
                yield operator.cache, len(group.indices)

    def params(self) -> Iterator[Parameter]:
        """Every parameter once, under its canonical name."""
        seen = set()
        for prefix, operators in self._parts():
            for parameter in (parameter for operator in operators for parameter in operator.params()):
                full = Parameter(prefix + parameter.name, parameter.shape)
                if full.name not in seen:
                    seen.add(full.name)
                    yield full

    def kv_bytes_per_token(self, kv_bytes: float) -> float:
        """Bytes of keys and values that a token takes in a cache which keeps all tokens, windows or not."""
        return sum(cache.elements * kv_bytes * layers for cache, layers in self.caches())

    def growing_bytes_per_token(self, kv_bytes: float) -> float:
        """Bytes that every further token takes for ever: without windows, with an indexer's keys."""
        return sum(
            (cache.elements * kv_bytes + cache.bytes) * layers
            for cache, layers in self.caches()
            if cache.limit is None
        )

    def bounded_bytes_per_sequence(self, kv_bytes: float) -> float:
        """Bytes of a sequence that do not grow with its length: full windows, and states."""
        return sum(
            (
                (cache.elements * (cache.limit or 0) + cache.sequence_elements) * kv_bytes
                + cache.sequence_bytes
            )
            * layers
            for cache, layers in self.caches()
        )

    def parameters(self) -> int:
        """All parameters."""
        ends = {
            p.name: p.elements for op in (*self.first, *self.last) for p in op.params()
        }  # a tied table once
        layers = sum(
            len(g.indices) * p.elements for g in self.groups for op in g.operators for p in op.params()
        )
        return sum(ends.values()) + layers

    def active_parameters(self) -> float:
        """Parameters that one token multiplies: its experts, the head; not the table it is looked up in."""
        head = {parameter.name for operator in self.last for parameter in operator.params()}
        looked_up = sum(p.elements for op in self.first for p in op.params() if p.name not in head)
        idle = sum(
            (sum(p.elements for p in op.params()) - op.active_params) * len(group.indices)
            for group in self.groups
            for op in group.operators
            if isinstance(op, Experts)
        )
        return self.parameters() - looked_up - idle

    def works(
        self, chunks: Iterable[tuple[int, int] | Chunk], weight_types: WeightTypes, kv_bytes: float
    ) -> dict[str, Work]:
        """What a step takes by operator name, layers summed, in the order in which they first run."""
        return self.works_of(Load.of(chunks, self.windows, kv_bytes), weight_types)

    def works_of(self, load: Load, weight_types: WeightTypes) -> dict[str, Work]:
        """The same of a load."""
        sums: dict[str, Work] = {}
        for prefix, operators in self._parts():
            rows = replace(load, rows=load.sampled) if operators is self.last else load

            def bytes_of(parameter: Parameter, prefix: str = prefix) -> int:
                return tensor_bytes(weight_types[prefix + parameter.name], parameter.shape)

            for operator in operators:
                sums[operator.name] = sums.get(operator.name, Work()) + operator.cost(rows, bytes_of)
        return sums

    def _parts(self) -> Iterator[tuple[str, tuple[Operator, ...]]]:
        """Operators in running order, in runs that share the prefix of their parameters' names."""
        yield "", self.first
        for index, operators in enumerate(self.layers):
            yield f"blk.{index}.", operators
        yield "", self.last


def step_work(
    model: ModelGraph, chunks: Iterable[tuple[int, int] | Chunk], weight_types: WeightTypes, kv_bytes: float
) -> Work:
    """What a step takes, exactly.

    `chunks` are (new tokens, context) pairs, or Chunk to say how many rows sample; `kv_bytes` is the size
    of one cached element. A tied table counts as the rows looked up, and once more where the head reads it
    whole.
    """
    return sum(model.works(chunks, weight_types, kv_bytes).values(), Work())


def caching(operators: Iterable[Operator]) -> Iterator[Caching]:
    """Those that keep something between steps."""
    return (operator for operator in operators if isinstance(operator, Caching))


def tensor_bytes(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor as GGUF stores it."""
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // int(block) * int(size)


def uniform_types(model: ModelGraph, kind: GGMLQuantizationType) -> WeightTypes:
    """Matrices all of one type, vectors in F32: a model on paper."""
    from gguf import GGMLQuantizationType

    vector = GGMLQuantizationType.F32
    return {parameter.name: kind if len(parameter.shape) == 2 else vector for parameter in model.params()}
