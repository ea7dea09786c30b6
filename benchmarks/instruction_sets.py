"""Whole steps of a model by this machine's instruction sets, in turns: token/s, and the ratio to the first.

python benchmarks/instruction_sets.py [--model smollm2] [--isas avx512,amx] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics

from peer_models import CATALOG, gguf
from peers import BATCHES, PREFILL, PROMPT, STEPS, ids
from workers import Worker

from membound import _core


def worker_of(isa: str, model: str, threads: int) -> Worker:
    os.environ["MEMBOUND_ISA"] = isa
    worker = Worker("membound", threads)
    worker.call("load", path=str(gguf(model, threads)), threads=threads)
    return worker


def step_seconds(worker: Worker, rows: int | None, turn: int) -> float:
    """A prompt's step if `rows` is None; otherwise the median step of so many sequences that decode."""
    if rows is None:
        return float(worker.call("prefill", tokens=ids(PREFILL, turn))["seconds"])
    prompts = [ids(PROMPT, turn * 100 + row) for row in range(rows)]
    return float(statistics.median(worker.call("decode", prompts=prompts, steps=STEPS)["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", choices=CATALOG)
    parser.add_argument("--isas", default=",".join(_core.isas()[-2:]), help="the strongest two")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    isas = options.isas.split(",")
    workers = {isa: worker_of(isa, options.model, options.threads) for isa in isas}
    for column, rows in {"prefill": None, **BATCHES}.items():
        seconds: dict[str, list[float]] = {isa: [] for isa in isas}
        for turn in range(options.rounds + 1):
            for isa, worker in workers.items():
                taken = step_seconds(worker, rows, turn)
                if turn:  # the first warms up
                    seconds[isa].append(taken)
        for isa in isas:
            ratio = statistics.median(
                first / own for first, own in zip(seconds[isas[0]], seconds[isa], strict=True)
            )
            rate = (rows or PREFILL) / statistics.median(seconds[isa])
            print(f"{column:8}{isa:10}{rate:9.0f} token/s {ratio:6.2f}", flush=True)
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
