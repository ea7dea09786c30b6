"""A model in NumPy, dequantized to float32, as its operators say it: the oracle of the other executors.

Keys and values live in slots, one per cached token; whoever calls says which slots a sequence has. So one
walk serves a sequence alone and a cache in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from membound.models.operators import Add, Attention, Embedding, Gate, Head, Linear, Norm, Operator, Rotate
from membound.models.rope import Rope
from membound.models.weights import Weights
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.sampling import TokenLogprobs
from membound.serving.step import Outcome, Step

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# From logits (vocab,) the next token of a request, and its log-probabilities if it asked for them.
Choose = Callable[[Floats, Request], tuple[int, TokenLogprobs | None]]


@dataclass(frozen=True, eq=False)
class LayerCache:
    """Keys and values of one layer, each (slots, kv_heads, head_dim)."""

    keys: Floats
    values: Floats


@dataclass(eq=False)
class _Pass:
    """The last tokens of one sequence on their way through the operators."""

    tokens: Integers
    slots: Integers  # of the whole sequence, these tokens last
    values: dict[str, Floats] = field(default_factory=dict)  # each (rows, elements)

    @property
    def start(self) -> int:
        """The position of the first of the tokens."""
        return len(self.slots) - len(self.tokens)


class ReferenceModel:
    """Computes logits. Matrices are dequantized when first used, and kept."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._dense: dict[str, Floats] = {}

    def cache(self, slots: int) -> list[LayerCache]:
        """An empty cache for that many tokens, one entry per layer."""
        dims = [layer.attention for layer in self.weights.architecture.layers]
        shapes = [(slots, layer.kv_heads, layer.head_dim) for layer in dims]
        return [LayerCache(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for shape in shapes]

    def logits(self, tokens: Sequence[int]) -> Floats:
        """A sequence from its start; logits after each token, shape (tokens, vocab)."""
        return self.forward(tokens, self.cache(len(tokens)), np.arange(len(tokens)))

    def forward(
        self, tokens: Sequence[int], cache: list[LayerCache], slots: Integers, samples: int | None = None
    ) -> Floats:
        """Logits of the last `samples` tokens (None: of all), (samples, vocab).

        `tokens` are the new ones, at the end of a sequence as long as `slots`: the places in `cache` of its
        positions 0, 1, …, of which those before the new ones hold keys and values already.
        """
        graph = self.weights.graph
        walk = _Pass(np.asarray(tokens, np.int64), slots)
        self._run(graph.first, "", walk, None)
        for index, operators in enumerate(graph.layers):
            self._run(operators, f"blk.{index}.", walk, cache[index])
        rows = len(tokens) if samples is None else samples
        walk.values["x"] = walk.values["x"][len(tokens) - rows :]
        self._run(graph.last, "", walk, None)
        return walk.values["logits"]

    def _run(
        self, operators: tuple[Operator, ...], prefix: str, walk: _Pass, cache: LayerCache | None
    ) -> None:
        values = walk.values
        for operator in operators:
            match operator:
                case Embedding(scale=scale, target=target):
                    (table,) = operator.params()
                    values[target] = self.weights.tensors[table.name].rows(walk.tokens) * np.float32(scale)
                case Norm(name=name, eps=eps, source=source, target=target):
                    values[target] = rms_norm(values[source], self._tensor(f"{prefix}{name}.weight"), eps)
                case Linear(name=name, source=source, target=target, bias=bias):
                    product = values[source] @ self._tensor(f"{prefix}{name}.weight").T
                    values[target] = product + self._tensor(f"{prefix}{name}.bias") if bias else product
                case Rotate(heads=heads, head_dim=head_dim, rope=rope, source=source):
                    positions = np.arange(walk.start, len(walk.slots))
                    turned = rotate(values[source].reshape(-1, heads, head_dim), positions, rope)
                    values[source] = turned.reshape(len(walk.tokens), -1)
                case Attention(query=query, key=key, value=value, target=target):
                    assert cache is not None
                    shape = (len(walk.tokens), operator.kv_heads, operator.head_dim)
                    new, seen = walk.slots[walk.start :], walk.slots
                    cache.keys[new] = values[key].reshape(shape)
                    cache.values[new] = values[value].reshape(shape)
                    values[target] = attend(values[query], cache.keys[seen], cache.values[seen], operator)
                case Gate(activation=activation, gate=gate, up=up, target=target):
                    values[target] = ACTIVATIONS[activation](values[gate]) * values[up]
                case Add(source=source):
                    values["x"] = values["x"] + values[source]
                case Head(source=source):
                    (table,) = operator.params()
                    values["logits"] = values[source] @ self._tensor(table.name).T
                case _:
                    raise TypeError(f"{operator.name}: the reference has no {type(operator).__name__}")

    def _tensor(self, name: str) -> Floats:
        if name not in self._dense:
            self._dense[name] = self.weights.tensors[name].dequantize()
        return self._dense[name]


class ReferenceExecutor:
    """Carries steps out one request after another, on a cache in blocks of 16 tokens.

    It asks no clock: the time after a step is the time before it.
    """

    def __init__(self, model: ReferenceModel, blocks: int, choose: Choose) -> None:
        self.model = model
        self.choose = choose
        self._cache = model.cache(blocks * BLOCK_TOKENS)

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        """Runs the step once."""
        logprobs: dict[Request, list[TokenLogprobs]] = {}
        tokens: dict[Request, list[int]] = {}
        work = [*step.chunks, *((request, 1) for request in step.decoding())]
        for request, count in work:
            end = request.computed + count
            samples = int(end == request.length)
            slots = cache_slots(request.blocks, end)
            logits = self.model.forward(request.tokens[request.computed : end], self._cache, slots, samples)
            if samples:
                token, chances = self.choose(logits[0], request)
                tokens[request] = [token]
                if chances is not None:
                    logprobs[request] = [chances]
        return Outcome(now, tokens=tokens, logprobs=logprobs or None)


def cache_slots(blocks: Sequence[int], length: int) -> Integers:
    """Where the first `length` tokens of a sequence lie, 16 slots to a block."""
    slots = np.asarray(blocks, np.int64)[:, None] * BLOCK_TOKENS + np.arange(BLOCK_TOKENS)
    return slots.ravel()[:length]


def rms_norm(values: Floats, weight: Floats, eps: float) -> Floats:
    """Each run of len(weight) elements of a row by itself."""
    runs = values.reshape(-1, len(weight))
    mean_square = np.mean(runs * runs, axis=1, keepdims=True)
    normed: Floats = runs / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed.reshape(values.shape)


def rotate(heads: Floats, positions: NDArray[np.int64], rope: Rope) -> Floats:
    """Rotary position embedding; `heads` is (rows, heads, head_dim), `positions` (rows,)."""
    angles = positions.astype(np.float32)[:, None, None] * rope.inverse_frequencies()  # (rows, 1, pairs)
    cos, sin = np.cos(angles) * np.float32(rope.amplitude), np.sin(angles) * np.float32(rope.amplitude)
    half = rope.dimensions // 2
    if rope.pairing == "halves":
        first, second = slice(0, half), slice(half, rope.dimensions)
    else:
        first, second = slice(0, rope.dimensions, 2), slice(1, rope.dimensions, 2)
    a, b = heads[..., first], heads[..., second]
    turned = heads.copy()
    turned[..., first] = a * cos - b * sin
    turned[..., second] = a * sin + b * cos
    return turned


def attend(queries: Floats, keys: Floats, values: Floats, attention: Attention) -> Floats:
    """Causal attention of the last rows of a sequence.

    Queries are (rows, heads · head_dim), keys and values (length, kv_heads, head_dim).
    """
    rows, length = len(queries), len(keys)
    grouped = queries.reshape(
        rows, attention.kv_heads, -1, attention.head_dim
    )  # heads that share a key together
    scores = (
        grouped.transpose(1, 2, 0, 3) @ keys.transpose(1, 2, 0)[:, None]
    )  # (kv_heads, group, rows, length)
    behind = np.arange(length - rows, length)[:, None] - np.arange(
        length
    )  # how far a key lies before a query
    visible = (behind >= 0) if attention.window is None else (behind >= 0) & (behind < attention.window)
    scores = np.where(visible, scores * np.float32(attention.scale), np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended: Floats = weights @ values.transpose(1, 0, 2)[:, None]
    return attended.transpose(2, 0, 1, 3).reshape(rows, -1)


def silu(x: Floats) -> Floats:
    """x · sigmoid(x)."""
    with np.errstate(over="ignore"):  # exp of a large number is inf, and its quotient 0, as it should be
        activated: Floats = x / (1 + np.exp(-x))
    return activated


def gelu_tanh(x: Floats) -> Floats:
    """GELU by its tanh approximation (Hendrycks & Gimpel 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


ACTIVATIONS = {"silu": silu, "gelu_tanh": gelu_tanh}
