"""How near the matrix kernels come to this machine's roofs, on one thread.

For each weight type and number of rows: GB/s of packed weights read, GOP/s (a multiply and an add are two),
and the share of the nearer roof, measured beside it: the read bandwidth at this working set and the int8
(BF16: bf16, where there is such a rate; other float types: fp32) multiply rate, of tile registers where the
machine has them.

    python benchmarks/kernels.py [--types Q4_1,Q8_0] [--rows 1,8,512] [--matrix 49152x576] [--isa avx2]
"""

from __future__ import annotations

import argparse

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from membound import _core

TYPES = "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q4_K,Q5_K,Q6_K,F16,BF16,F32"
ROWS = "1,2,4,8,16,32,128,512"
WORKING_SET = 192 << 20


def random_matrix(kind: Type, rows: int, cols: int) -> np.ndarray:
    """Bytes of a random matrix; the halves that are scales could be anything, which costs no time."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == Type.BF16:  # as they are in models: the bits below would be of numbers next to zero
        values = np.random.default_rng(0).standard_normal(rows * cols, np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    data = np.random.default_rng(0).integers(0, 256, (rows * cols // block, size), np.uint8)
    return data.reshape(-1) & np.uint8(0x3B)  # no number that is infinite, none, or subnormal times another


def seconds(matrix: _core.PackedMatrix, x: np.ndarray, budget: float) -> float:
    """Time of one product: the least of several."""
    once = matrix.seconds(x)
    rounds = max(1, int(budget / 4 / once))
    return min(matrix.seconds(x, rounds) / rounds for _ in range(4))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument(
        "--matrix", help="ROWSxCOLS; otherwise 1536 columns and as many rows as pass the caches"
    )
    parser.add_argument("--isa", default="")
    parser.add_argument("--seconds", type=float, default=0.4, help="per figure")
    options = parser.parse_args()

    print(f"{'type':6}{'m':>5}{'GB/s':>9}{'GOP/s':>9}{'read roof':>11}{'peak':>8}{'share':>8}")
    for name in options.types.split(","):
        kind = Type[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, cols = WORKING_SET * block // (1536 * size) // 16 * 16, 1536
        if options.matrix:
            rows, cols = map(int, options.matrix.split("x"))
        matrix = _core.PackedMatrix(kind, random_matrix(kind, rows, cols), rows, cols, options.isa)
        few = _core.PackedMatrix(kind, random_matrix(kind, 1536, cols), 1536, cols, options.isa)
        for m in map(int, options.rows.split(",")):
            x = np.random.default_rng(1).standard_normal((m, cols)).astype(np.float32)
            # From 64 rows on, a matrix that fits the caches says the same in less time.
            product, height = (few, 1536) if m >= 64 and not options.matrix else (matrix, rows)
            time = seconds(product, x, options.seconds)
            read = _core.probe_read(max(product.bytes, 1 << 20), threads=1, seconds=0.1)
            precision = {"F32": "fp32", "F16": "fp32", "BF16": "bf16"}.get(name, "int8")
            peak = _core.probe_flops(precision, threads=1, seconds=0.05)
            peak = peak or _core.probe_flops("fp32", threads=1, seconds=0.05)
            rate, operations = product.bytes / time, 2 * m * height * cols / time
            share = max(rate / read, operations / peak if peak else 0.0)
            print(
                f"{name:6}{m:5}{rate / 1e9:9.2f}{operations / 1e9:9.1f}{read / 1e9:11.2f}"
                f"{(peak or 0) / 1e9:8.0f}{share:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
