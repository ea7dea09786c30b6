"""The operators of a model: what each reads and writes, its parameters, and what it costs.

One list of these records describes a model. The loader reads `params()`, an executor walks the list, the
cost model sums `cost()`. A record names the values that it takes and gives: "x" is the residual stream, all
others live within one layer. Names of parameters are local; the graph puts `blk.3.` before them.

FLOPs count matrix products and attention, a multiplication and an addition each; what norms, rotations,
activations and biases add is below a hundredth of that. Bytes are those that must cross the memory bus
once: the weights, and the keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

from membound.models.architecture import Activation
from membound.models.rope import Rope


@dataclass(frozen=True)
class Parameter:
    """A tensor that an operator needs: (rows, columns), or (elements,) for norms and biases."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Work:
    """What a step takes. Whole numbers, but for experts and for entries that stand for several tokens."""

    flops: float = 0
    weight_bytes: float = 0
    kv_read_bytes: float = 0
    kv_write_bytes: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.kv_read_bytes + other.kv_read_bytes,
            self.kv_write_bytes + other.kv_write_bytes,
        )

    @property
    def bytes(self) -> float:
        """All that crosses the memory bus."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_write_bytes


class Chunk(NamedTuple):
    """Tokens of one sequence computed in a step, after `context` cached ones; `samples` of them reach the
    head.
    """

    tokens: int
    context: int
    samples: int = 1


def attention_pairs(tokens: int, context: int, window: int | None) -> int:
    """(query, key) pairs of a chunk: query j sees context + j + 1 keys, at most `window`."""
    growing = tokens if window is None else min(tokens, max(0, window - context))  # see all before them
    pairs = growing * context + growing * (growing + 1) // 2
    return pairs if window is None else pairs + (tokens - growing) * window


def attention_keys(tokens: int, context: int, window: int | None) -> int:
    """Distinct keys that the queries of a chunk see, the chunk's own among them."""
    return context + tokens if window is None else min(context, window - 1) + tokens


def chosen_keys(tokens: int, context: int, limit: int | None) -> int:
    """Keys read at least, where each query chooses at most `limit` of those before it; None chooses all."""
    keys = context + tokens
    return keys if limit is None else min(keys, tokens * limit)


@dataclass(frozen=True)
class Load:
    """The chunks of a step, summed to what costs depend on; pairs and keys per attention window."""

    rows: float
    sampled: float
    pairs: Mapping[int | None, float]
    keys: Mapping[int | None, float]
    kv_bytes: float = 2  # of one element of a cached key or value
    sequences: float = 0
    chosen: Mapping[int | None, float] = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()
    skew: float = 0.0  # of expert routing; 0 is uniform

    @classmethod
    def of(
        cls,
        chunks: Iterable[tuple[int, int] | Chunk],
        windows: Iterable[int | None],
        kv_bytes: float,
        skew: float = 0.0,
    ) -> Load:
        """Sums chunks; (tokens, context) stands for one that samples once."""
        known = [Chunk(*chunk) for chunk in chunks]
        windows = list(windows)
        return cls(
            rows=sum(chunk.tokens for chunk in known),
            sampled=sum(chunk.samples for chunk in known),
            pairs={w: sum(attention_pairs(c.tokens, c.context, w) for c in known) for w in windows},
            keys={w: sum(attention_keys(c.tokens, c.context, w) for c in known) for w in windows},
            kv_bytes=kv_bytes,
            sequences=len(known),
            chosen={w: sum(chosen_keys(c.tokens, c.context, w) for c in known) for w in windows},
            chunks=tuple(known),
            skew=skew,
        )


BytesOf = Callable[[Parameter], float]  # the bytes of a parameter as it is stored


class Operator(Protocol):
    """What every record answers."""

    @property
    def name(self) -> str: ...

    def params(self) -> tuple[Parameter, ...]:
        """The tensors it needs."""

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        """What it takes for a load."""


@dataclass(frozen=True)
class Cache:
    """What an operator keeps between steps: `elements` per token in the precision of the cache and `bytes`
    per token in a precision of their own, for the last `limit` tokens (None: all); and whatever the
    length `sequence_elements` and `sequence_bytes`.
    """

    elements: float = 0
    bytes: float = 0
    limit: int | None = None
    sequence_elements: float = 0
    sequence_bytes: int = 0


@runtime_checkable
class Caching(Protocol):
    """An operator that keeps something; `windows` are the limits under which it counts pairs and keys."""

    @property
    def cache(self) -> Cache: ...

    @property
    def windows(self) -> tuple[int | None, ...]: ...


@dataclass(frozen=True)
class Embedding:
    """Rows of the table, times `scale`."""

    vocab: int
    hidden: int
    scale: float
    name: str = "token_embd"
    target: str = "x"

    def params(self) -> tuple[Parameter, ...]:
        return (Parameter(f"{self.name}.weight", (self.vocab, self.hidden)),)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        """Only the rows looked up are read."""
        return Work(weight_bytes=load.rows * (bytes_of(self.params()[0]) / self.vocab))


@dataclass(frozen=True)
class Norm:
    """RMS norm of each run of `width` elements: x / sqrt(mean(x²) + eps) · weight."""

    name: str
    width: int
    eps: float
    source: str
    target: str

    def params(self) -> tuple[Parameter, ...]:
        return (Parameter(f"{self.name}.weight", (self.width,)),)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(weight_bytes=read_once(load.rows, self.params(), bytes_of))


@dataclass(frozen=True)
class Linear:
    """target = source · weightᵀ + bias; weight is (rows, columns) = (outputs, inputs)."""

    name: str
    rows: int
    columns: int
    source: str
    target: str
    bias: bool = False

    def params(self) -> tuple[Parameter, ...]:
        weight = Parameter(f"{self.name}.weight", (self.rows, self.columns))
        return (weight, Parameter(f"{self.name}.bias", (self.rows,))) if self.bias else (weight,)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(
            flops=2 * load.rows * self.rows * self.columns,
            weight_bytes=read_once(load.rows, self.params(), bytes_of),
        )


@dataclass(frozen=True)
class Rotate:
    """Rotary position embedding of each head, in place."""

    name: str
    heads: int
    head_dim: int
    rope: Rope
    source: str

    def params(self) -> tuple[Parameter, ...]:
        return ()

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work()


@dataclass(frozen=True)
class Attention:
    """Caches k and v of the new tokens; each query attends to the keys at most `window` - 1 before it."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    name: str = "attn"
    query: str = "q"
    key: str = "k"
    value: str = "v"
    target: str = "attended"

    def params(self) -> tuple[Parameter, ...]:
        return ()

    @property
    def kv_elements(self) -> int:
        """Elements of keys and values cached per token."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def cache(self) -> Cache:
        return Cache(elements=self.kv_elements, limit=self.window)

    @property
    def windows(self) -> tuple[int | None, ...]:
        return (self.window,)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        """Each pair takes a dot product and a weighted sum; each key and value is read once per chunk."""
        return Work(
            flops=4 * self.head_dim * self.heads * load.pairs[self.window],
            kv_read_bytes=self.kv_elements * load.kv_bytes * load.keys[self.window],
            kv_write_bytes=self.kv_elements * load.kv_bytes * load.rows,
        )


@dataclass(frozen=True)
class Gate:
    """target = activation(gate) * up."""

    name: str
    activation: Activation
    gate: str
    up: str
    target: str

    def params(self) -> tuple[Parameter, ...]:
        return ()

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work()


@dataclass(frozen=True)
class Vectors:
    """Learned vectors of some operation too small to count: decays, sinks, mixing weights. (name, length)
    each.
    """

    name: str
    lengths: tuple[tuple[str, int], ...]

    def params(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(name, (length,)) for name, length in self.lengths)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(weight_bytes=read_once(load.rows, self.params(), bytes_of))


@dataclass(frozen=True)
class Add:
    """The branch joins the residual stream: x += source."""

    name: str
    source: str

    def params(self) -> tuple[Parameter, ...]:
        return ()

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work()


@dataclass(frozen=True)
class Head:
    """Logits of the rows that sample; a tied head multiplies by the embedding table."""

    vocab: int
    hidden: int
    tied: bool
    source: str
    name: str = "output"

    def params(self) -> tuple[Parameter, ...]:
        table = "token_embd" if self.tied else "output"
        return (Parameter(f"{table}.weight", (self.vocab, self.hidden)),)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(
            flops=2 * load.rows * self.vocab * self.hidden,
            weight_bytes=read_once(load.rows, self.params(), bytes_of),
        )


def read_once(rows: float, params: tuple[Parameter, ...], bytes_of: BytesOf) -> float:
    """Weights are read once however many rows share them, and not at all without rows."""
    return sum(bytes_of(parameter) for parameter in params) if rows else 0
