"""A peer: ai-dynamo's replay of a trace, timed. For the python of an environment that has it.

    pip install --no-deps ai-dynamo ai-dynamo-runtime
    pip install typing_extensions "pydantic<2.13.5" uvloop numpy tqdm pyyaml zstandard

(Its other dependencies want a GPU's driver, and replay does not need them.) Its own timing formulas, blocks
of 16 tokens, and the limits that benchmarks/simulate.py has; prints requests, and processor seconds at best.
"""

import sys
import time

from dynamo.replay.api import run_trace_replay

RUNS = 3


def main(path: str, speedup: str, blocks: str, prefixes: str) -> None:
    engine = {
        "num_gpu_blocks": int(blocks),
        "block_size": 16,
        "max_num_seqs": 1024,
        "max_num_batched_tokens": 8192,
        "enable_prefix_caching": prefixes == "prefixes",
    }
    best, requests = float("inf"), 0
    for _ in range(RUNS):
        began = time.process_time()
        report = run_trace_replay(
            path,
            trace_block_size=512,
            arrival_speedup_ratio=float(speedup),
            extra_engine_args={"engine": engine},
        )
        best = min(best, time.process_time() - began)
        requests = int(report.summary["completed_requests"])
    print(requests, best)


if __name__ == "__main__":
    main(*sys.argv[1:])
