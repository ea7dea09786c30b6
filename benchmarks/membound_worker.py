"""membound, driven through its scheduler and native executor: the same commands as llama_worker.py.

Each answer to `prefill` and `decode` also says what a step did and where it stands: `placed`.
"""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker_loop import peak, serve

from membound.measuring.speed import SpeedTest, Timing


class Worker:
    """One loaded model."""

    def load(self, path: str, threads: int) -> dict[str, Any]:
        start = time.perf_counter()
        self.test = SpeedTest(Path(path), threads=threads)
        return {"load_s": time.perf_counter() - start, "version": version("membound")}

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        timing = self.test.prefill(tokens)
        return {"seconds": timing.seconds, **placed(timing)}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        timing = self.test.decode(prompts, steps)
        return {"seconds": timing.step_seconds, **placed(timing)}

    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        return {"nll": self.test.negative_log_likelihoods(tokens)}


def placed(timing: Timing) -> dict[str, float]:
    """Of one step: what it did and the least time for that, by the roofs probed right after."""
    steps = len(timing.step_seconds)
    return {
        "limit_s": timing.limit_s / steps,
        "flops": timing.placed.work.flops / steps,
        "bytes": timing.placed.work.bytes / steps,
        "weight_bytes": timing.placed.work.weight_bytes / steps,
        "bandwidth_bytes_per_s": timing.roof.bandwidth_bytes_per_s,
        "flops_per_s": timing.roof.flops_per_s,
    }


def main() -> None:
    worker = Worker()
    serve(
        {
            "load": worker.load,
            "prefill": worker.prefill,
            "decode": worker.decode,
            "logprobs": worker.logprobs,
            "memory": peak,
        }
    )


if __name__ == "__main__":
    main()
