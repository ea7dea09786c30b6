"""Simulated requests per second, on one core, with real costs and metrics: Llama-3.1-70B on four H100s.

    python benchmarks/simulate.py [--plain] [--million] [--peer PYTHON]

In processor seconds, the best of several runs: neighbours disturb these less. Reading the trace, building
the requests and summing up are included. With --plain, what is compiled beside its sources, run in turns.
With --million, a stream of a million requests and the memory of the process at its peak. With --peer,
ai-dynamo's replay of the same traces by that python (see dynamo_worker.py).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from membound.costs.deployment import Deployment, deployment
from membound.serving import scheduler
from membound.simulation.result import SimulationResult
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Workload, open_loop, scaled
from membound.workloads.lengths import LogNormal
from membound.workloads.traces import trace

RUNS = 9
TURNS, RUNS_A_TURN = 3, 3
PLAYED = (("azure-conv", 0.1), ("azure-conv", 1.0), ("azure-conv", 3.0), ("mooncake", 0.2), ("mooncake", 1.0))
RUN_TOKENS = 512  # that one of the hash ids of a trace for the peer stands for
FRESH = 10**9  # ids from here on are in no trace


def best_of(runs: int, of: Deployment, workload: Workload) -> tuple[float, SimulationResult]:
    """Seconds of the quickest run."""
    best = float("inf")
    for _ in range(runs):
        began = time.process_time()
        found = simulate(of, workload)
        found.summaries()
        best = min(best, time.process_time() - began)
    return best, found


def timed(name: str, of: Deployment, workload: Workload, runs: int = RUNS) -> SimulationResult:
    best, found = best_of(runs, of, workload)
    print(
        f"{name}: {found.completed / best:,.0f} simulated requests/s,"
        f" {best / found.steps * 1e6:.1f} µs per step, {found.steps / found.completed:.1f} steps per request,"
        f" {found.preemptions} preemptions, {found.prefix_hit_rate:.0%} of prompt tokens found"
    )
    return found


def turn() -> None:
    """Requests per second of each trace, as JSON: what a process of its own says to `beside_plain`."""
    node = the_node()
    rates = []
    for name, scale in PLAYED:
        best, found = best_of(RUNS_A_TURN, node, scaled(trace(name), scale))
        rates.append(found.completed / best)
    print(json.dumps([scheduler.__file__, rates]))


def beside_plain() -> None:
    """The compiled modules and their sources, in turns."""
    best: dict[str, list[float]] = {}
    for plain in ["", "1"] * TURNS:
        said = subprocess.run(
            [sys.executable, __file__, "--turn"],
            env={**os.environ, "MEMBOUND_PLAIN": plain},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        file, rates = json.loads(said)
        kind = "sources" if file.endswith(".py") else "compiled"
        best[kind] = [max(pair) for pair in zip(rates, best.get(kind, rates), strict=True)]
    if "compiled" not in best:
        sys.exit("nothing is compiled, or sources were edited since: build again")
    for (name, scale), quick, slow in zip(PLAYED, best["compiled"], best["sources"], strict=True):
        print(
            f"{name}, {scale:g} times its rate: {quick:,.0f} simulated requests/s compiled,"
            f" {slow:,.0f} from sources, {quick / slow:.2f} times as many"
        )


def the_node() -> Deployment:
    return deployment("Llama-3.1-70B", "4xh100-sxm", tp=4)


def peer(python: str, name: str, scale: float, kv_tokens: int) -> None:
    """The same trace in the form of Mooncake's; prompts without keys get ids of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path, fresh = Path(folder) / "trace.jsonl", 0
        shared = False
        with path.open("w") as file:
            for arrival in trace(name).begin():
                runs = -(-arrival.prompt_tokens // RUN_TOKENS)
                shared = shared or bool(arrival.keys)
                ids = [*arrival.keys, *(FRESH + fresh + n for n in range(runs - len(arrival.keys)))]
                fresh += runs
                row = {
                    "timestamp": arrival.time_s * 1e3,
                    "input_length": arrival.prompt_tokens,
                    "output_length": arrival.output_tokens,
                    "hash_ids": ids,
                }
                file.write(json.dumps(row) + "\n")
        worker = Path(__file__).with_name("dynamo_worker.py")
        said = subprocess.run(
            [python, worker, path, str(scale), str(kv_tokens // 16), "prefixes" if shared else "alone"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    requests, seconds = int(said[-2]), float(said[-1])
    print(f"  ai-dynamo's replay: {requests / seconds:,.0f} simulated requests/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON")
    asked = parser.parse_args()
    if asked.turn:
        turn()
        return
    if asked.plain:
        beside_plain()
        return
    node = the_node()
    if asked.million:
        timed("a million requests", node, open_loop(5, LogNormal(1155, 211), 1_000_000), runs=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"peak memory of the process: {peak / 1e6:.0f} MB")
        return
    for name, scale in PLAYED:
        found = timed(f"{name}, {scale:g} times its rate", node, scaled(trace(name), scale))
        if asked.peer:
            peer(asked.peer, name, scale, found.kv_tokens)


if __name__ == "__main__":
    main()
