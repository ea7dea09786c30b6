"""Seconds that a test can reckon with, engines made of them, and one loop that is as plain as can be."""

from collections.abc import Iterable, Mapping, Sequence

from membound.executors.predicted import Chunk, PredictedExecutor, Window
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.simulation.replica import Replica
from membound.workloads.arrivals import Arrival, Open


class Linear:
    """So many seconds for a step, each row of it, and each cached token that it sees."""

    def __init__(self, step_s: float, row_s: float = 0.0, cached_s: float = 0.0) -> None:
        self.step_s, self.row_s, self.cached_s = step_s, row_s, cached_s

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        rows = sequences + sum(tokens for tokens, _, _ in chunks)
        cached = context[None] + sum(cached for _, cached, _ in chunks)
        return self.step_s + self.row_s * rows + self.cached_s * cached

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        cached = context[None]
        for times in range(1, most + 1):
            now += self.seconds(sequences, {None: cached})
            cached += growth[None]
            if now >= until or times == most:
                return now, times
        raise AssertionError("a step runs at least once")


LINEAR = Linear(0.01, 1e-5, 1e-7)


def replica(
    cost: Linear = LINEAR, blocks: int = 2000, running: int = 64, budget: int = 512, drafts: int = 0
) -> Replica:
    scheduler = Scheduler(blocks, max_step_tokens=budget, max_running=running, drafts=drafts)
    return Replica(scheduler, PredictedExecutor(cost))


def made(arrivals: Iterable[Arrival], key_tokens: int = 16) -> Open:
    """A workload of these arrivals."""
    return Open(lambda: list(arrivals), key_tokens)


def request_of(arrival: Arrival) -> Request:
    return Request(
        arrival.time_s,
        max_tokens=arrival.output_tokens,
        arrival=arrival.time_s,
        prompt_length=arrival.prompt_tokens,
        keys=arrival.keys,
    )


def served_plainly(arrivals: Sequence[Arrival], engine: Replica) -> list[Request]:
    """One engine, a step at a time: who is there is added, a step runs, its results are taken in."""
    waiting = list(arrivals)
    now = 0.0
    ended: list[Request] = []
    while waiting or engine.scheduler.busy:
        while waiting and waiting[0].time_s <= now:
            arrival = waiting.pop(0)
            engine.add(request_of(arrival), arrival.output_tokens)
        step = engine.scheduler.schedule()
        if step is None:
            now = waiting[0].time_s
            continue
        step.repeat = 1
        outcome = engine.executor.execute(step, now, now)
        now = outcome.now
        ended += engine.scheduler.commit(outcome)
    return ended
