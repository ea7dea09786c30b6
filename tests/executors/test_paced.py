"""Predicted steps keep their time however long it takes to bring the tokens out."""

from membound.executors.paced import PacedExecutor
from membound.executors.predicted import PredictedExecutor
from membound.serving.clock import Paced
from membound.serving.engine import Engine
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.simulation.replica import Pace

STEP_S = 0.01


class Wall:
    """A clock that goes when somebody works or sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept = 0.0

    def read(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += seconds


def paced(wall: Wall) -> tuple[Engine, PacedExecutor]:
    pace = Pace()
    pace.step_s = STEP_S
    executor = PacedExecutor(PredictedExecutor(pace, lambda request, n: 1 + n))
    return Engine(Scheduler(1000), executor, Paced(wall.read, wall.sleep)), executor


def run(engine: Engine, wall: Wall, work_s: float) -> list[float]:
    moments = []
    while engine.busy:
        for event in engine.step():
            moments.append(event.now)
        wall.time += work_s
    return moments


def test_work_between_steps_is_hidden() -> None:
    wall = Wall()
    engine, executor = paced(wall)
    engine.add([1, 2, 3], Sampling(max_tokens=101))
    moments = run(engine, wall, 0.004)
    assert abs(moments[-1] - moments[0] - 100 * STEP_S) < 1e-9
    assert abs(executor.lag_s - 0.004) < 1e-9
    assert all(abs(record.seconds - STEP_S) < 1e-9 for record in engine.log)
    assert abs(wall.slept - (101 * STEP_S - 100 * 0.004)) < 1e-9


def test_too_much_work_shows_as_lag() -> None:
    wall = Wall()
    engine, executor = paced(wall)
    engine.add([1, 2, 3], Sampling(max_tokens=50))
    run(engine, wall, 0.015)
    assert abs(executor.lag_s - (49 * 0.005 + STEP_S)) < 1e-6
    assert wall.slept == STEP_S  # of the first step


def test_after_a_rest_the_lag_is_forgotten() -> None:
    wall = Wall()
    engine, executor = paced(wall)
    engine.add([1, 2, 3], Sampling(max_tokens=50))
    run(engine, wall, 0.015)
    wall.time += 10
    engine.add([4, 5, 6], Sampling(max_tokens=2))
    moments = run(engine, wall, 0.0)
    assert executor.lag_s == 0
    assert abs(moments[1] - moments[0] - STEP_S) < 1e-9
