"""Two engines that share the machine, each with all cores' threads: token/s of both beside one alone.

python benchmarks/two_engines.py [--model smollm2] [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection

from peer_models import CATALOG, gguf

from membound import LLM, Sampling


def work(asked: Connection, path: str, threads: int) -> None:
    """Decodes one sequence after the other for as many seconds as it is asked, and answers with token/s."""
    llm = LLM(path, threads=threads)
    while True:
        end = (began := time.perf_counter()) + float(asked.recv())
        tokens = 0
        while time.perf_counter() < end:
            (completion,) = llm.generate(["The memory wall"], Sampling(max_tokens=64, ignore_eos=True))
            tokens += len(completion.token_ids)
        asked.send(tokens / (time.perf_counter() - began))


def rate(worker: Connection, seconds: float) -> float:
    worker.send(seconds)
    return float(worker.recv())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", choices=CATALOG)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    context, workers = get_context("spawn"), []
    for _ in range(2):
        here, there = context.Pipe()
        path = str(gguf(options.model, options.threads))
        context.Process(target=work, args=(there, path, options.threads), daemon=True).start()
        workers.append(here)
        rate(here, 0.5)
    alone, both = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(options.rounds):
            alone.append(rate(workers[0], options.seconds))
            both.append(sum(pool.map(lambda worker: rate(worker, options.seconds), workers)))
    shares = [two / one for one, two in zip(alone, both, strict=True)]
    print(f"alone {statistics.median(alone):.0f}, two together {statistics.median(both):.0f} token/s:")
    print(f"{statistics.median(shares):.2f} of one alone (rounds {min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    main()
