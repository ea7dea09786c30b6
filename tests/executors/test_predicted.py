"""The predicted executor behind the real engine: the same scheduler, the same seconds, ids where asked."""

from membound.executors.predicted import PredictedExecutor
from membound.serving.clock import Virtual
from membound.serving.engine import Engine
from membound.serving.request import Request
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.simulation.cluster import Cluster
from membound.simulation.routing import RoundRobin
from membound.workloads.arrivals import Arrival
from tests.simulation.stand_ins import LINEAR, made, replica, request_of

SIZES = [(300, 5), (20, 40), (700, 1), (64, 17), (5, 100)]


def test_the_real_engine_takes_the_simulated_time() -> None:
    """Engine, scheduler and block pool of the server, on a virtual clock, and the simulation of the same."""
    executor = PredictedExecutor(LINEAR, token=lambda request, n: n % 7)
    engine = Engine(Scheduler(2000, max_step_tokens=512, max_running=64), executor, Virtual())
    served = [
        engine.add([100 + index] * prompt, Sampling(max_tokens=output, ignore_eos=True))
        for index, (prompt, output) in enumerate(SIZES)
    ]
    last: dict[Request, float] = {}
    while engine.busy:
        for event in engine.step():
            assert event.token_ids
            last[event.request] = event.now
    simulated: list[Request] = []
    many = [Arrival(0.0, *size) for size in SIZES]
    cluster = Cluster([replica()], RoundRobin())
    cluster.run(made(many).begin(), lambda arrival, now: request_of(arrival), simulated.append)
    assert sorted((len(r.tokens), r.first_token, last[r]) for r in served) == sorted(
        (r.length, r.first_token, r.last_token) for r in simulated
    )


def test_the_scheduler_learns_no_length() -> None:
    """What a request may sample says nothing of what it will: the executor alone ends it."""
    scheduler = Scheduler(100, max_step_tokens=512, max_running=4)
    executor = PredictedExecutor(LINEAR)
    request = Request("x", max_tokens=1000, prompt_length=10)
    scheduler.add(request)
    executor.expect(request, 3)
    now, ended = 0.0, 0
    while (step := scheduler.schedule()) is not None:
        outcome = executor.execute(step, now, float("inf"))
        now = outcome.now
        ended += len(scheduler.commit(outcome))
    assert (ended, request.output_length) == (1, 3)


def test_a_request_that_is_forgotten_ends_nowhere() -> None:
    scheduler = Scheduler(100, max_step_tokens=512, max_running=4)
    executor = PredictedExecutor(LINEAR)
    gone, stays = (Request(name, max_tokens=1000, prompt_length=10) for name in ("gone", "stays"))
    for request in (gone, stays):
        scheduler.add(request)
        executor.expect(request, 5)
    now, ended = 0.0, []
    step = scheduler.schedule()
    assert step is not None
    scheduler.commit(executor.execute(step, now, now))
    scheduler.abort(gone)
    executor.forget(gone)
    while (step := scheduler.schedule()) is not None:
        outcome = executor.execute(step, now, float("inf"))
        now = outcome.now
        ended += scheduler.commit(outcome)
    assert ended == [stays]
