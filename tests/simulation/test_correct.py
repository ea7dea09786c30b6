"""What must hold of any simulation: nothing is lost, nothing is random, and queueing theory agrees."""

import csv
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.costs.deployment import deployment
from membound.costs.folded_plain import fold
from membound.executors.predicted import PredictedExecutor
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.simulation.cluster import Cluster
from membound.simulation.engines import engine_settings
from membound.simulation.replica import Engine, Replica
from membound.simulation.routing import RoundRobin
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Arrival, ClosedLoop, Conversations, Workload, open_loop
from membound.workloads.lengths import Fixed, LogNormal
from tests.simulation.stand_ins import LINEAR, Linear, made, replica, request_of, served_plainly

LLAMA = deployment("Llama-3.1-8B", "h100-sxm")
CHAT = LogNormal(300, 100)


def served(workload: Workload, engines: list[Engine]) -> list[Request]:
    """In order of their ends."""
    ended: list[Request] = []
    cluster = Cluster(engines, RoundRobin())
    cluster.run(workload.begin(), lambda arrival, now: request_of(arrival), ended.append)
    return ended


def times(requests: list[Request]) -> list[tuple[object, ...]]:
    return sorted(
        (r.arrival, r.prompt_length, r.output_length, r.first_token, r.last_token) for r in requests
    )


arrivals = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.integers(1, 700),
        st.integers(1, 60),
        st.sampled_from([(), ("a", "b", "c"), ("a", "x"), tuple(range(40))]),
    ).map(lambda t: Arrival(*t)),
    min_size=1,
    max_size=25,
).map(lambda many: sorted(many, key=lambda arrival: arrival.time_s))


@settings(max_examples=60, deadline=None)
@given(arrivals, st.integers(60, 200))
def test_a_cluster_of_one_is_the_single_engine(many: list[Arrival], blocks: int) -> None:
    alone = served_plainly(many, replica(blocks=blocks, running=8))
    together = served(made(many), [replica(blocks=blocks, running=8)])
    assert times(together) == times(alone)
    assert [r.preemptions for r in sorted(together, key=lambda r: r.arrival)] == [
        r.preemptions for r in sorted(alone, key=lambda r: r.arrival)
    ]


@settings(max_examples=40, deadline=None)
@given(arrivals, st.integers(60, 200), st.integers(1, 3), st.integers(0, 3))
def test_requests_tokens_and_blocks_are_conserved(
    many: list[Arrival], blocks: int, copies: int, drafts: int
) -> None:
    engines = [replica(blocks=blocks, running=8, drafts=drafts) for _ in range(copies)]
    for engine in engines:
        engine.executor = PredictedExecutor(LINEAR, accepted=(lambda n: n // 2) if drafts else None)
    ended = served(made(many), list(engines))
    assert sorted((r.prompt_length, r.output_length) for r in ended) == sorted(
        (a.prompt_tokens, a.output_tokens) for a in many
    )
    for engine in engines:
        engine.scheduler.check()
        assert engine.scheduler.pool.free == blocks
        assert not engine.scheduler.busy
    for request in ended:
        assert request.arrival <= (request.admitted or 0.0) < (request.first_token or 0.0)
        assert (request.first_token or 0.0) <= (request.last_token or 0.0)


def test_the_same_seed_gives_the_same_bytes() -> None:
    def run(seed: int) -> bytes:
        return simulate(LLAMA, open_loop(20, CHAT, 200, seed=seed), replicas=2).log.column("last").tobytes()

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_littles_law() -> None:
    """Requests in the system, counted in the queues, are the rate times the time they stay."""
    engine = replica()
    area = last = 0.0
    inside = 0
    ended: list[Request] = []

    def look(now: float, arriving: int) -> None:
        nonlocal area, last, inside
        area += inside * (now - last)
        last, inside = now, engine.outstanding + arriving

    def admit(arrival: Arrival, now: float) -> Request:
        look(now, 1)
        return request_of(arrival)

    def done(request: Request) -> None:
        look(request.last_token or 0.0, 0)
        ended.append(request)

    Cluster([engine], RoundRobin()).run(open_loop(30, CHAT, 6000).begin(), admit, done)
    stays = sum((r.last_token or 0.0) - r.arrival for r in ended)
    assert area / last == pytest.approx(len(ended) / last * (stays / len(ended)), rel=0.01)


def test_waiting_of_a_single_server_with_fixed_service() -> None:
    """M/D/1: one request at a time, one token each, one second a step. Pollaczek and Khinchine's mean."""
    load = 0.6
    server = replica(Linear(1.0), running=1)
    ended = served(open_loop(load, Fixed(1, 1), 30_000, seed=3), [server])
    waits = [(r.admitted or 0.0) - r.arrival for r in ended]
    assert sum(waits) / len(waits) == pytest.approx(load / (2 * (1 - load)), rel=0.03)


def test_a_recorded_run_is_admitted_in_the_same_order() -> None:
    """vLLM's own order of admission, for the arrivals of a real run with a full queue."""
    path = Path(__file__).parents[1] / "data/vllm_run.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    many = [Arrival(row["queued"], int(row["input"]), int(row["output"])) for row in rows]
    gpu = deployment("Llama-3.1-8B", "rtxpro6000")
    cost = fold(gpu.cost)
    scheduler = Scheduler(20_000, max_step_tokens=2048, max_running=128)
    ended = served(made(many), [Replica(scheduler, PredictedExecutor(cost))])
    really = [i for _, i in sorted((row["scheduled"], i) for i, row in enumerate(rows))]
    admitted = sorted(ended, key=lambda r: (r.admitted or 0.0, r.order))
    place = {arrival.time_s: i for i, arrival in enumerate(many)}
    assert [place[r.arrival] for r in admitted] == really
    assert max((r.admitted or 0.0) - r.arrival for r in ended) > 1  # there was a queue


@pytest.mark.parametrize(
    "workload",
    [
        ClosedLoop(8, CHAT, 60, think_s=0.2),
        Conversations(open_loop(4, CHAT, 15), CHAT, 4, think_s=0.5),
    ],
)
def test_what_ends_bring_is_served_wherever_it_goes(workload: Workload) -> None:
    """With one engine and with three: all that was asked is answered, and nothing before its time."""
    for copies in (1, 3):
        sent: list[Arrival] = []
        ended: list[Request] = []

        def admit(arrival: Arrival, now: float, sent: list[Arrival] = sent) -> Request:
            assert arrival.time_s == now
            sent.append(arrival)
            return request_of(arrival)

        engines = [replica() for _ in range(copies)]
        Cluster(engines, RoundRobin()).run(workload.begin(), admit, ended.append)
        assert len(sent) == len(ended) == 60
        assert sum(r.output_length for r in ended) == sum(a.output_tokens for a in sent)


def test_a_closed_loop_never_exceeds_its_users() -> None:
    random = Random(1)
    loop = ClosedLoop(5, LogNormal(200, random.randrange(20, 60)), 50)
    engine = replica()
    most = 0

    def admit(arrival: Arrival, now: float) -> Request:
        nonlocal most
        most = max(most, engine.outstanding + 1)
        return request_of(arrival)

    Cluster([engine], RoundRobin()).run(loop.begin(), admit, lambda request: None)
    assert most == 5


def test_gaps_add_up_to_what_requests_took() -> None:
    """Pooled ITL times the tokens after the first is the sum of (last - first) over requests."""
    for name in ("vllm", "sglang"):
        chosen = engine_settings(name, LLAMA.cluster.accelerator)
        found = simulate(LLAMA, open_loop(20, CHAT, 300), settings=chosen)
        spans = found.log.column("last") - found.log.column("first")
        assert found.itl_s is not None
        assert found.itl_s.mean * (found.output_tokens - 1).sum() == pytest.approx(spans.sum(), rel=1e-6)
