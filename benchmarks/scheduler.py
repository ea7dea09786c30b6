"""How fast the scheduler and the engine are by themselves, on one core, without any kernels.

    python benchmarks/scheduler.py [--requests 100000]

The load resembles the Azure conversation trace: prompts of 1155 tokens and outputs of 211 in the mean,
log-normal, arriving as a Poisson process. Simulations are timed in processor seconds, so that neighbours
disturb them less; the stand-in for an executor and the making of requests are included.
"""

import argparse
import random
import time
from heapq import heappop, heappush

from membound.serving.clock import Wall
from membound.serving.engine import Engine
from membound.serving.request import Request
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step


class LinearTime:
    """A stand-in for a predicted executor: seconds from sums over the step, ends from hidden lengths."""

    def __init__(self, outputs: list[int]) -> None:
        self.outputs = outputs
        self.steps = 0
        self.ends: list[tuple[int, int, Request]] = []
        self.end_of: dict[Request, int] = {}

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        for request in step.preempted:
            self.end_of.pop(request, None)
        ended = []
        seconds = 0.03 + 5e-8 * step.context[None] + 2e-5 * step.decodes
        if step.chunks:
            for request, count in step.chunks:
                seconds += 4e-5 * count
                if request.computed + count == request.length:
                    left = self.outputs[int(str(request.id))] - request.output_length
                    if left == 1:
                        ended.append(request)
                    else:
                        end = self.steps + left
                        self.end_of[request] = end
                        heappush(self.ends, (end, request.order, request))
        times = 0
        while True:
            times += 1
            self.steps += 1
            now += seconds + times * 5e-8 * step.growth[None]
            while self.ends and self.ends[0][0] <= self.steps:
                end, _, request = heappop(self.ends)
                if self.end_of.get(request) == end:
                    del self.end_of[request]
                    ended.append(request)
            if ended or times == step.repeat or now >= until:
                return Outcome(now, times, ended=ended)


def simulate(requests: int, rate: float, blocks: int, *, shared: bool = False) -> None:
    rng = random.Random(1)
    arrivals, now = [], 0.0
    for _ in range(requests):
        now += rng.expovariate(rate)
        arrivals.append(now)
    prompts = [max(1, min(8000, int(rng.lognormvariate(6.55, 1.0)))) for _ in range(requests)]
    outputs = [max(1, min(2000, int(rng.lognormvariate(4.9, 0.95)))) for _ in range(requests)]
    scheduler = Scheduler(blocks, max_step_tokens=2048, max_running=256)
    executor = LinearTime(outputs)
    keys = [[(f, i) for i in range(32)] for f in range(20)] if shared else [[]]

    began = time.process_time()
    now, steps, following, done = 0.0, 0, 0, 0
    while done < requests:
        while following < requests and arrivals[following] <= now:
            n = following
            following += 1
            scheduler.add(
                Request(
                    n,
                    prompt_length=prompts[n],
                    max_tokens=2000,
                    arrival=arrivals[n],
                    keys=keys[n % len(keys)][: prompts[n] // 16],
                )
            )
        step = scheduler.schedule()
        until = arrivals[following] if following < requests else float("inf")
        if step is None:
            now = until
            continue
        outcome = executor.execute(step, now, until)
        now = outcome.now
        done += len(scheduler.commit(outcome))
        steps += 1
    seconds = time.process_time() - began
    print(
        f"{'shared prefixes' if shared else 'private prompts'}, {rate:g} requests/s, {blocks} blocks:"
        f" {requests / seconds:,.0f} simulated requests/s, {seconds / steps * 1e6:.1f} µs per step,"
        f" {scheduler.preemptions} preemptions,"
        f" {scheduler.hit_tokens / scheduler.prompt_tokens:.0%} of prompt tokens found"
    )


class Null:
    """Says at once that every request sampled token 7."""

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        tokens = {request: [7] for request in step.decoding()}
        for request, count in step.chunks:
            if request.computed + count == request.length:
                tokens[request] = [7]
        return Outcome(now, tokens=tokens)


def engine_overhead(batch: int, steps: int = 1000) -> None:
    """Schedule, executor's bookkeeping above, ends, events, log and commit: the least and the median."""
    engine = Engine(Scheduler(batch * (steps // 16 + 8), max_running=max(batch, 1)), Null(), Wall())
    sampling = Sampling(max_tokens=steps, ignore_eos=True)
    for index in range(batch):
        engine.add([index] * 32, sampling)
    seconds = []
    while engine.busy:
        began = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    print(
        f"engine at batch {batch}: {seconds[len(seconds) // 20] * 1e6:.0f} µs per step in the best twentieth,"
        f" {seconds[len(seconds) // 2] * 1e6:.0f} µs in the median"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=50_000)
    requests = parser.parse_args().requests
    engine_overhead(1)
    engine_overhead(32)
    simulate(requests, 10.0, 30_000)
    simulate(requests, 14.0, 9_000)
    simulate(requests // 10, 1.0, 30_000)
    simulate(requests, 10.0, 30_000, shared=True)


if __name__ == "__main__":
    main()
