"""The scheduler that visits what changes decides, step by step, what the one that visits all decides."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.serving.request import Request, State
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step
from tests.serving.oracle_scheduler import OracleRequest, OracleScheduler, OracleStep

BLOCK = 4


@dataclass
class Arrival:
    at: int  # in steps
    prompt: int
    output: int
    family: int | None  # requests of a family share their prefix; None shares nothing
    abort_after: int | None  # in steps after arrival


@dataclass
class Workload:
    arrivals: list[Arrival]
    blocks: int
    budget: int
    max_running: int
    windows: list[int]
    repeats: list[int] = field(default_factory=lambda: [1])  # how much of a permission is used, in turn
    abort_in_step: bool = False


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    max_running = draw(st.integers(1, 8))
    arrival = st.builds(
        Arrival,
        at=st.integers(0, 60),
        prompt=st.integers(1, 40),
        output=st.integers(1, 40),
        family=st.none() | st.integers(0, 2),
        abort_after=st.none() | st.none() | st.integers(0, 30),
    )
    return Workload(
        arrivals=sorted(draw(st.lists(arrival, min_size=1, max_size=16)), key=lambda arrival: arrival.at),
        blocks=draw(st.integers(20, 60)),
        budget=draw(st.integers(max_running, max_running + 40)),
        max_running=max_running,
        windows=draw(st.sampled_from([[], [3], [7, 20]])),
        repeats=draw(st.lists(st.integers(1, 100), min_size=1, max_size=4)),
        abort_in_step=draw(st.booleans()),
    )


class Kind(Protocol):
    def request(self, index: int, arrival: Arrival) -> Request: ...


class WithTokens:
    """Real ids: a family repeats one text, so that prompts and even outputs may agree by block."""

    def request(self, index: int, arrival: Arrival) -> Request:
        token = 1000 + index if arrival.family is None else arrival.family
        return Request(index, [token] * arrival.prompt, max_tokens=arrival.output)


class WithKeys:
    """Virtual time: lengths, and keys for the part of the prompt that a family shares."""

    def request(self, index: int, arrival: Arrival) -> Request:
        keys = [] if arrival.family is None else [(arrival.family, i) for i in range(arrival.prompt // BLOCK)]
        return Request(index, prompt_length=arrival.prompt, keys=keys, max_tokens=arrival.output)


def describe(step: Step, scheduler: Scheduler, hits: list[int]) -> OracleStep:
    pool = scheduler.pool
    return OracleStep(
        [(request.id, count) for request, count in step.chunks],
        [request.id for request in step.decoding()],
        [request.id for request in step.preempted],
        hits,
        {request.id: list(request.blocks) for request in step.running},
        pool.free_order(),
    )


def replay(workload: Workload, kind: Kind, *, skip: bool) -> None:
    scheduler = Scheduler(
        workload.blocks,
        max_step_tokens=workload.budget,
        max_running=workload.max_running,
        windows=workload.windows,
        block_tokens=BLOCK,
    )
    oracle = OracleScheduler(workload.blocks, workload.budget, workload.max_running, BLOCK)
    pairs: list[tuple[Request, OracleRequest, Arrival]] = []
    pending = list(enumerate(workload.arrivals))
    steps = turn = 0
    while pending or scheduler.busy:
        while pending and pending[0][1].at <= steps:
            index, arrival = pending.pop(0)
            fast = kind.request(index, arrival)
            plain = OracleRequest(index, arrival.prompt, partial(fast.key, block_tokens=BLOCK))
            scheduler.add(fast)
            oracle.add(plain)
            pairs.append((fast, plain, arrival))
        if not workload.abort_in_step:
            abort(pairs, steps, scheduler, oracle)
        known = {request.id: request.computed for request in scheduler.waiting}
        step = scheduler.schedule()
        expected = oracle.schedule()
        scheduler.check()
        if step is None or expected is None:
            assert step is None
            assert expected is None
            steps += 1
            continue
        joined = [request for request, _ in step.chunks if request.id in known]
        assert describe(step, scheduler, [request.computed // BLOCK for request in joined]) == expected
        for window, total in step.context.items():
            cached = [request.computed for request in step.decoding()]
            assert total == sum(c if window is None else min(c, window) for c in cached)
        # Steps are repeated without looking: nobody leaves while they are, waiting or running.
        leaving = any(due(a, steps) and fast.state is not State.ENDED for fast, _, a in pairs)
        if workload.abort_in_step:
            abort(pairs, steps, scheduler, oracle)

        outputs = {request: pairs[int(str(request.id))][2].output for request in step.running}
        left = {request: output - request.output_length for request, output in outputs.items()}
        sampling = [*step.decoding(), *(r for r, count in step.chunks if r.computed + count == r.length)]
        times = 1
        if skip and not leaving:
            events = [arrival.at for _, arrival in pending]
            events += [a.at + a.abort_after for a in workload.arrivals if a.abort_after is not None]
            until = min((at - steps for at in events if at > steps), default=step.repeat)
            wished = workload.repeats[turn % len(workload.repeats)]
            times = min([step.repeat, wished, until, *(left[request] for request in sampling)])
            turn += 1
        for repetition in range(1, times):
            oracle.commit(())
            quiet = oracle.schedule()
            assert quiet is not None
            assert not quiet.preempted
            assert not quiet.chunks
            assert quiet.decoding == expected.decoding
            for window, total in step.context.items():
                cached = [o.computed for _, o, _ in pairs if o in oracle.running]
                now = sum(c if window is None else min(c, window) for c in cached)
                assert total + repetition * step.growth[window] == now
        ended = [request for request in reversed(sampling) if left[request] == times]
        tokens = {r: [7] * times for r in sampling if r.tokens}
        gone: list[Hashable] = [r.id for r in scheduler.commit(Outcome(float(steps), times, tokens, ended))]
        assert gone == oracle.commit([request.id for request in ended])
        scheduler.check()
        steps += times
    assert scheduler.pool.free == workload.blocks


def due(arrival: Arrival, steps: int) -> bool:
    return arrival.abort_after is not None and arrival.at + arrival.abort_after <= steps


def abort(
    pairs: list[tuple[Request, OracleRequest, Arrival]],
    steps: int,
    scheduler: Scheduler,
    oracle: OracleScheduler,
) -> None:
    for fast, plain, arrival in pairs:
        if due(arrival, steps):
            scheduler.abort(fast)
            oracle.abort(plain)


@pytest.mark.parametrize("kind", [WithTokens(), WithKeys()], ids=["tokens", "keys"])
@settings(max_examples=100, deadline=None)
@given(workload=workloads())
def test_same_decisions_step_by_step(kind: Kind, workload: Workload) -> None:
    replay(workload, kind, skip=False)


@pytest.mark.parametrize("kind", [WithTokens(), WithKeys()], ids=["tokens", "keys"])
@settings(max_examples=100, deadline=None)
@given(workload=workloads())
def test_same_decisions_with_repeated_steps(kind: Kind, workload: Workload) -> None:
    replay(workload, kind, skip=True)


def decisions(workload: Workload, *, tables: bool) -> list[object]:
    """What a scheduler decides, in steps that are repeated as often as permitted, with and without aborts."""
    scheduler = Scheduler(
        workload.blocks,
        max_step_tokens=workload.budget,
        max_running=workload.max_running,
        block_tokens=BLOCK,
        tables=tables,
    )
    pending = deque(enumerate(workload.arrivals))
    requests: dict[int, Request] = {}
    made: list[object] = []
    steps = 0
    while pending or scheduler.busy:
        while pending and pending[0][1].at <= steps:
            index, arrival = pending.popleft()
            requests[index] = WithKeys().request(index, arrival)
            scheduler.add(requests[index])
        step = scheduler.schedule()
        scheduler.check()
        for index, request in requests.items():
            if due(workload.arrivals[index], steps):
                scheduler.abort(request)
        times = 1
        if step is not None:
            left = {r: workload.arrivals[int(str(r.id))].output - r.output_length for r in step.running}
            sampling = [*step.decoding(), *(r for r, count in step.chunks if r.computed + count == r.length)]
            times = min([step.repeat, *(left[request] for request in sampling)])
            chunks = [(request.id, request.computed, count) for request, count in step.chunks]
            made.append(
                (chunks, step.context, [r.id for r in step.preempted], step.repeat, scheduler.pool.free)
            )
            ended = [request for request in sampling if left[request] == times]
            scheduler.commit(Outcome(float(steps), times, ended=ended))
            scheduler.check()
            made.append(scheduler.pool.free)
        steps += times
    assert scheduler.pool.free == workload.blocks
    return made


@settings(max_examples=100, deadline=None)
@given(workload=workloads())
def test_blocks_that_are_only_counted_change_nothing(workload: Workload) -> None:
    assert decisions(workload, tables=False) == decisions(workload, tables=True)
