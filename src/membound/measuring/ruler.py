"""Measured steps beside what the machine allows: work from the operators, roofs probed at the same moment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from membound.costs.roof import Roof, multiply_precision
from membound.hardware import probe
from membound.models.operators import Chunk, Work
from membound.models.weights import Weights
from membound.serving.engine import StepRecord


@dataclass(frozen=True, slots=True)
class Placed:
    """Steps against the roof: what they did, how long they took, and the least time for it."""

    steps: int
    tokens: int
    work: Work
    seconds: float
    limit_s: float

    @property
    def share_of_limit(self) -> float:
        """1 is the wall itself."""
        return self.limit_s / self.seconds

    @property
    def tok_per_s(self) -> float:
        return self.tokens / self.seconds


class Ruler:
    """Knows what a step of one model takes; `kv_bytes` is the size of a cached element."""

    def __init__(self, weights: Weights, kv_bytes: int, *, threads: int | None = None) -> None:
        self.graph = weights.graph
        self.types = weights.types
        self.kv_bytes = kv_bytes
        self.threads = threads
        matrices = [kind for name, kind in self.types.items() if len(weights.tensors[name].shape) == 2]
        self.precision = multiply_precision(matrices)
        self.weight_bytes_per_step = round(self.work([Chunk(1, 0)]).weight_bytes)
        self.kv_bytes_per_token = round(self.graph.kv_bytes_per_token(kv_bytes))

    def work(self, chunks: Iterable[Chunk]) -> Work:
        """FLOPs and bytes of a step, all rows in all layers (of the last the engine computes less)."""
        return sum(self.graph.works(chunks, self.types, self.kv_bytes).values(), Work())

    def roof(self, *, seconds: float = 0.2) -> Roof:
        """This machine's roof now, for a working set of this model's weights."""
        return Roof(
            probe.read_bandwidth(self.weight_bytes_per_step, threads=self.threads, seconds=seconds),
            self._peak(probe.peak_flops(threads=self.threads, seconds=seconds / 2)),
        )

    def place(self, records: Sequence[StepRecord], roof: Roof) -> Placed:
        """Measured steps, summed."""
        works = [self.work(chunks_of(record)) for record in records]
        return Placed(
            steps=len(records),
            tokens=sum(record.tokens for record in records),
            work=sum(works, Work()),
            seconds=sum(record.seconds for record in records),
            limit_s=sum(roof.limit_s(work) for work in works),
        )

    def _peak(self, peaks: dict[str, float]) -> float:
        """FLOP/s of this model's precision; a machine without it multiplies in float32."""
        return peaks.get(self.precision, peaks["fp32"])


def chunks_of(record: StepRecord) -> list[Chunk]:
    """The step as the cost model counts it."""
    return [Chunk(*chunk) for chunk in record.chunks] + [Chunk(1, cached) for cached in record.decodes]


def higher(first: Roof, second: Roof) -> Roof:
    """The better of two probes around a timing: neighbours only take from a roof, they never add to it."""
    return Roof(
        max(first.bandwidth_bytes_per_s, second.bandwidth_bytes_per_s),
        max(first.flops_per_s, second.flops_per_s),
    )
