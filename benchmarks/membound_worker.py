"""membound, driven through its scheduler and native executor: the same commands as llama_worker.py.

Each answer to `prefill` and `decode` also holds `limit_s`, the least time that the machine's roofs, probed
right after at the same working set, allow for that work.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from membound.measuring.speed import SpeedTest


class Worker:
    """One loaded model."""

    def load(self, path: str, threads: int) -> dict[str, Any]:
        start = time.perf_counter()
        self.test = SpeedTest(Path(path), threads=threads)
        return {"load_s": time.perf_counter() - start, "version": version("membound")}

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        timing = self.test.prefill(tokens)
        return {"seconds": timing.seconds, "limit_s": timing.limit_s}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        timing = self.test.decode(prompts, steps)
        return {"seconds": timing.step_seconds, "limit_s": timing.limit_s / len(timing.step_seconds)}

    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        return {"nll": self.test.negative_log_likelihoods(tokens)}

    def peak(self) -> dict[str, Any]:
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    worker = Worker()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "load": worker.load,
        "prefill": worker.prefill,
        "decode": worker.decode,
        "logprobs": worker.logprobs,
        "memory": worker.peak,
    }
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(operations[command.pop("op")](**command)), flush=True)


if __name__ == "__main__":
    main()
