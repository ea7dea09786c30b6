"""Matrix products with packed weights, on every instruction set that this machine has.

Three oracles: the product of the dequantized weights in float64, NumPy emulations of the numeric schemes, and
the kernels of one instruction set against those of another, bit by bit; closely with BF16 weights, which sets
add up in orders of their own, and where AMX has a numeric scheme of its own.
"""

from functools import cache

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from membound import _core

FLOATS = (Type.F32, Type.F16, Type.BF16)
NIBBLES = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1)
K_QUANTS = (Type.Q4_K, Type.Q5_K, Type.Q6_K)
TYPES = (*FLOATS, *NIBBLES, Type.Q8_0, *K_QUANTS)
WITH_MIN = (Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K)

BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 64, 100)
HEIGHTS = (1, 15, 16, 17, 48, 100)

# Relative L2 errors of a product, against float64.
ACTIVATION_ERROR = 8e-3  # half a step of 127 to the greatest but for one quad: some 0.5 % of normal numbers
SUMMATION_ERROR = 2e-6  # one chain of float32 additions over at most 768 columns

# Of one element, as a share of the sum of its terms' magnitudes: the emulation rounds products once more.
EMULATION_ERROR = 1e-6
# The same of two orders of adding up.
ORDER_ERROR = 1e-6


def widths(kind: Type) -> tuple[int, ...]:
    if kind in K_QUANTS:
        return (256, 512, 768)
    return (5, 32, 96, 576) if kind in FLOATS else (32, 64, 96, 576)


@cache
def weights(kind: Type, rows: int, cols: int) -> NDArray[np.uint8]:
    """Bytes of a random matrix, all bit patterns in its quants, scales of either sign; (rows, row bytes)."""
    random = np.random.default_rng((kind, rows, cols))
    if kind in FLOATS:
        values = random.standard_normal((rows, cols)).astype(np.float32)
        if kind == Type.F32:
            return values.view(np.uint8)
        if kind == Type.F16:
            return values.astype(np.float16).view(np.uint8)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, cols // block, size), np.uint8)
    count = 2 if kind in WITH_MIN else 1
    scales = (random.standard_normal((rows, cols // block, count)) * 0.01).astype(np.float16).view(np.uint8)
    if kind == Type.Q6_K:
        data[..., -2:] = scales
    else:
        data[..., : 2 * count] = scales
    return np.ascontiguousarray(data.reshape(rows, -1))


def dequantized(kind: Type, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = gguf.quants.dequantize(data, kind)
    return values


def activations(m: int, cols: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal numbers; rows of odd number have single large ones among them, as those of real models have."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((m, cols)) * random.uniform(0.1, 10, (m, 1))
    x[1::2, seed % 7 :: 41] *= 70
    return x.astype(np.float32)


def rounded_to_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To nearest even, what is below 2^-126 to zero."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    tiny = np.abs(x) < 2.0**-126
    return np.where(np.isnan(x), np.float32(np.nan), np.where(tiny, np.float32(0), rounded))


def pack(kind: Type, data: NDArray[np.uint8], cols: int, isa: str) -> _core.PackedMatrix:
    return _core.PackedMatrix(kind, data.reshape(-1), len(data), cols, isa)


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def split_weights(
    kind: Type, data: NDArray[np.uint8], cols: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Signed quants (rows, cols), scales (rows, cols / step) and mins (rows, cols / 32); step is 16 in Q6_K.

    Taken from what dequantizing gives: scales are the gaps that a change of quant makes.
    """
    rows = len(data)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = data.reshape(rows, -1, size)

    def half(start: int) -> NDArray[np.float64]:
        return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16).astype(np.float64)

    values = dequantized(kind, data).astype(np.float64)
    if kind in (Type.Q4_K, Type.Q5_K):
        packed = blocks[..., 4:16].astype(np.int64)
        scale = np.concatenate(
            [packed[..., :4] & 63, packed[..., 8:] & 15 | packed[..., :4] >> 6 << 4], axis=-1
        )
        low = np.concatenate(
            [packed[..., 4:8] & 63, packed[..., 8:] >> 4 | packed[..., 4:8] >> 6 << 4], axis=-1
        )
        scales, mins = half(0) * scale, -half(2) * low
    elif kind == Type.Q6_K:
        scales, mins = half(208) * blocks[..., 192:208].view(np.int8), np.zeros((rows, cols // 32))
    else:
        scales, mins = half(0), half(2) if kind in WITH_MIN else np.zeros((rows, cols // 32, 1))
    scales, mins = scales.reshape(rows, -1), mins.reshape(rows, -1)
    spread = np.repeat(scales, cols // scales.shape[1], axis=1)
    offset = values - np.repeat(mins, 32, axis=1)
    quants = np.rint(np.divide(offset, spread, out=np.zeros_like(offset), where=spread != 0))
    return quants, scales, mins


def emulated(
    kind: Type, data: NDArray[np.uint8], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The numeric scheme in NumPy: products (m, rows), and the sums of their terms' magnitudes.

    Of each 32 activations the quad with the greatest magnitude has eight significant bits of 14, the others
    seven bits.
    """
    m, cols = x.shape
    quants, scales, mins = split_weights(kind, data, cols)
    step = cols // scales.shape[1]
    blocks = x.reshape(m, -1, 32)
    in_quads = np.abs(blocks).reshape(m, -1, 8, 4).max(axis=3)
    quads = np.sort(in_quads, axis=2)
    most = np.maximum(quads[..., -2:-1], quads[..., -1:] / np.float32(128))
    dx = most / np.float32(127)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    ints = np.rint(blocks * inverse).astype(np.float64)
    _, exponents = np.frexp(ints)
    steps = 2.0 ** np.maximum(exponents - 8, 0)
    wide = np.repeat(np.arange(8) == in_quads.argmax(axis=2)[..., None], 4, axis=2)
    ints = np.where(wide, np.rint(ints / steps) * steps, ints)
    sums = ints.sum(axis=2)
    ints = ints.reshape(m, cols)
    total = np.zeros((m, len(data)), np.float32)
    size = np.zeros((m, len(data)))
    for k in range(0, cols, step):
        dots = ints[:, k : k + step] @ quants[:, k : k + step].T
        scale = dx[:, k // 32].astype(np.float64)
        product = (dots * scales[:, k // step]).astype(np.float32)
        size += np.abs(product * scale)
        if kind in WITH_MIN:
            least = mins[:, k // 32] * sums[:, k // 32, None]
            product = (product + least).astype(np.float32)
            size += np.abs(least * scale)
        total = (total + product * scale).astype(np.float32)
    return total, size


def emulated_on_amx(
    kind: Type, data: NDArray[np.uint8], x: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The numeric scheme of AMX: products (m, rows) of bf16 numbers, and the sums of their terms' magnitudes.

    Weights are made in float16, times 16, and rounded once more, halves away from zero.
    """
    quants, scales, mins = split_weights(kind, data, x.shape[1])
    offset = {Type.Q4_0: 8, Type.Q5_0: 16, Type.Q8_0: 128, Type.Q6_K: 32}.get(kind, 0)
    scale = (scales * 16).astype(np.float16).astype(np.float64)
    least = (mins * 16).astype(np.float16).astype(np.float64) if kind in WITH_MIN else -offset * scale
    scale = np.repeat(scale, quants.shape[1] // scale.shape[1], axis=1)
    least = np.repeat(least, quants.shape[1] // least.shape[1], axis=1)
    halves = ((quants + offset) * scale + least).astype(np.float16).view(np.uint16)
    rounded = ((halves & 0x7FFF) + 4 >> 3 << 3 | halves & 0x8000).astype(np.uint16).view(np.float16)
    w = np.where(halves & 0x7FFF < 0x3FC, 0, rounded.astype(np.float64)) / 16
    taken = rounded_to_bf16(x).astype(np.float64)
    return taken @ w.T, np.abs(taken) @ np.abs(w).T


def emulated_on(
    isa: str, kind: Type, data: NDArray[np.uint8], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32] | NDArray[np.float64], NDArray[np.float64]]:
    return emulated_on_amx(kind, data, x) if isa == "amx" else emulated(kind, data, x)


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_products_are_those_of_the_dequantized_weights(kind: Type, isa: str) -> None:
    for cols in widths(kind):
        data = weights(kind, 48, cols)
        x = activations(33, cols)
        taken = rounded_to_bf16(x) if kind == Type.BF16 else x
        wanted = taken.astype(np.float64) @ dequantized(kind, data).astype(np.float64).T
        bound = SUMMATION_ERROR if kind in FLOATS else ACTIVATION_ERROR
        assert relative_error(pack(kind, data, cols, isa).multiply(x), wanted) < bound


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_rows_of_more_columns_than_are_packed_at_a_time(kind: Type) -> None:
    cols = 2304 if kind in K_QUANTS else 2080
    data = weights(kind, 17, cols)
    x = activations(1, cols)
    taken = rounded_to_bf16(x) if kind == Type.BF16 else x
    wanted = taken.astype(np.float64) @ dequantized(kind, data).astype(np.float64).T
    bound = SUMMATION_ERROR if kind in FLOATS else ACTIVATION_ERROR
    assert relative_error(pack(kind, data, cols, "portable").multiply(x), wanted) < bound


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES[3:], ids=lambda kind: kind.name)
def test_products_follow_the_numeric_scheme(kind: Type, isa: str) -> None:
    for cols in widths(kind):
        data = weights(kind, 48, cols)
        x = activations(33, cols)
        wanted, size = emulated_on(isa, kind, data, x)
        assert (np.abs(pack(kind, data, cols, isa).multiply(x) - wanted) <= EMULATION_ERROR * size).all()


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_row_gives_the_same_bits_in_any_batch_and_any_split(kind: Type, isa: str) -> None:
    cols = widths(kind)[-1]
    x = activations(max(BATCHES), cols)
    for rows in HEIGHTS:
        matrix = pack(kind, weights(kind, rows, cols), cols, isa)
        alone = np.concatenate([matrix.multiply(x[i : i + 1]) for i in range(len(x))])
        assert alone.shape == (len(x), rows)
        for m in BATCHES:
            assert np.array_equal(matrix.multiply(x[:m]), alone[:m]), (rows, m)
        for parts in (2, 3):
            assert np.array_equal(matrix.multiply(x, parts), alone), (rows, parts)


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("m", "rows", "cols"), [(530, 33, 1280), (200, 49, 4096)])
def test_a_row_gives_the_same_bits_among_more_than_caches_hold(
    m: int, rows: int, cols: int, kind: Type, isa: str
) -> None:
    x = activations(m, cols)
    matrix = pack(kind, weights(kind, rows, cols), cols, isa)
    found = matrix.multiply(x)
    for row in (0, 15, 16, m // 2, m - 19, m - 18, m - 1):
        assert np.array_equal(found[row : row + 1], matrix.multiply(x[row : row + 1])), row


@pytest.mark.parametrize("isa", _core.isas())
def test_activations_for_bf16_weights_are_rounded_to_nearest_even(isa: str) -> None:
    random = np.random.default_rng(0)
    upper = random.integers(0, 1 << 16, 4000).astype(np.uint32) << 16
    lower = random.choice([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], 4000).astype(np.uint32)
    corners = [0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0x7F800001, 0xFF800000, 0xFFFFFFFF, 0x007FFFFF, 0x00800000]
    x = np.concatenate([upper | lower, np.array(corners, np.uint32)]).view(np.float32)[:, None]
    one = _core.PackedMatrix(Type.BF16, np.array([0x3F80], np.uint16).view(np.uint8), 1, 1, isa)
    wanted = rounded_to_bf16(x)
    assert np.array_equal(one.multiply(x), wanted, equal_nan=True)
    for row in range(0, len(x), 400):
        assert np.array_equal(one.multiply(x[row : row + 1]), wanted[row : row + 1], equal_nan=True)


def test_instruction_sets_agree_closely_with_bf16_weights() -> None:
    for cols in widths(Type.BF16):
        data = weights(Type.BF16, 33, cols)
        x = activations(40, cols)
        size = np.abs(x) @ np.abs(dequantized(Type.BF16, data)).T
        first, *others = [pack(Type.BF16, data, cols, isa).multiply(x) for isa in _core.isas()]
        for other in others:
            assert (np.abs(first - other) <= ORDER_ERROR * size).all()


@pytest.mark.parametrize("kind", [k for k in TYPES if k != Type.BF16], ids=lambda kind: kind.name)
def test_instruction_sets_agree_bit_by_bit(kind: Type) -> None:
    for cols in widths(kind):
        data = weights(kind, 33, cols)
        for m in (1, 5, 16, 40):
            x = activations(m, cols, seed=m)
            found = {isa: pack(kind, data, cols, isa).multiply(x) for isa in _core.isas()}
            first = found["portable"]
            for isa, other in found.items():
                if isa == "amx" and kind not in FLOATS:
                    assert relative_error(other, first.astype(np.float64)) < 2 * ACTIVATION_ERROR
                else:
                    assert np.array_equal(first, other), (cols, m)


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES[3:], ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F])
def test_extreme_quants_do_not_overflow(kind: Type, isa: str, byte: int) -> None:
    cols = widths(kind)[-1]
    data = weights(kind, 16, cols).copy()
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = data.reshape(16, -1, size)
    header = {Type.Q6_K: slice(208, 210)}.get(kind, slice(0, 4 if kind in WITH_MIN else 2))
    kept = blocks[..., header].copy()
    blocks[:] = byte
    blocks[..., header] = kept
    # The greatest activations of one sign, in one quad or in all: dot products are as large as they can be.
    even = np.full((17, cols), 3.0, np.float32)
    wide = np.where(np.arange(cols) % 32 < 4, even, even / 128)
    for x in (even, -even, wide, -wide):
        wanted, size_of_terms = emulated_on(isa, kind, data, x)
        matrix = pack(kind, data, cols, isa)
        found = matrix.multiply(x)
        assert (np.abs(found - wanted) <= EMULATION_ERROR * size_of_terms).all()
        assert np.array_equal(matrix.multiply(x[:1]), found[:1])


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_zero_huge_and_tiny_activations(kind: Type, isa: str) -> None:
    cols = widths(kind)[-1]
    matrix = pack(kind, weights(kind, 17, cols), cols, isa)
    wanted = matrix.multiply(activations(1, cols))
    huge = 2.0**30 if isa == "amx" else 2.0**60
    x = np.concatenate([activations(1, cols) * np.float32(scale) for scale in (0, huge, 1 / huge)])
    found = matrix.multiply(x)
    assert not found[0].any()
    assert np.array_equal(found[1], wanted[0] * np.float32(huge))
    assert np.array_equal(found[2], wanted[0] / np.float32(huge))
    assert np.array_equal(
        matrix.multiply(np.full((3, cols), 1e-42, np.float32)) == 0, np.full((3, 17), True)
    ) or kind in (Type.F32, Type.F16)


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(kind: Type, isa: str, odd: float) -> None:
    cols = widths(kind)[-1]
    matrix = pack(kind, weights(kind, 17, cols), cols, isa)
    x = activations(20, cols)
    wanted = matrix.multiply(x)
    x[7, 3] = odd
    found = matrix.multiply(x)
    assert not np.isfinite(found[7]).any()
    others = np.arange(20) != 7
    assert np.array_equal(found[others], wanted[others])


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_dequantizing_is_that_of_the_format(kind: Type) -> None:
    data = weights(kind, 15, widths(kind)[-1])
    found = _core.dequantize(kind, data.reshape(-1), 15, widths(kind)[-1])
    assert np.array_equal(found, dequantized(kind, data))


def test_every_half_precision_number_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    found = _core.dequantize(Type.F16, halves.view(np.uint8), 1, 1 << 16)[0]
    assert np.array_equal(found, halves.view(np.float16).astype(np.float32), equal_nan=True)
    finite = halves[np.isfinite(halves.view(np.float16))]
    for isa in _core.isas():
        matrix = _core.PackedMatrix(Type.F16, finite.view(np.uint8), len(finite), 1, isa)
        product = matrix.multiply(np.ones((1, 1), np.float32))[0]
        assert np.array_equal(product, finite.view(np.float16).astype(np.float32))


def test_packed_weights_take_the_files_bytes() -> None:
    for kind in TYPES:
        data = weights(kind, 48, 768)
        packed = pack(kind, data, 768, "").bytes
        assert data.size <= packed <= data.size * 1.011  # Q6_K pads 32 bytes to each 3360


def test_what_does_not_fit_is_refused() -> None:
    data = np.zeros(34, np.uint8)
    with pytest.raises(ValueError, match="weight type 9 is not supported"):
        _core.PackedMatrix(9, data, 1, 32)
    with pytest.raises(ValueError, match="33 columns are no multiple of the 32"):
        _core.PackedMatrix(Type.Q8_0, data, 1, 33)
    with pytest.raises(ValueError, match="has 68 bytes, not 34"):
        _core.PackedMatrix(Type.Q8_0, data, 2, 32)
    with pytest.raises(ValueError, match="at least one row"):
        _core.PackedMatrix(Type.Q8_0, data, 0, 32)
    with pytest.raises(ValueError, match="activations have 16 columns, the matrix has 32"):
        _core.PackedMatrix(Type.Q8_0, data, 1, 32).multiply(np.zeros((1, 16), np.float32))
    with pytest.raises(ValueError, match="do not hold"):
        _core.dequantize(Type.Q8_0, data, 2, 32)
