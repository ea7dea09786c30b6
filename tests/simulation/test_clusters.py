"""Several engines: who gets what, prompts computed elsewhere, ranks that wait for each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.costs.deployment import deployment
from membound.costs.shared_experts import shared_experts
from membound.executors.predicted import PredictedExecutor
from membound.hardware.accelerator import Link
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.simulation.cluster import Cluster
from membound.simulation.disaggregation import Handover, sent_bytes_per_token
from membound.simulation.engines import engine_settings
from membound.simulation.replica import Engine, Lockstep, Replica
from membound.simulation.routing import LeastLoaded, PrefixAware, RoundRobin, Router
from membound.simulation.simulate import Group, simulate
from membound.workloads.arrivals import Arrival, SharedPrefix, open_loop
from membound.workloads.lengths import Fixed, LogNormal
from tests.simulation.stand_ins import LINEAR, Linear, made, replica, request_of

INFINITE = Link("infinite", float("inf"), 0.0)
CHAT = LogNormal(300, 100)


def served(
    arrivals: list[Arrival], engines: list[Engine], router: Router, handover: Handover | None = None
) -> list[Request]:
    ended: list[Request] = []
    cluster = Cluster(engines, router, handover)
    cluster.run(made(arrivals).begin(), lambda arrival, now: request_of(arrival), ended.append)
    return ended


arrivals = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 600), st.integers(1, 50)).map(lambda t: Arrival(*t)),
    min_size=1,
    max_size=25,
).map(lambda many: sorted(many, key=lambda arrival: arrival.time_s))


@settings(max_examples=50, deadline=None)
@given(arrivals, st.integers(1, 2), st.integers(1, 2), st.sampled_from([INFINITE, Link("slow", 1e3, 0.1)]))
def test_disaggregation_loses_no_tokens(many: list[Arrival], prefills: int, decodes: int, link: Link) -> None:
    engines = [replica(blocks=60, running=8) for _ in range(prefills + decodes)]
    handover = Handover(prefills, link, 1.0, LeastLoaded())
    ended = served(many, list(engines), RoundRobin(), handover)
    assert sorted((r.prompt_length, r.output_length) for r in ended) == sorted(
        (a.prompt_tokens, a.output_tokens) for a in many
    )
    for engine in engines:
        engine.scheduler.check()
        assert engine.scheduler.pool.free == 60
    for engine in engines[:prefills]:
        assert engine.watch.decoded_tokens == 0
    if not any(r.preemptions for r in ended):
        prompts = sum(engine.watch.chunk_tokens for engine in engines[:prefills])
        assert prompts == sum(a.prompt_tokens for a in many)
        # A request that arrives with its prompt computes the token that it already has, then the others.
        later = [engine.watch for engine in engines[prefills:]]
        decoded = sum(watch.decoded_tokens + watch.chunk_tokens for watch in later)
        assert decoded == sum(a.output_tokens - 1 for a in many)


def test_a_prompt_crosses_the_link_before_its_second_token() -> None:
    link = Link("slow", 1000.0, 0.25)  # bytes per second, seconds
    handover = Handover(1, link, 10.0, RoundRobin())
    many = [Arrival(0.0, 100, 3), Arrival(0.0, 100, 3)]
    first, second = served(many, [replica(Linear(1.0)), replica(Linear(1.0))], RoundRobin(), handover)
    assert (first.first_token, first.last_token) == (1.0, 1.0 + 1.0 + 0.25 + 2.0)
    assert second.first_token == 1.0
    assert second.last_token == pytest.approx(1.0 + 2.0 + 0.25 + 2.0)  # after the first one's prompt


def test_round_robin_takes_turns_and_least_loaded_the_shortest_queue() -> None:
    many = [Arrival(0.01 * n, 10, 200 if n % 2 == 0 else 1) for n in range(40)]
    turns, shortest = ([replica(), replica()] for _ in range(2))
    served(many, list(turns), RoundRobin())
    served(many, list(shortest), LeastLoaded())
    assert [e.watch.decoded_tokens for e in turns] == [20 * 199, 0]
    assert all(e.watch.decoded_tokens > 5 * 199 for e in shortest)


def test_a_faster_engine_gets_more() -> None:
    slow, fast = replica(Linear(0.04)), replica(Linear(0.01))
    fast.speed = 4.0
    ended = served([Arrival(0.05 * n, 10, 60) for n in range(200)], [slow, fast], LeastLoaded())
    assert len(ended) == 200
    assert fast.watch.decoded_tokens > 2 * slow.watch.decoded_tokens


def test_prefixes_find_their_way_home() -> None:
    """Eight common texts on four engines, whose caches hold three each."""
    workload = SharedPrefix(open_loop(20, Fixed(20, 10), 400), prefix_tokens=1600, prefixes=8)
    hits = {}
    for name, router in (("round", RoundRobin()), ("prefix", PrefixAware())):
        engines = [replica(blocks=320, budget=2048) for _ in range(4)]
        chosen: Router = router
        Cluster(engines, chosen).run(workload.begin(), lambda a, now: request_of(a), lambda request: None)
        found = sum(e.scheduler.hit_tokens for e in engines) / sum(e.scheduler.prompt_tokens for e in engines)
        hits[name] = found
    assert hits["prefix"] > 0.9 > hits["round"] + 0.2


def test_ranks_in_lockstep_end_together() -> None:
    """A rank with one short request waits in every step for one with a long prompt."""
    cost = Linear(0.01, 1e-3)
    ranks = Lockstep([Scheduler(100, max_step_tokens=512, max_running=8) for _ in range(2)], cost)
    ended = served([Arrival(0.0, 400, 2), Arrival(0.0, 1, 2)], [ranks], RoundRobin())
    together = 0.01 + 400e-3
    assert [r.first_token for r in ended] == [pytest.approx(together)] * 2
    assert [r.last_token for r in ended] == [pytest.approx(together + 0.011)] * 2


def test_ranks_in_lockstep_share_the_work_of_experts() -> None:
    """A prompt at one of two ranks is half as much work for the experts of each."""
    cost = Linear(0.01, 3e-3)

    def experts(rows: float) -> float:
        return 2e-3 * rows

    ranks = Lockstep([Scheduler(100, max_step_tokens=512, max_running=8) for _ in range(2)], cost, experts)
    ended = served([Arrival(0.0, 400, 1), Arrival(0.0, 100, 1)], [ranks], RoundRobin())
    assert [r.first_token for r in ended] == [pytest.approx(0.01 + 1e-3 * 400 + 2e-3 * 250)] * 2


def test_experts_are_a_part_of_a_step() -> None:
    cost = deployment("DeepSeek-V3", "8xh200-sxm", tp=1, ep=8, dp=8).cost
    experts = shared_experts(cost)
    by_name = {op.name: op.seconds for op in cost.estimate([(1, 600)] * 27).operations}
    assert experts(27.0) == pytest.approx(by_name["ffn_exps"])
    assert experts(0.0) == 0
    assert experts(3.375) < experts(27.0) < experts(500.0)


@settings(max_examples=25, deadline=None)
@given(arrivals)
def test_one_rank_in_lockstep_is_the_engine(many: list[Arrival]) -> None:
    scheduler = Scheduler(60, max_step_tokens=512, max_running=8)
    alone = Replica(Scheduler(60, max_step_tokens=512, max_running=8), PredictedExecutor(LINEAR))
    paced = served(many, [Lockstep([scheduler], LINEAR)], RoundRobin())
    plain = served(many, [alone], RoundRobin())
    assert [(r.arrival, r.first_token, r.last_token) for r in paced] == [
        (r.arrival, r.first_token, r.last_token) for r in plain
    ]


def test_pools_of_real_hardware() -> None:
    llama = deployment("Llama-3.1-8B", "h100-sxm")
    old = deployment("Llama-3.1-8B", "a100-80-sxm")
    load = open_loop(30, CHAT, 300)

    def group(of: object) -> Group:
        chosen = llama if of is llama else old
        return Group(chosen, engine_settings("vllm", chosen.cluster.accelerator))

    mixed = simulate(llama, load, beside=[group(old)], routing="least-loaded")
    assert mixed.accelerators == 2
    assert mixed.completed == 300
    new, aged = (watch.decoded_tokens for watch in mixed.watches)
    assert new > 1.2 * aged
    long = open_loop(6, LogNormal(3000, 100), 100)
    apart = simulate(llama, long, prefill=group(llama))
    beside = simulate(llama, long, replicas=2)
    assert apart.completed == 100
    assert apart.itl_s is not None
    assert beside.itl_s is not None
    assert apart.itl_s.p99 < 0.5 * beside.itl_s.p99  # no prompt stalls a decode
    assert sent_bytes_per_token(llama, llama) == 2 * 32 * 8 * 128 * 2
