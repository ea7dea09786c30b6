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
from dataclasses import dataclass
from typing import NamedTuple

from membound.models.architecture import Activation
from membound.models.rope import Rope


@dataclass(frozen=True)
class Parameter:
    """A tensor that an operator needs: (rows, columns), or (elements,) for norms and biases."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What a step takes."""

    flops: int = 0
    weight_bytes: int = 0
    kv_read_bytes: int = 0
    kv_write_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.kv_read_bytes + other.kv_read_bytes,
            self.kv_write_bytes + other.kv_write_bytes,
        )

    @property
    def bytes(self) -> int:
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


@dataclass(frozen=True)
class Load:
    """The chunks of a step, summed to what costs depend on; `pairs` and `keys` per attention window."""

    rows: int
    sampled: int
    pairs: Mapping[int | None, int]
    keys: Mapping[int | None, int]
    kv_bytes: int = 2  # of one element of a cached key or value

    @classmethod
    def of(
        cls, chunks: Iterable[tuple[int, int] | Chunk], windows: Iterable[int | None], kv_bytes: int
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
        )


BytesOf = Callable[[Parameter], int]  # the bytes of a parameter as it is stored


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
        return Work(weight_bytes=load.rows * bytes_of(self.params()[0]) // self.vocab)


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
        return Work(weight_bytes=_once(load.rows, self.params(), bytes_of))


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
            weight_bytes=_once(load.rows, self.params(), bytes_of),
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
            weight_bytes=_once(load.rows, self.params(), bytes_of),
        )


Operator = Embedding | Norm | Linear | Rotate | Attention | Gate | Add | Head


def _once(rows: int, params: tuple[Parameter, ...], bytes_of: BytesOf) -> int:
    """Weights are read once however many rows share them, and not at all without rows."""
    return sum(bytes_of(parameter) for parameter in params) if rows else 0
