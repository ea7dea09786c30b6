"""Weights in types that no kernel multiplies, rewritten as they are loaded in a type that one does.

| stored | loaded | exact |
|---|---|---|
| IQ4_NL | Q8_0 | yes: its 16 levels are 8-bit integers |
| MXFP4 | Q8_0 | yes: doubled, its values are integers; F32 where a scale is no 16-bit float |
| Q3_K | Q6_K | yes: three bits fit in six |
| Q2_K | F16 | to 2^-11: no other type has a minimum for every 16 columns; F32 where F16 would overflow |
| FP8 | F16 | to 2^-11, its scale multiplied in; F32 where F16 would overflow |

The layouts are ggml's (ggml-common.h) and the OCP formats E4M3 and MXFP4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import dequantize
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

IQ4_NL_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
MXFP4_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
MXFP4_BIAS = 128  # of the exponent, with the doubling undone
LEAST_F16, GREATEST_F16 = -24, 15  # exponents of the powers of two that F16 holds
MOST_F16 = 65_504.0
PIECE_BYTES = 4 << 20  # of a matrix rewritten at a time, so that its steps stay in the caches


@dataclass(frozen=True)
class Conversion:
    """`rewrite` takes rows as stored, (n, row bytes), and which rows of the matrix they are, (n,)."""

    stored: str  # what the file calls the type
    loaded: Type
    rewrite: Callable[[Bytes, NDArray[np.int64]], Bytes]

    @property
    def exact(self) -> bool:
        """Whether no value changes."""
        return self.loaded is not Type.F16

    def rows(self, data: Bytes, which: NDArray[np.int64]) -> Bytes:
        """Some rows of a matrix, in the loaded type."""
        step = max(1, PIECE_BYTES // max(1, data.shape[1]))
        cuts = range(0, len(which), step)
        return np.concatenate(
            [self.rewrite(data[part], part) for part in (which[at : at + step] for at in cuts)]
        )


def conversion(stored: Type, data: Bytes) -> Conversion | None:
    """How a GGUF matrix of (rows, row bytes) is loaded; None where it stays as it is."""
    match stored:
        case Type.IQ4_NL:
            return Conversion("IQ4_NL", Type.Q8_0, lambda rows, _: _iq4_nl(rows))
        case Type.MXFP4 if _scales_fit(data):
            return Conversion("MXFP4", Type.Q8_0, lambda rows, _: _mxfp4(rows))
        case Type.Q3_K:
            return Conversion("Q3_K", Type.Q6_K, lambda rows, _: _q3_k(rows))
        case Type.Q2_K if _q2_k_greatest(data) <= MOST_F16:
            return Conversion("Q2_K", Type.F16, lambda rows, _: _halves(dequantize(rows, Type.Q2_K)))
        case Type.MXFP4 | Type.Q2_K:
            return Conversion(stored.name, Type.F32, lambda rows, _: _bytes(dequantize(rows, stored)))
    return None


def from_fp8(shape: tuple[int, int], scale: Floats, block: tuple[int, int]) -> Conversion:
    """E4M3 bytes, each times the scale of its block.

    `scale` is (row blocks, column blocks) for blocks of `block` (rows, columns), the last ones cut short.
    ValueError where it has another shape.
    """
    if scale.shape != (-(-shape[0] // block[0]), -(-shape[1] // block[1])):
        raise ValueError(f"{scale.shape} scales do not fit a matrix of {shape} in blocks of {block}")
    columns = np.repeat(scale, block[1], axis=1)[:, : shape[1]]  # (row blocks, columns)
    loaded = Type.F16 if E4M3_MOST * float(np.abs(scale).max()) <= MOST_F16 else Type.F32

    def rewrite(rows: Bytes, which: NDArray[np.int64]) -> Bytes:
        values = E4M3[rows] * columns[which // block[0]]
        return _halves(values) if loaded is Type.F16 else _bytes(values)

    return Conversion("FP8", loaded, rewrite)


def _e4m3() -> Floats:
    """The value of every byte: a sign, four bits of exponent, three of fraction; no infinity."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes < 128, size, -size).astype(np.float32)


E4M3 = _e4m3()
E4M3_MOST = 448.0


def _nibbles(packed: Bytes, levels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Blocks of 16 bytes: low nibbles are the first 16 columns, high ones the last; (blocks, 32)."""
    values: NDArray[np.int8] = levels[np.concatenate([packed & 15, packed >> 4], axis=1)]
    return values


def _q8_0(scale: NDArray[np.float16], values: NDArray[np.int8], rows: int) -> Bytes:
    """`scale` (blocks,) and `values` (blocks, 32) as rows of Q8_0."""
    blocks = np.concatenate([scale[:, None].view(np.uint8), values.view(np.uint8)], axis=1)
    return blocks.reshape(rows, -1)


def _iq4_nl(rows: Bytes) -> Bytes:
    blocks = rows.reshape(-1, 18)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16)[:, 0]
    return _q8_0(scale, _nibbles(blocks[:, 2:], IQ4_NL_LEVELS), len(rows))


def _scales_fit(data: Bytes) -> bool:
    """Whether every block is an F16 scale times 8-bit integers: large exponents move up to three bits into
    the integers, and blocks of zeros fit whatever their exponent.
    """
    blocks = data.reshape(-1, 17)
    exponent = blocks[:, 0].astype(np.int16) - MXFP4_BIAS
    outside = blocks[(exponent < LEAST_F16) | (exponent > GREATEST_F16 + 3)]
    return not (outside[:, 1:] & 0x77).any()


def _mxfp4(rows: Bytes) -> Bytes:
    blocks = rows.reshape(-1, 17)
    exponent = blocks[:, 0].astype(np.int32) - MXFP4_BIAS
    moved = np.clip(exponent - GREATEST_F16, 0, 3)
    values = _nibbles(blocks[:, 1:], MXFP4_DOUBLED) << moved[:, None].astype(np.int8)
    scale = np.ldexp(np.float32(1), np.clip(exponent - moved, LEAST_F16, GREATEST_F16))
    return _q8_0(scale.astype(np.float16), values, len(rows))


def _q3_k(rows: Bytes) -> Bytes:
    """Q3_K's blocks: 32 bytes of third bits, 64 of low bit pairs, 12 of scales, d; 256 columns.

    Q6_K has low nibbles of 64 columns apart (128 bytes), high bit pairs (64), scales (16), d.
    """
    blocks = rows.reshape(-1, 110)
    third, pairs, packed, d = np.split(blocks, [32, 96, 108], axis=1)
    count = len(blocks)
    # Columns (half, quarter, 32): quarter q of a half has bits 2q of `pairs` and bit 4 · half + q of `third`.
    low = pairs.reshape(count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    top = third.reshape(count, 1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(2, 4, 1) & 1
    values = low + 4 * top + 28  # the third bit set means 0 … 3, else -4 … -1; Q6_K subtracts 32
    nibbles = values & 15
    ql = nibbles[:, :, :2] | nibbles[:, :, 2:] << 4
    qh = np.bitwise_or.reduce(values >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)
    low_scales = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high_scales = packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    scales = (low_scales | high_scales.reshape(count, 16) << 4) - np.uint8(32)  # as bytes of signed numbers
    parts = (ql.reshape(count, 128), qh.reshape(count, 64), scales, d)
    return np.concatenate(parts, axis=1).reshape(len(rows), -1)


def _q2_k_greatest(data: Bytes) -> float:
    """The most that a value of Q2_K blocks could be: 3 · 15 · d + 15 · dmin."""
    ends = np.ascontiguousarray(data.reshape(-1, 84)[:, 80:]).view(np.float16).astype(np.float32)
    return float((np.abs(ends) @ np.array([45, 15], np.float32)).max())


def _halves(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8)


def _bytes(values: Floats) -> Bytes:
    return values.astype(np.float32).view(np.uint8)
