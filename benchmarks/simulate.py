"""Simulated requests per second, on one core, with real costs and metrics: Llama-3.1-70B on four H100s.

    python benchmarks/simulate.py [--million]

In processor seconds, the best of several runs: neighbours disturb these less. Reading the trace, building
the requests and summing up are included. With --million, a stream of a million requests and the memory of
the process at its peak.
"""

import argparse
import resource
import time

from membound.costs.deployment import Deployment, deployment
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Workload, open_loop, scaled
from membound.workloads.lengths import LogNormal
from membound.workloads.traces import trace

RUNS = 5


def timed(name: str, of: Deployment, workload: Workload, runs: int = RUNS) -> None:
    best = float("inf")
    for _ in range(runs):
        began = time.process_time()
        found = simulate(of, workload)
        found.summaries()
        best = min(best, time.process_time() - began)
    print(
        f"{name}: {found.completed / best:,.0f} simulated requests/s,"
        f" {best / found.steps * 1e6:.1f} µs per step, {found.steps / found.completed:.1f} steps per request,"
        f" {found.preemptions} preemptions, {found.prefix_hit_rate:.0%} of prompt tokens found"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--million", action="store_true")
    million = parser.parse_args().million
    node = deployment("Llama-3.1-70B", "4xh100-sxm", tp=4)
    if million:
        timed("a million requests", node, open_loop(5, LogNormal(1155, 211), 1_000_000), runs=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"peak memory of the process: {peak / 1e6:.0f} MB")
        return
    for scale in (0.1, 1.0, 3.0):
        timed(f"azure-conv, {scale:g} times its rate", node, scaled(trace("azure-conv"), scale))
    for scale in (0.2, 1.0):
        timed(f"mooncake, {scale:g} times its rate", node, scaled(trace("mooncake"), scale))


if __name__ == "__main__":
    main()
