"""What a rank must hold, and how many tokens of KV cache are left."""

from __future__ import annotations

from dataclasses import dataclass

from membound.costs.roofline import StepCost
from membound.models.graph import ModelGraph


@dataclass(frozen=True)
class RankMemory:
    """Bytes on the fullest rank of one pipeline stage. `capacity_bytes` is None where it is not published."""

    weight_bytes: float
    growing_bytes_per_token: float
    bounded_bytes_per_sequence: float  # windows and states: whatever the length
    capacity_bytes: float | None  # of the memory that holds the cache
    weight_capacity_bytes: float | None  # of a memory of their own; None: the weights share with the cache

    def room(self, sequences: int = 0) -> float | None:
        """Bytes left for what grows, beside the weights and the bounded part of so many sequences."""
        if self.capacity_bytes is None:
            return None
        beside = self.weight_bytes if self.weight_capacity_bytes is None else 0.0
        return self.capacity_bytes - beside - sequences * self.bounded_bytes_per_sequence

    @property
    def fits(self) -> bool | None:
        """Whether the weights leave room for a token; None where the capacity is unknown."""
        room = self.room(1)
        if room is None:
            return None
        held = self.weight_capacity_bytes is None or self.weight_bytes <= self.weight_capacity_bytes
        return held and room >= self.growing_bytes_per_token

    def tokens(self, sequences: int = 1) -> int | None:
        """Tokens of KV cache that fit beside so many sequences; 0 where nothing fits."""
        room = self.room(sequences)
        if room is None:
            return None
        if not self.fits or self.growing_bytes_per_token == 0:
            return 0
        return max(0, int(room // self.growing_bytes_per_token))


def rank_memories(cost: StepCost, memory_fraction: float = 1.0, of_rest: bool = False) -> list[RankMemory]:
    """Of each pipeline stage; `memory_fraction` is how much of the capacity the engine may take, or with
    `of_rest` how much of what the weights leave.
    """
    part = cost.cluster.accelerator
    capacity = part.figures.get("memory_bytes")
    own = part.weight_memory
    kv_bytes = cost.precisions.kv.bits / 8
    found = []
    start = 0
    for place, graph in enumerate(cost.graphs):
        first, last = place == 0, place == len(cost.graphs) - 1
        weights = _weight_bytes(cost, graph, start, first, last)
        kept = weights if of_rest and own is None else 0.0
        found.append(
            RankMemory(
                weight_bytes=weights,
                growing_bytes_per_token=graph.growing_bytes_per_token(kv_bytes),
                bounded_bytes_per_sequence=graph.bounded_bytes_per_sequence(kv_bytes),
                capacity_bytes=None if capacity is None else kept + (capacity - kept) * memory_fraction,
                weight_capacity_bytes=own.capacity_bytes if own else None,
            )
        )
        start += len(graph.layers)
    return found


def _weight_bytes(cost: StepCost, graph: ModelGraph, start: int, first: bool, last: bool) -> float:
    """Of a stage whose layers begin at `start`; a table that is looked up and multiplied counts once."""
    formats = cost.precisions
    ends = (graph.first if first else ()) + (graph.last if last else ())
    tables = {p.name: p for op in ends for p in op.params()}
    bits = sum(formats.weight_format(name, p.shape).bits * p.elements for name, p in tables.items())
    for group in graph.groups:
        places = [start + index for index in group.indices]
        for parameter in (p for op in group.operators for p in op.params()):
            bits += (
                formats.layer_bits(parameter.name, parameter.shape, places) * parameter.elements * len(places)
            )
    return bits / 8
