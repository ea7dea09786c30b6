"""Every engine timed beside the others on the same files and the same tokens, in turns.

    .venv/bin/python benchmarks/peers.py [--models NAME ...] [--peers NAME ...] [--columns NAME ...]

What comes out is kept by model and column; `speed_page.py` makes the page of it, so several short runs can
fill it. Engines run in processes and environments of their own; one that cannot be installed or refuses a
file is kept as such. Run it on a quiet machine: a busy neighbour takes from whichever engine has its turn.
"""

import argparse
import mmap
import os
import random
import statistics
import time
from typing import Any

import results
from explained import explain
from peer_models import MODELS, file_for
from peer_serving import serve_in_turn
from workers import RefusedError, Worker

PROMPT, PREFILL = 32, 512
BATCHES = {"b1": 1, "b8": 8, "b32": 32}
# Steps of which the median counts. Where the weights fit the cores' common cache, the first dozen after a
# pause read them from memory, and a stream goes on for far longer.
STEPS = {1: 96, 8: 48, 32: 24}
TIMED = ("prefill", *BATCHES)
COLUMNS = ("load", *TIMED, "memory", "serving", "explain")
SETTLE_S = 0.3  # threads that spin a while after their work leave the cores to the next engine
QUICK_LOAD_S = 3.0  # loads quicker than this are timed in every round

Answers = dict[str, dict[str, Any]]  # by engine


def ids(count: int, seed: int) -> list[int]:
    """Token ids that every vocabulary holds and none reserves."""
    return [random.Random(f"{seed}/{i}").randrange(1000, 20000) for i in range(count)]


def claim(size: int) -> None:
    """Take so many bytes of memory and give them back. What a virtual machine has had free for a while its
    host may have taken, and gives again a page at a time: seconds per gigabyte, whichever engine asks.
    """
    with mmap.mmap(-1, size) as memory:
        memory[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))


class Loaded:
    """The engines that loaded a model, and what those said that did not."""

    def __init__(self, model: str, engines: list[str], threads: int) -> None:
        self.model, self.threads = model, threads
        self.workers: dict[str, Worker] = {}
        self.loads: Answers = {}
        for engine in engines:
            self.start(engine)

    def start(self, engine: str) -> None:
        try:
            self.workers[engine] = worker = Worker(engine, self.threads)
            answer = self.load(worker)
        except RefusedError as refusal:
            self.refuse(engine, refusal)
            return
        self.loads[engine] = {"version": answer["version"], "seconds": [answer["load_s"]]}

    def load(self, worker: Worker) -> dict[str, Any]:
        path = file_for(worker.engine, self.model, self.threads)
        claim(2 * sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path])))
        return worker.call("load", path=str(path), threads=self.threads)

    def refuse(self, engine: str, refusal: RefusedError) -> None:
        self.loads[engine] = {"refused": str(refusal)}
        worker = self.workers.pop(engine, None)
        if worker is not None:
            worker.close()
        print(f"  {engine}: {refusal}", flush=True)

    def refused(self) -> Answers:
        return {engine: load for engine, load in self.loads.items() if "refused" in load}

    def in_turn(self, op: str, **arguments: Any) -> Answers:
        """One call of each engine, one after the other."""
        answers = {}
        for engine, worker in list(self.workers.items()):
            time.sleep(SETTLE_S)
            try:
                answers[engine] = worker.call(op, **arguments)
            except RefusedError as refusal:
                self.refuse(engine, refusal)
        return answers

    def reload(self, rounds: int) -> None:
        """Load again in a new process what loads quickly; the file is in the page cache."""
        for _ in range(rounds - 1):
            for engine in list(self.workers):
                seconds = self.loads[engine]["seconds"]
                if seconds[0] < QUICK_LOAD_S:
                    worker = Worker(engine, self.threads)
                    seconds.append(self.load(worker)["load_s"])
                    worker.close()

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def time_column(loaded: Loaded, column: str, rounds: int) -> Answers:
    """Seconds of a step in each round, after one that warms up; ours also with the roofs beside it."""
    kept: Answers = {engine: {"version": loaded.loads[engine]["version"]} for engine in loaded.workers}
    for turn in range(rounds + 1):
        if column == "prefill":
            answers = loaded.in_turn("prefill", tokens=ids(PREFILL, turn))
        else:
            rows = BATCHES[column]
            prompts = [ids(PROMPT, turn * 100 + row) for row in range(rows)]
            answers = loaded.in_turn("decode", prompts=prompts, steps=STEPS[rows])
        for engine, answer in answers.items():
            if column != "prefill":
                answer["steps"] = len(answer["seconds"])
                answer["seconds"] = statistics.median(answer["seconds"])
            for name, value in answer.items():
                if turn:
                    kept[engine].setdefault(name, []).append(value)
    return {engine: kept[engine] for engine in loaded.workers} | loaded.refused()


def measure(model: str, engines: list[str], wanted: list[str], rounds: int, threads: int) -> None:
    def keep(column: str, answers: Answers) -> None:
        results.keep(model, column, answers, threads, rounds)
        print(f"  {column} kept", flush=True)

    print(model, flush=True)
    if set(wanted) & {"load", "memory", *TIMED}:
        loaded = Loaded(model, engines, threads)
        for column in [column for column in TIMED if column in wanted]:
            keep(column, time_column(loaded, column, rounds))
        if "memory" in wanted:
            keep("memory", loaded.in_turn("memory") | loaded.refused())
        if "load" in wanted:
            loaded.reload(rounds)
            keep("load", loaded.loads)
        loaded.close()
    if "serving" in wanted:
        keep("serving", serve_in_turn(model, engines, rounds, threads))
    if "explain" in wanted and "membound" in engines:
        keep("explain", explain(model, threads))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--peers", nargs="+", default=results.ENGINES, choices=results.ENGINES)
    parser.add_argument("--columns", nargs="+", default=COLUMNS, choices=COLUMNS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    wanted = parser.parse_args()
    for model in wanted.models:
        measure(model, list(wanted.peers), list(wanted.columns), wanted.rounds, wanted.threads)


if __name__ == "__main__":
    main()
