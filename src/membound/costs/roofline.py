"""What a step costs: seconds, bytes and FLOPs of every operation on a described machine, and what bounds it.

The kernels' coefficients become matrices, so that a step is a few products of small arrays, and a million
steps are the same products of large ones. A chunk is known by its new tokens and its context only:
prompts, decoding, mixtures of both and the verification of drafts are one formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from membound.costs.calibration import ByRows, Calibration, Overhead
from membound.costs.features import Features, Vector, Window
from membound.costs.kernels import Coefficients, Kernel, KernelMaker
from membound.costs.parallel import Collective, Layout, collectives, refuse_cut_blocks, stages
from membound.costs.precisions import Precisions
from membound.hardware.accelerator import RATES, Cluster
from membound.models.architecture import Dimensions
from membound.models.families import build
from membound.models.graph import ModelGraph
from membound.models.mixtures import Experts
from membound.models.operators import Chunk

ACTIVATION_BYTES = 2  # of one element between kernels


@dataclass(frozen=True)
class Operation:
    """A kernel's share of a step: totals over its layers on one rank."""

    name: str
    flops: float
    bytes: float
    seconds: float
    limit_seconds: float
    bound: str  # memory, compute, link, overhead
    source: str


@dataclass(frozen=True)
class Estimate:
    """A step: seconds as predicted; `operations` of one rank of the slowest stage."""

    seconds: float
    limit_seconds: float  # reading and arithmetic of the whole step overlapped: roof.py
    flops: float  # of one rank, summed over its pipeline stages
    bytes: float
    bound: str
    operations: tuple[Operation, ...]


class _Measured:
    """Measured factors, the place of the feature that they go by, and the kernels that they are for: their
    numbers among all, and among the curved.
    """

    def __init__(
        self, factors: ByRows, place: int, curved: list[int], kernels: list[Kernel], active: int
    ) -> None:
        self.factors = factors
        self.place = place
        self.kernels = [row for row in curved if kernels[row].active == active]
        self.curved = [curved.index(row) for row in self.kernels]


class Stage:
    """One pipeline stage on one rank, ready to cost steps."""

    def __init__(
        self,
        features: Features,
        kernels: list[Kernel],
        exchanges: list[tuple[Collective, Coefficients]],
        activations: Coefficients,
        overhead: Coefficients,
        floor: Coefficients,
        cluster: Cluster,
        calibration: Calibration,
        imbalance: float,
    ) -> None:
        self.kernels = kernels
        self.exchanges = exchanges
        self.activations = activations
        self.overhead = overhead
        self.floor = floor  # what a step takes at least, whatever its kernels do
        self.sharpness = calibration.sharpness
        self.by_rows, self.by_sampled = calibration.by_rows, calibration.by_sampled
        part = cluster.accelerator
        efficiencies = [calibration.kind(kernel.kind) for kernel in kernels]
        self.sources = [efficiency.source for efficiency in efficiencies]
        weight_s = [k.weight_bytes / part.weight_bandwidth_bytes_per_s for k in kernels]
        kv_s = [k.kv_bytes / part.bandwidth_bytes_per_s for k in kernels]
        self.peak_memory = np.array([w + kv for w, kv in zip(weight_s, kv_s, strict=True)])
        self.peak_math = np.array([k.flops / part.peak(k.rate) for k in kernels])
        slow = np.array([imbalance if k.kind == "experts" else 1.0 for k in kernels])[:, None]
        self.memory = self.peak_memory * slow / np.array([[e.bandwidth] for e in efficiencies])
        shares = [e.compute_share(RATES[k.rate]) for e, k in zip(efficiencies, kernels, strict=True)]
        self.math = self.peak_math * slow / np.array(shares)[:, None]
        for row, (kernel, efficiency) in enumerate(zip(kernels, efficiencies, strict=True)):
            if efficiency.unpack:
                self.math[row] += efficiency.unpack * slow[row] * kernel.widened / part.peak(kernel.rate)
        self.layers = np.array([float(k.layers) for k in kernels])
        traffic = np.array([k.weight_bytes + k.kv_bytes for k in kernels])
        flops = np.array([k.flops for k in kernels])
        self._work = np.stack([traffic, flops]) * self.layers[:, None]
        self.launch = np.zeros_like(self.memory)
        for row, (kernel, efficiency) in enumerate(zip(kernels, efficiencies, strict=True)):
            self.launch[row, kernel.active] = efficiency.launch_s + efficiency.widen_launch_s * kernel.widens
        self.rivals = _rivals([kernel.rival for kernel in kernels])
        self._split_linear(features, exchanges)

    def _split_linear(self, features: Features, exchanges: list[tuple[Collective, Coefficients]]) -> None:
        """All that is linear in the features goes into one row: launches (of rivals, one), exchanges, what
        the engine adds, and kernels without arithmetic. The others stay, times their layers.
        """
        curved = [row for row, math in enumerate(self.math) if math.any()]
        flat = [row for row, math in enumerate(self.math) if not math.any()]
        beaten = [row for rows in self.rivals for row in rows[1:]]
        alone = [row for row in range(len(self.kernels)) if row not in beaten]
        self.linear = (
            self.overhead
            + self.activations
            + sum((seconds for _, seconds in exchanges), np.zeros_like(self.overhead))
            + self.layers[alone] @ self.launch[alone]
            + self.layers[flat] @ self.memory[flat]
        )
        self.curved_memory = self.memory[curved] * self.layers[curved, None]
        self.curved_math = self.math[curved] * self.layers[curved, None]
        self.curved_rivals = _rivals([self.kernels[row].rival for row in curved])
        measured = ((self.by_rows, "rows", "any"), (self.by_sampled, "sampled", "any_sampled"))
        self._measured = [
            _Measured(factors, features.place(count), curved, self.kernels, features.place(active))
            for factors, count, active in measured
            if factors is not None
        ]

    def seconds_of_kernels(self, found: Vector) -> Vector:
        """Of each kernel, all its layers; a beaten rival takes none. Shape (kernels,)."""
        seconds = self._combined(self.memory @ found, self.math @ found)
        for one in self._measured:
            seconds[one.kernels] *= one.factors.of(found[one.place])
        seconds += self.launch @ found
        for rows in self.rivals:
            quickest = min(rows, key=lambda row: float(seconds[row]))
            seconds[[row for row in rows if row != quickest]] = 0.0
        total: Vector = seconds * self.layers
        return total

    def seconds(self, found: Vector) -> Vector:
        """Of a step; shape () or (steps,)."""
        seconds = self._combined(self.curved_memory @ found, self.curved_math @ found)
        for one in self._measured:
            seconds[one.curved] *= one.factors.of(found[one.place])
        total: Vector = self.linear @ found + seconds.sum(axis=0)
        for rows in self.curved_rivals:
            total = total - seconds[rows].max(axis=0)  # of two ways, the slower is not taken
        floored: Vector = np.maximum(total, self.floor @ found)
        return floored

    def _combined(self, memory: Vector, math: Vector) -> Vector:
        """Seconds of operations that read for `memory` and multiply for `math` seconds; may reuse its
        arguments.
        """
        if self.sharpness is None:
            return np.maximum(memory, math, out=memory)
        if self.sharpness == 2:
            memory *= memory
            math *= math
            memory += math
            return np.sqrt(memory, out=memory)
        seconds: Vector = (memory**self.sharpness + math**self.sharpness) ** (1 / self.sharpness)
        return seconds

    def work(self, found: Vector) -> Vector:
        """Bytes and FLOPs of a step on this rank; shape (2,)."""
        each: Vector = self._work @ found
        for rows in self.rivals:
            seconds = self.seconds_of_kernels(found)
            each[:, [row for row in rows if seconds[row] == 0]] = 0.0
        total: Vector = each.sum(axis=1)
        return total

    def limit(self, found: Vector) -> float:
        """The floor: all bytes at peak bandwidth or all FLOPs at peak rates, whichever takes longer."""
        memory, math = self.peak_memory @ found, self.peak_math @ found
        taken = self.layers.copy()
        for rows in self.rivals:
            quickest = min(rows, key=lambda row: float(max(memory[row], math[row])))
            taken[[row for row in rows if row != quickest]] = 0.0
        return float(max(memory @ taken, math @ taken))


class StepCost:
    """A model on a cluster in a layout; build it once, then ask what steps cost."""

    def __init__(
        self,
        model: Dimensions,
        cluster: Cluster,
        precisions: Precisions,
        layout: Layout,
        calibration: Calibration,
        engine: str = "vllm",
        skew: float | None = None,
    ) -> None:
        self.model = model
        self.cluster = cluster
        self.precisions = precisions
        self.layout = layout
        calibration = calibration.on(engine, cluster.accelerator.id)
        overhead = calibration.engine(engine)
        shares = stages(model, layout)
        refuse_cut_blocks(model, shares, precisions.weights)
        self.graphs = [build(share) for share in shares]
        mixtures = [
            (op.dims.experts, op.dims.active)
            for graph in self.graphs
            for group in graph.groups
            for op in group.operators
            if isinstance(op, Experts)
        ]
        copies = layout.data if layout.shares_experts else 1
        windows = {window for graph in self.graphs for window in graph.windows}
        skew = calibration.expert_skew if skew is None else skew
        self.features = Features(windows, mixtures, skew, copies)
        self.stages = [
            self._stage(share, graph, place, calibration, overhead, copies)
            for place, (share, graph) in enumerate(zip(shares, self.graphs, strict=True))
        ]

    def _stage(
        self,
        share: Dimensions,
        graph: ModelGraph,
        place: int,
        calibration: Calibration,
        overhead: Overhead,
        copies: int,
    ) -> Stage:
        is_first, is_last = place == 0, place == self.layout.pipeline - 1
        maker = KernelMaker(self.features, self.precisions, self.cluster.accelerator, copies)
        start = place * len(self.model.layers) // self.layout.pipeline
        if is_first:
            maker.add("", (0,), graph.first, sampled=False)
        for group in graph.groups:
            maker.add("blk", tuple(start + index for index in group.indices), group.operators, sampled=False)
        if is_last:
            maker.add("", (0,), graph.last, sampled=True)
        exchanges = [
            (one, self._exchange_seconds(one, calibration, overhead.link_factor))
            for one in collectives(self.model, share, self.layout, is_first, is_last)
        ]
        extra = np.zeros(len(self.features))
        extra[self.features.place("any")] = overhead.per_layer_s * len(share.layers)
        if is_last:
            extra[self.features.place("any")] += overhead.per_step_s
            extra[self.features.place("sequences")] = overhead.per_sequence_s
        floor, passed = np.zeros(len(self.features)), np.zeros(len(self.features))
        launches = overhead.prompt_layer_s * len(share.layers)
        floor[self.features.place("any_many")] = launches + overhead.per_step_s * is_last
        if calibration.activation_share is not None:
            bandwidth = self.cluster.accelerator.bandwidth_bytes_per_s * calibration.activation_share
            passed[self.features.place("rows")] = maker.activations * ACTIVATION_BYTES / bandwidth
        imbalance = 1 + calibration.expert_imbalance * log2(self.layout.experts)
        return Stage(
            self.features,
            maker.kernels,
            exchanges,
            passed,
            extra,
            floor,
            self.cluster,
            calibration,
            imbalance,
        )

    def _exchange_seconds(
        self, one: Collective, calibration: Calibration, link_factor: float
    ) -> Coefficients:
        """Seconds of a collective: a launch, latencies that grow with the ranks, and its bytes over the
        link.
        """
        layout = self.layout
        span = layout.ranks if one.name == "send" else one.ranks
        link = self.cluster.link_between(span)
        found = np.zeros(len(self.features))
        any_row = "any_sampled" if one.sampled else "any"
        launch = calibration.reduce_launch_s + calibration.latency_share * link.latency_s * log2(one.ranks)
        found[self.features.place(any_row)] = one.times * launch
        share = min(1.0, calibration.link_share * link_factor)
        per_row = one.times * one.wire_bytes / (link.bandwidth_bytes_per_s * share)
        found[self.features.place("sampled" if one.sampled else "rows")] = per_row
        return found

    def seconds(self, found: Vector) -> Vector:
        """Of steps given by their features (`self.features`); shape () or (steps,).

        Pipeline stages work on as many equal shares of the step as it has sequences, at most one for each
        stage: a step takes every stage once for its share, or the slowest stage once for each share.
        """
        if len(self.stages) == 1:
            return self.stages[0].seconds(found)
        sequences = found[self.features.place("sequences")]
        parts = np.clip(sequences, 1.0, len(self.stages))
        share = self.features.divided(found, parts)
        times = np.array([stage.seconds(share) for stage in self.stages])
        total: Vector = np.maximum(times.sum(axis=0), parts * times.max(axis=0))
        return total

    def decode_work(
        self, sequences: int, context: Mapping[Window, int], chunks: Iterable[tuple[int, int] | Chunk] = ()
    ) -> tuple[float, float]:
        """Bytes and FLOPs on one rank of a step as in `decode_seconds`; of a layout of one stage."""
        (stage,) = self.stages
        bytes_, flops = stage.work(self.features.decoding(sequences, context, chunks)).tolist()
        return bytes_, flops

    def step_seconds(self, chunks: Iterable[tuple[int, int] | Chunk]) -> float:
        """Of one step of explicit chunks."""
        return float(self.seconds(self.features.of(chunks)))

    def decode_seconds(
        self, sequences: int, context: Mapping[Window, int], chunks: Iterable[tuple[int, int] | Chunk] = ()
    ) -> float:
        """Of one step of sequences that compute one token each, with summed contexts, and further chunks."""
        return float(self.seconds(self.features.decoding(sequences, context, chunks)))

    def many_seconds(
        self, sequences: Vector, context: Vector, tokens: Vector, cached: Vector, block: int = 8_192
    ) -> Vector:
        """Of many steps at once (see Features.many), in blocks that fit the caches; shape (steps,)."""
        found = np.empty(len(sequences))
        for start in range(0, len(found), block):
            part = slice(start, start + block)
            features = self.features.many(sequences[part], context[part], tokens[part], cached[part])
            found[part] = self.seconds(features)
        return found

    def estimate(self, chunks: Iterable[tuple[int, int] | Chunk]) -> Estimate:
        """A step with all its operations and what bounds them."""
        found = self.features.of(chunks)
        parts = 1.0
        if len(self.stages) > 1:
            parts = float(np.clip(found[self.features.place("sequences")], 1.0, len(self.stages)))
        share = self.features.divided(found, parts) if parts > 1 else found
        each = [self._operations(stage, share) for stage in self.stages]
        slowest = max(range(len(each)), key=lambda place: sum(op.seconds for op in each[place]))
        limits = [stage.limit(share) for stage in self.stages]
        operations = [op for stage in each for op in stage]
        return Estimate(
            seconds=float(self.seconds(found)),
            limit_seconds=max(sum(limits), parts * max(limits)),
            flops=parts * sum(op.flops for op in operations),
            bytes=parts * sum(op.bytes for op in operations),
            bound=_bound_of(operations),
            operations=tuple(each[slowest]),
        )

    def _operations(self, stage: Stage, found: Vector) -> list[Operation]:
        """Operations of one stage, kernels of one name summed, in running order."""
        seconds = stage.seconds_of_kernels(found)
        memory, math = stage.peak_memory @ found, stage.peak_math @ found
        merged: dict[str, Operation] = {}
        for row, kernel in enumerate(stage.kernels):
            if found[kernel.active] == 0 or (kernel.rival and seconds[row] == 0):
                continue
            one = Operation(
                name=kernel.name,
                flops=float(kernel.flops @ found) * kernel.layers,
                bytes=float((kernel.weight_bytes + kernel.kv_bytes) @ found) * kernel.layers,
                seconds=float(seconds[row]),
                limit_seconds=float(max(memory[row], math[row])) * kernel.layers,
                bound="memory" if memory[row] >= math[row] else "compute",
                source=stage.sources[row],
            )
            merged[kernel.name] = _added(merged[kernel.name], one) if kernel.name in merged else one
        for exchange, coefficients in stage.exchanges:
            rows = found[self.features.place("sampled" if exchange.sampled else "rows")]
            link = self.cluster.link_between(exchange.ranks)
            sent = exchange.wire_bytes * exchange.times * float(rows)
            merged[exchange.name] = Operation(
                exchange.name, 0.0, 0.0, float(coefficients @ found), sent / link.bandwidth_bytes_per_s,
                "link", "fitted" if stage.sharpness else "datasheet",
            )  # fmt: skip
        passed = float(stage.activations @ found)
        if passed:
            merged["activations"] = Operation("activations", 0.0, 0.0, passed, 0.0, "memory", "fitted")
        extra = float(stage.overhead @ found)
        extra += max(0.0, float(stage.floor @ found) - extra - sum(op.seconds for op in merged.values()))
        if extra:
            merged["engine"] = Operation("engine", 0.0, 0.0, extra, 0.0, "overhead", "fitted")
        return list(merged.values())


def _added(a: Operation, b: Operation) -> Operation:
    bound = a.bound if a.limit_seconds >= b.limit_seconds else b.bound
    return replace(
        a,
        flops=a.flops + b.flops,
        bytes=a.bytes + b.bytes,
        seconds=a.seconds + b.seconds,
        limit_seconds=a.limit_seconds + b.limit_seconds,
        bound=bound,
    )


def _bound_of(operations: Iterable[Operation]) -> str:
    """What most of the seconds wait for."""
    seconds: dict[str, float] = {}
    for operation in operations:
        seconds[operation.bound] = seconds.get(operation.bound, 0.0) + operation.seconds
    return max(seconds, key=lambda bound: seconds[bound]) if seconds else "memory"


def _rivals(names: Iterable[str]) -> list[list[int]]:
    """Rows that bear the same name; each name stands for two ways to do one thing."""
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name:
            groups.setdefault(name, []).append(row)
    return list(groups.values())
