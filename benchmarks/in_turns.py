"""Whole steps of a model by instruction sets or by builds of membound, in turns: token/s, ratio to the first.

python benchmarks/in_turns.py [--model smollm2] [--isas avx512,amx] [--builds OLD/.venv/bin/python,…]

Builds are interpreters of other checkouts, each after its `make build`; they come before this one, with one
instruction set.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from pathlib import Path

from peer_models import CATALOG, gguf
from peers import BATCHES, PREFILL, PROMPT, STEPS, ids
from workers import Worker

from membound import _core


def worker_of(python: Path, isa: str, model: str, threads: int) -> Worker:
    os.environ["MEMBOUND_ISA"] = isa
    worker = Worker("membound", threads, python)
    worker.call("load", path=str(gguf(model, threads)), threads=threads)
    return worker


def step_seconds(worker: Worker, rows: int | None, turn: int, prompt: int) -> float:
    """A prompt's step if `rows` is None; otherwise the median step of so many sequences that decode, after
    prompts of `prompt` tokens.
    """
    if rows is None:
        return float(worker.call("prefill", tokens=ids(PREFILL, turn))["seconds"])
    prompts = [ids(prompt, turn * 100 + row) for row in range(rows)]
    steps = STEPS.get(rows, min(STEPS.values()))
    return float(statistics.median(worker.call("decode", prompts=prompts, steps=steps)["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", choices=CATALOG)
    parser.add_argument("--isas", help="by default the strongest two, or with builds the strongest")
    parser.add_argument("--builds", default="")
    parser.add_argument(
        "--columns", default=",".join(("prefill", *BATCHES)), help="b with any number of sequences"
    )
    parser.add_argument(
        "--prompt", type=int, default=PROMPT, help="tokens of the prompts after which sequences decode"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    columns = options.columns.split(",")
    for column in columns:
        if not re.fullmatch(r"prefill|b[1-9]\d*", column):
            parser.error(f"no column '{column}': prefill, or b with a number of sequences, such as b24")
    if options.prompt < 1:
        parser.error(f"--prompt {options.prompt}: a prompt has at least one token")

    builds = [*map(Path, filter(None, options.builds.split(","))), Path(sys.executable)]
    isas = options.isas.split(",") if options.isas else _core.isas()[-1 if len(builds) > 1 else -2 :]
    sides = [(python, isa) for python in builds for isa in isas]
    workers = [worker_of(python, isa, options.model, options.threads) for python, isa in sides]
    for column in columns:
        rows = None if column == "prefill" else int(column.removeprefix("b"))
        seconds: list[list[float]] = [[] for _ in workers]
        for turn in range(options.rounds + 1):
            for own, worker in zip(seconds, workers, strict=True):
                taken = step_seconds(worker, rows, turn, options.prompt)
                if turn:  # the first warms up
                    own.append(taken)
        for (python, isa), own in zip(sides, seconds, strict=True):
            ratio = statistics.median(first / mine for first, mine in zip(seconds[0], own, strict=True))
            rate = (rows or PREFILL) / statistics.median(own)
            print(f"{column:8}{isa:10}{rate:9.0f} token/s {ratio:6.2f}  {python}", flush=True)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
