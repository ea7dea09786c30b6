"""What a step costs beside its matrix products: attention against this machine's roofs, and the small parts.

A model of random weights with the heads and layers of a real one, but with matrices as small as can be, so
that steps are mostly attention. Times are a thread's mean, by phase, as `membound speed --explain` has them;
roofs are probed beside each row: reading for the bytes of keys and values, fp32 for the multiplications.

    python benchmarks/attention.py [--heads 14 --kv-heads 2 --layers 24] [--threads 1] [--isa avx2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from gguf import GGMLQuantizationType as Type

from membound import _core

SMALL = 32  # hidden elements, feed-forward width and vocabulary
# (sequences, new tokens of each, tokens that each has cached)
STEPS = [
    (1, 512, 0), (1, 512, 512), (1, 512, 3584),
    (1, 1, 64), (1, 1, 512), (1, 1, 4096),
    (8, 1, 64), (8, 1, 512), (8, 1, 4096),
    (32, 1, 64), (32, 1, 512),
]  # fmt: skip


def small_model(options: argparse.Namespace) -> _core.ModelSpec:
    random = np.random.default_rng(0)
    heads, keys = options.heads * options.head_dim, options.kv_heads * options.head_dim

    def matrix(rows: int, cols: int) -> _core.MatrixSpec:
        weights = random.standard_normal((rows, cols), np.float32) / np.float32(cols**0.5)
        return int(Type.F32), rows, cols, weights.reshape(-1).view(np.uint8)

    layer: _core.LayerSpec = {
        "heads": options.heads,
        "kv_heads": options.kv_heads,
        "head_dim": options.head_dim,
        "window": options.window,
        "scale": options.head_dim**-0.5,
        "rope_adjacent": False,
        "rope_amplitude": 1.0,
        "rope_frequencies": np.full(options.head_dim // 2, 0.01, np.float32),
        "activation": "silu",
        "matrices": {
            "attn_q": matrix(heads, SMALL),
            "attn_k": matrix(keys, SMALL),
            "attn_v": matrix(keys, SMALL),
            "attn_output": matrix(SMALL, heads),
            "ffn_gate": matrix(SMALL, SMALL),
            "ffn_up": matrix(SMALL, SMALL),
            "ffn_down": matrix(SMALL, SMALL),
        },
        "vectors": {name: np.ones(SMALL, np.float32) for name in ("attn_norm", "ffn_norm")},
        "biases": {},
    }
    return {
        "hidden": SMALL,
        "vocab": SMALL,
        "norm_eps": 1e-5,
        "embedding_scale": 1.0,
        "embedding": matrix(SMALL, SMALL),
        "head": matrix(SMALL, SMALL),
        "output_norm": np.ones(SMALL, np.float32),
        "layers": [layer] * options.layers,
    }


class Timed:
    """A step's seconds and, by phase, a thread's mean of them."""

    def __init__(
        self, model: _core.Model, sequences: int, new: int, cached: int, budget: float, seed: int = 0
    ) -> None:
        width = -(-(cached + new) // 16)
        blocks = np.random.default_rng(seed).permutation(model.blocks)[: sequences * width]
        arguments = (
            [1] * sequences * new,
            list(range(0, sequences * new + 1, new)),
            [cached] * sequences,
            list(range(sequences)),
            blocks.astype(np.int32).reshape(sequences, width),
            list(range(new - 1, sequences * new, new)),
        )
        model.step(*arguments)  # touches memory
        best = float("inf")
        end = time.perf_counter() + budget
        while best == float("inf") or time.perf_counter() < end:
            model.explain(True)
            began = time.perf_counter()
            model.step(*arguments)
            seconds = time.perf_counter() - began
            if seconds < best:
                best = seconds
                self.phases = {
                    name: sum(threads) / len(threads) for name, threads in model.phase_seconds().items()
                }
        self.seconds = best


def rows(options: argparse.Namespace) -> Iterator[str]:
    steps = [step for step in STEPS if step[2] <= options.context]
    blocks = max(sequences * -(-(new + cached) // 16) for sequences, new, cached in steps)
    model = _core.Model(small_model(options), blocks, options.kv, threads=options.threads, isa=options.isa)
    element = 4 if options.kv == "f32" else 2
    yield (
        f"{'step':>22}{'ms':>9}{'attention':>11}{'GFLOP/s':>9}{'of peak':>9}{'KV GB/s':>9}{'of roof':>9}"
        f"{'rotation':>10}"
    )
    for sequences, new, cached in steps:
        timed = Timed(model, sequences, new, cached, options.seconds)
        attention = timed.phases["attention"]
        seen = range(cached + 1, cached + new + 1)
        pairs = sequences * sum(min(keys, options.window or keys) for keys in seen)
        operations = pairs * 4 * options.heads * options.head_dim * options.layers
        keys = sequences * min(cached + new, (options.window or cached + new) + new - 1)
        read = keys * 2 * options.kv_heads * options.head_dim * element * options.layers
        roof = _core.probe_read(max(read, 1 << 20), threads=options.threads, seconds=0.1)
        peak = _core.probe_flops("fp32", threads=options.threads, seconds=0.05)
        assert peak
        yield (
            f"{sequences:4} × {new:3} after {cached:5}{timed.seconds * 1e3:9.3f}{attention * 1e3:11.3f}"
            f"{operations / attention / 1e9:9.0f}{operations / attention / peak:9.2f}"
            f"{read / attention / 1e9:9.1f}{read / attention / roof:9.2f}"
            f"{timed.phases['rotation'] * 1e3:10.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--window", type=int, default=0, help="keys that a query sees; 0 sees all")
    parser.add_argument("--kv", choices=["bf16", "f16", "f32"], default="f16")
    parser.add_argument("--context", type=int, default=4096, help="leave out steps with more cached tokens")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--isa", default="")
    parser.add_argument("--seconds", type=float, default=0.4, help="per row")
    for row in rows(parser.parse_args()):
        print(row, flush=True)


if __name__ == "__main__":
    main()
