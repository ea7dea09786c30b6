"""membound, driven through its scheduler and native executor: the same commands as llama_worker.py.

Each answer to `prefill` and `decode` also says what a step did and where it stands: `placed`.
"""

import gc
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker_loop import peak, serve

from membound.executors.native import FEW_SEQUENCES, default_isa
from membound.measuring.speed import SpeedTest, Timing

ROWS = 32


class Worker:
    """One loaded model, with the kernels that `run` or `serve` would choose for what is timed."""

    test: SpeedTest | None = None
    row_tokens = 128  # that each sequence has room for

    def load(self, path: str, threads: int) -> dict[str, Any]:
        self.path, self.threads = Path(path), threads
        start = time.perf_counter()
        self._engine(ROWS)
        return {"load_s": time.perf_counter() - start, "version": version("membound")}

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        timing = self._engine(ROWS).prefill(tokens)
        return {"seconds": timing.seconds, **placed(timing)}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        timing = self._engine(len(prompts), max(map(len, prompts)) + steps).decode(prompts, steps)
        return {"seconds": timing.step_seconds, **placed(timing)}

    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        return {"nll": self._engine(ROWS).negative_log_likelihoods(tokens)}

    def _engine(self, rows: int, row_tokens: int = 0) -> SpeedTest:
        """For so many sequences of so many tokens; loaded anew where the one at hand has less room, or other
        kernels.
        """
        rows = FEW_SEQUENCES if rows <= FEW_SEQUENCES else max(rows, ROWS)
        if (
            self.test is None
            or self.row_tokens < row_tokens
            or self.test.engine.scheduler.max_running < rows
            or self.test.isa != default_isa(self.test.weights, rows)
        ):
            self.test = None
            gc.collect()  # an engine is a cycle
            self.row_tokens = max(self.row_tokens, row_tokens)
            self.test = SpeedTest(self.path, threads=self.threads, rows=rows, row_tokens=self.row_tokens)
        return self.test


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
