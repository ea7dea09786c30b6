"""The kernels of a model: what its operator records take, as coefficients over the features of a step.

Each record is asked once for a unit of each feature; operators that engines run as one kernel are added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from membound.costs.features import Features, Window
from membound.costs.precisions import Precisions
from membound.hardware.accelerator import Accelerator
from membound.models.compressed import CompressedAttention
from membound.models.latent import Indexer, LatentAttention
from membound.models.mixtures import Experts
from membound.models.operators import (
    Attention,
    BytesOf,
    Caching,
    Head,
    Linear,
    Load,
    Operator,
    Parameter,
    Work,
)
from membound.models.recurrent import Convolution, Recurrence

# Operators that engines run as one kernel, by the name of their first.
FUSED: Mapping[str, str] = {
    "attn_q": "attn_qkv", "attn_k": "attn_qkv", "attn_v": "attn_qkv", "attn_gate": "attn_qkv",
    "attn_q_a": "attn_qkv_a", "attn_kv_a_mqa": "attn_qkv_a", "attn_kv": "attn_qkv_a",
    "indexer_k": "attn_qkv_a", "indexer_weights": "attn_qkv_a",
    "attn_compress_kv": "attn_compress", "attn_compress_gate": "attn_compress",
    "indexer_compress_kv": "attn_compress", "indexer_compress_gate": "attn_compress",
    "ffn_gate": "ffn_gate_up", "ffn_up": "ffn_gate_up",
    "ffn_gate_shexp": "ffn_gate_up_shexp", "ffn_up_shexp": "ffn_gate_up_shexp",
    "ssm_q": "ssm_in", "ssm_k": "ssm_in", "ssm_v": "ssm_in", "ssm_f_a": "ssm_in", "ssm_g_a": "ssm_in",
    "ssm_g": "ssm_in", "ssm_beta": "ssm_in", "ssm_ba": "ssm_in",
    "ssm_conv1d_q": "ssm_conv1d", "ssm_conv1d_k": "ssm_conv1d", "ssm_conv1d_v": "ssm_conv1d",
}  # fmt: skip

Coefficients = NDArray[np.float64]  # (features,)


@dataclass
class Kernel:
    """One operation of a layer, `layers` times in a step; coefficients over the features of a step."""

    name: str
    kind: str  # matmul, attention, prefill, experts, recurrence, other: what its efficiency is fitted on
    rate: str
    active: int  # place of the feature that says whether it runs
    layers: int
    flops: Coefficients
    weight_bytes: Coefficients
    kv_bytes: Coefficients
    stored_bits: float = 16.0  # of a weight
    widens: bool = False  # weights, before they are multiplied
    rival: str = ""  # of kernels with the same rival in a stage, the quickest runs

    @property
    def widened(self) -> Coefficients:
        """Weights that are stored in fewer bits than they are multiplied in."""
        return self.weight_bytes * 8 / self.stored_bits if self.widens else np.zeros_like(self.weight_bytes)


class KernelMaker:
    """Asks operator records for their costs and gathers the coefficients into kernels."""

    def __init__(self, features: Features, precisions: Precisions, part: Accelerator, copies: int) -> None:
        self.features = features
        self.precisions = precisions
        self.part = part
        self.copies = copies
        self.kernels: list[Kernel] = []
        self.activations = 0.0  # elements of a row that pass between kernels, all layers together

    def add(
        self, prefix: str, indices: tuple[int, ...], operators: Iterable[Operator], sampled: bool
    ) -> None:
        """Kernels of operators that stand in the layers `indices`; the head's rows are those that sample."""
        fused: dict[tuple[str, str, int], Kernel] = {}
        for operator in operators:
            self.activations += len(indices) * activations(operator)
            for kernel in self._kernels(prefix, indices, operator, sampled):
                known = fused.setdefault((kernel.name, kernel.rate, kernel.active), kernel)
                if known is kernel or kernel.rival:
                    self.kernels.append(kernel)
                else:
                    known.flops = known.flops + kernel.flops
                    known.weight_bytes = known.weight_bytes + kernel.weight_bytes
                    known.kv_bytes = known.kv_bytes + kernel.kv_bytes

    def _kernels(
        self, prefix: str, indices: tuple[int, ...], operator: Operator, sampled: bool
    ) -> list[Kernel]:
        sizes = {p.name: self._stored_bytes(prefix, indices, p) for p in operator.params()}

        def bytes_of(parameter: Parameter) -> float:
            return sizes[parameter.name]

        place = self.features.place
        rate, stored_bits, widens = self._rate(prefix, indices, operator)
        layers = len(indices)
        if isinstance(operator, Attention | CompressedAttention | Indexer):
            return [self._attention(operator, part, layers, bytes_of) for part in ("one", "many")]
        if isinstance(operator, LatentAttention):
            return self._latent(operator, layers, bytes_of)
        if isinstance(operator, Experts):
            kernel = self._experts(operator, layers, rate, bytes_of)
            return [replace(kernel, stored_bits=stored_bits, widens=widens)]
        kind, name = "other", "norms"
        if isinstance(operator, Linear | Head):
            kind, name = "matmul", FUSED.get(operator.name, operator.name)
        elif isinstance(operator, Recurrence | Convolution):
            kind, name = "recurrence", FUSED.get(operator.name, operator.name)
        elif operator.name == "token_embd":
            name = "token_embd"
        rows, any_row = ("sampled", "any_sampled") if sampled else ("rows", "any")
        kernel = self._empty(name, kind, rate, place(any_row), layers)
        kernel = replace(kernel, stored_bits=stored_bits, widens=widens)
        first, second = (operator.cost(_load(rows=r), bytes_of) for r in (1.0, 2.0))
        _put(kernel, place(rows), second, first)
        _put(kernel, place(any_row), _minus(first, _minus(second, first)), Work())
        _put(kernel, place("sequences"), operator.cost(_load(sequences=1.0), bytes_of), Work())
        return [kernel]

    def _attention(
        self, operator: Attention | CompressedAttention | Indexer, part: str, layers: int, bytes_of: BytesOf
    ) -> Kernel:
        """Sequences of one token and longer chunks are different kernels in every engine."""
        place = self.features.place
        kind = "attention" if part == "one" else "prefill"
        kernel = self._empty(operator.name, kind, self.part.native_rate("bf16"), place(f"any_{part}"), layers)
        kv = self.precisions.kv.bits / 8
        _put(
            kernel,
            place(f"rows_{part}"),
            operator.cost(self._windowed(operator, kv, rows=1.0), bytes_of),
            Work(),
        )
        for window in operator.windows:
            works = {
                name: operator.cost(self._windowed(operator, kv, name, window), bytes_of)
                for name in ("pairs", "keys", "chosen")
            }
            if part == "one":
                for work in works.values():
                    _put(kernel, place("keys_one", window), work, Work())
            else:
                for name, work in works.items():
                    _put(kernel, place(f"{name}_many", window), work, Work())
        return kernel

    def _latent(self, operator: LatentAttention, layers: int, bytes_of: BytesOf) -> list[Kernel]:
        """Its weights once, and for each kind of chunk the absorbed and the expanded way as rivals."""
        place, limit = self.features.place, operator.limit
        rate = self.part.native_rate("bf16")
        weights = self._empty("attn_kv_b", "other", rate, place("any"), layers)
        weights.weight_bytes[place("any")] = sum(map(bytes_of, operator.params()))
        kernels = [weights]
        cached = operator.cache.elements * self.precisions.kv.bits / 8
        for part, kind in (("one", "attention"), ("many", "prefill")):
            rival = f"{part} {len(self.kernels)} {id(operator)}"
            pairs = place("keys_one" if part == "one" else "pairs_many", limit)
            keys = place("keys_one" if part == "one" else "keys_many", None)
            chosen = place("keys_one" if part == "one" else "chosen_many", limit)
            rows = place(f"rows_{part}")
            for way in ("absorbed", "expanded"):
                kernel = self._empty(operator.name, kind, rate, place(f"any_{part}"), layers)
                kernel.rival = rival
                kernel.kv_bytes[chosen] += cached
                kernel.kv_bytes[rows] += cached
                if way == "absorbed":
                    kernel.flops[pairs] += operator.absorbed_flops(0, 1)
                    kernel.flops[rows] += operator.absorbed_flops(1, 0)
                else:
                    kernel.flops[pairs] += operator.expanded_flops(0, 1)
                    kernel.flops[keys] += operator.expanded_flops(1, 0)
                kernels.append(kernel)
        return kernels

    def _experts(self, operator: Experts, layers: int, rate: str, bytes_of: BytesOf) -> Kernel:
        place, dims = self.features.place, operator.dims
        kernel = self._empty(operator.name, "experts", rate, place("any"), layers)
        here = operator.held / dims.experts
        one = operator.cost(_load(rows=1.0), bytes_of)
        kernel.flops[place("rows")] = one.flops * self.copies
        per_expert = sum(map(bytes_of, operator.params())) / operator.held
        kernel.weight_bytes[place("distinct", (dims.experts, dims.active))] = per_expert * here
        return kernel

    def _empty(self, name: str, kind: str, rate: str, active: int, layers: int) -> Kernel:
        flops, weights, kv = (np.zeros(len(self.features)) for _ in range(3))
        return Kernel(name, kind, rate, active, layers, flops, weights, kv)

    def _rate(self, prefix: str, indices: tuple[int, ...], operator: Operator) -> tuple[str, float, bool]:
        """Of an operator's largest matrix: its rate, the bits it is stored in, whether these are widened."""
        matrices = [p for p in operator.params() if len(p.shape) > 1]
        if not matrices:
            return self.part.native_rate("bf16"), 16.0, False
        largest = max(matrices, key=lambda p: p.elements)
        stored = self.precisions.weight_format(_full(prefix, indices[0], largest.name), largest.shape)
        rate = self.precisions.rate(stored, self.part)
        return rate, stored.bits, self.precisions.widened(stored, self.part)

    def _stored_bytes(self, prefix: str, indices: tuple[int, ...], parameter: Parameter) -> float:
        """Bytes of a parameter, the mean of the layers where it stands."""
        if prefix:
            bits = self.precisions.layer_bits(parameter.name, parameter.shape, indices)
        else:
            bits = self.precisions.weight_format(parameter.name, parameter.shape).bits
        return parameter.elements * bits / 8

    def _windowed(
        self, operator: Caching, kv_bytes: float, counted: str = "", window: Window = None, rows: float = 0.0
    ) -> Load:
        """A load of nothing but `rows`, or one of what is `counted` (pairs, keys, chosen) under a window."""

        def one(name: str) -> dict[Window, float]:
            return {w: float(name == counted and w == window) for w in operator.windows}

        return Load(
            rows=rows,
            sampled=0.0,
            pairs=one("pairs"),
            keys=one("keys"),
            kv_bytes=kv_bytes,
            chosen=one("chosen"),
        )


def activations(operator: Operator) -> float:
    """Elements of a row that an operator takes from, and leaves for, the small kernels around it: norms,
    rotations, gates, sums. Heads, whose rows are few, are not counted.
    """
    if isinstance(operator, Linear):
        return operator.rows + operator.columns
    if isinstance(operator, Experts):
        dims = operator.dims
        chosen = dims.active * operator.held / dims.experts
        return chosen * (2 * operator.inputs + (3 if dims.gated else 2) * dims.width)
    return 0.0


def _full(prefix: str, index: int, name: str) -> str:
    return f"blk.{index}.{name}" if prefix else name


def _load(rows: float = 0.0, sequences: float = 0.0) -> Load:
    return Load(rows=rows, sampled=0.0, pairs={}, keys={}, sequences=sequences)


def _minus(a: Work, b: Work) -> Work:
    return Work(
        a.flops - b.flops,
        a.weight_bytes - b.weight_bytes,
        a.kv_read_bytes - b.kv_read_bytes,
        a.kv_write_bytes - b.kv_write_bytes,
    )


def _put(kernel: Kernel, place: int, work: Work, without: Work) -> None:
    """Adds what one unit of a feature takes."""
    one = _minus(work, without)
    kernel.flops[place] += one.flops
    kernel.weight_bytes[place] += one.weight_bytes
    kernel.kv_bytes[place] += one.kv_read_bytes + one.kv_write_bytes
