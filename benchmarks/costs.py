"""How quickly a step is costed: `python benchmarks/costs.py`.

Llama-3.1-70B on eight H100s, tensor parallel, with fitted efficiencies: one step at a time as the
simulator asks, a million at once, and `membound roofline` from a cold start.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from membound.costs.calibration import fitted
from membound.costs.parallel import layout
from membound.costs.precisions import precisions
from membound.costs.roofline import StepCost
from membound.hardware.lookup import find
from membound.models.names import dimensions_of

STEPS = 1_000_000


def main() -> None:
    model = dimensions_of("Llama-3.1-70B")
    start = time.perf_counter()
    cost = StepCost(model, find("8xh100-sxm"), precisions(model), layout(8), fitted())
    print(f"build: {(time.perf_counter() - start) * 1e3:.1f} ms")
    print(f"a decoding step with a chunk: {_one_step_us(cost):.1f} us (asked: under 50)")
    print(f"{STEPS:,} steps at once: {_many_steps_s(cost):.2f} s (asked: under 2)")
    print(f"membound roofline from cold: {_cold_s():.2f} s (asked: under 0.5)")
    print(f"  of which an empty Python with NumPy: {_cold_s('import numpy'):.2f} s")


def _one_step_us(cost: StepCost, times: int = 5000) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times // 5):
            cost.decode_seconds(64, {None: 256_000}, [(512, 100)])
        best = min(best, (time.perf_counter() - start) / (times // 5))
    return best * 1e6


def _many_steps_s(cost: StepCost) -> float:
    random = np.random.default_rng(0)
    sequences = random.integers(0, 256, STEPS).astype(np.float64)
    context = random.integers(0, 8000, STEPS).astype(np.float64)
    tokens = (random.integers(0, 2, STEPS) * 512).astype(np.float64)
    cached = random.integers(0, 1000, STEPS).astype(np.float64)
    start = time.perf_counter()
    cost.many_seconds(sequences, context, tokens, cached)
    return time.perf_counter() - start


def _cold_s(code: str | None = None) -> float:
    options = ["roofline", "meta-llama/Llama-3.1-70B", "--on", "h100-sxm", "--tp", "2", "--json"]
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "membound.cli", *options]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
