"""The native engine's parameters: found again from the steps that they make, kept, and used for `this`."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from membound import _core
from membound.costs.calibration import ByRows, fitted
from membound.costs.deployment import Deployment, deployment
from membound.costs.this_machine import ENGINE, Parameters, last_tests, remember, remembered
from membound.errors import RunError
from membound.hardware.probe import instruction_set, processor_name
from membound.measuring.neighbours import Neighbours
from membound.measuring.speed import SpeedTest
from membound.scoreboard.scores import native_rows
from membound.scoreboard.this_machine import (
    AFTER,
    LONG,
    RUNNING,
    SHORT,
    TOGETHER,
    Sample,
    averaged,
    fit_steps,
    gathered,
    median_error,
    predicted_s,
    refuse_implausible,
    together,
)
from membound.scoreboard.this_machine_run import (
    COUNT,
    OUTPUT,
    PACE_S,
    PROMPT,
    Beside,
    Felt,
    Halting,
    Pace,
    Served,
    compared,
    figures,
    pace_of,
    requests_at,
    saturation,
    settings_here,
    simulated,
)
from membound.serving.engine import StepRecord
from membound.serving.sampling import Sampling
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Open
from membound.workloads.metrics import percentile

SHIPPED = Parameters().applied(fitted())
ASKED = deployment("Qwen2.5-0.5B-Instruct", "l4", weights="int8", tp=1, engine=ENGINE, calibration=SHIPPED)
TRUE = Parameters(memory=1.2, math=1.4, unpack=25.0, fixed=1.5)


GROUPS = Parameters(  # of eight rows, but for the first few; and a head that takes its rows otherwise
    memory=1.2,
    math=1.4,
    attention=1.5,
    by_rows=ByRows((1, 8, 9, 16, 17, 24, 25, 32, 512), (0.5, 0.8, 1.3, 1.0, 1.2, 1.0, 1.1, 1.0, 0.9)),
    by_sampled=ByRows((1, 2, 3, 32), (0.8, 0.8, 1.5, 1.0)),
)


@pytest.mark.parametrize("true", [TRUE, GROUPS])
def test_parameters_are_found_again(true: Parameters) -> None:
    """Also those of kernels that take rows in groups, of steps that were not timed as well."""
    machine = replace(ASKED, calibration=true.applied(ASKED.calibration))
    samples = samples_of(machine)
    found = fit_steps(ASKED, samples, Parameters())
    fitted = replace(ASKED, calibration=found.applied(ASKED.calibration))
    assert median_error(fitted, samples) < 0.02
    assert median_error(ASKED, samples) > 0.1
    unseen = [[(1, 90)] * rows for rows in (1, 8, 9, 24, 25)] + [[(110, 0), *[(1, 200)] * 11]]
    for step in unseen:
        assert fitted.cost.step_seconds(step) == pytest.approx(machine.cost.step_seconds(step), rel=0.04)
    assert saturation(fitted) == pytest.approx(saturation(machine), rel=0.03)


def samples_of(machine: Deployment) -> list[Sample]:
    """Of prompts alone, of sequences that decode, and of both together, as they would take on a machine."""
    steps = [[(rows, 0)] for rows in (*SHORT, *LONG)]
    steps += [[(128, 0)] * count for count in (2, 3, 4)]
    steps += [[(1, context)] * rows for rows in range(1, RUNNING + 1) for context in (40, 140)]
    steps += [[(16, 0), *[(1, 70)] * rows] for rows in range(1, RUNNING, 3)]
    return [Sample((tuple(step),), machine.cost.step_seconds(step)) for step in steps]


def test_steps_after_long_prompts_are_counted_with_them() -> None:
    """Those after short prompts are left out, and later ones stand alone."""
    prompt, short = StepRecord(0, 1.0, ((LONG[0], 0),), ()), StepRecord(0, 1.0, ((2, 0),), (60,))
    decoded = StepRecord(0, 1.0, (), (60, 70))
    timed = [(1.0, prompt), *[(0.5, decoded)] * (AFTER + 2), (2.0, short), *[(0.5, decoded)] * (AFTER + 1)]
    alone = ((1, 60), (1, 70))
    assert gathered(timed) == [
        Sample((((LONG[0], 0),), *[alone] * AFTER), 1.0 + AFTER * 0.5),
        Sample((alone,), 0.5),
        Sample((alone,), 0.5),
        Sample((((2, 0), (1, 60)),), 2.0),
        Sample((alone,), 0.5),
    ]


def test_steps_of_traffic_that_are_alike_stand_together() -> None:
    """All seconds count, few steps join others, and those of more rows come later."""
    few, many = Sample((((1, 60),),), 1.0), Sample((((128, 0), (1, 60)),), 5.0)
    found = together([few, many] * TOGETHER)
    assert found == [
        Sample(few.steps * TOGETHER, 1.0 * TOGETHER),
        Sample(many.steps * TOGETHER, 5.0 * TOGETHER),
    ]
    assert together([few] * TOGETHER + [many]) == [
        Sample((*few.steps * TOGETHER, *many.steps), TOGETHER + 5.0),
    ]
    assert together([many]) == [many]
    assert together([]) == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (Parameters(memory=9.0), "memory at 9 times"),
        (Parameters(math=5.0), "math at 5 times"),
        (Parameters(unpack=142.0), "142 operations to unpack"),
    ],
)
def test_what_cannot_be_is_refused(parameters: Parameters, words: str) -> None:
    samples = samples_of(replace(ASKED, calibration=parameters.applied(ASKED.calibration)))
    with pytest.raises(RunError, match=words):
        refuse_implausible(ASKED, samples, parameters, Parameters())
    refuse_implausible(ASKED, samples_of(ASKED), Parameters(), Parameters())
    uneven = [replace(one, seconds=one.seconds * (2 + place % 3)) for place, one in enumerate(samples)]
    with pytest.raises(RunError, match="off by"):
        refuse_implausible(ASKED, uneven, parameters, Parameters())


def test_what_slows_some_rounds_counts_for_as_much() -> None:
    usual = samples_of(ASKED)
    slow = [replace(one, seconds=4 * one.seconds) for one in usual]
    for sample, mean in zip(usual, averaged([usual, slow, usual]), strict=True):
        assert mean.steps == sample.steps
        assert mean.seconds == pytest.approx(2 * sample.seconds)


class Spy:
    """An engine whose steps take a second for each request that it has; they end with the third step."""

    def __init__(self) -> None:
        self.now = 0.0
        self.engines = (None, self)
        self.vocabulary = 100
        self.log: list[StepRecord] = []
        self.left: list[int] = []
        self.added = 0

    @property
    def busy(self) -> bool:
        return bool(self.left)

    def read(self) -> float:
        return self.now

    def add(self, prompt: Sequence[int], sampling: Sampling) -> None:
        assert len(prompt) == PROMPT
        assert sampling.max_tokens == OUTPUT
        self.left.append(3)
        self.added += 1

    def step(self) -> None:
        self.now += len(self.left)
        self.log.append(StepRecord(0.0, 0.0, (), (60,) * len(self.left)))
        self.left = [one - 1 for one in self.left if one > 1]


def test_another_engine_goes_on_beside_a_run() -> None:
    """For as long as the run's steps took, by requests that come while its own clock runs."""
    spy = Spy()
    beside = Beside(cast(SpeedTest, spy), 0.2, 7, spy.read)
    spent = 0.0
    for turn in range(1, 31):
        beside.turn(float(turn), 2.0)
        spent = sum(one.seconds for one in beside.steps)
        assert spent >= 2.0 * turn
        assert spent - beside.steps[-1].seconds < 2.0 * turn
    assert beside.moments == sorted(beside.moments)
    assert [len(one.steps[0]) for one in beside.steps] == [one.seconds for one in beside.steps]
    assert len({one.seconds for one in beside.steps}) > 2  # alone, and with others
    assert len(spy.log) == len(beside.steps)
    assert spent + sum(spy.left) == 3 * spy.added
    beside.finish()
    assert not spy.busy
    assert sum(one.seconds for one in beside.steps) == spent


def test_the_pace_is_that_of_its_moment() -> None:
    """Of the steps near it, by their seconds, the nearest for the most; between them linear."""
    moments = [0.0, 0.0, 2.0, 2.0 + PACE_S / 2]
    pace = pace_of(moments, np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0, 1.0]))
    assert pace.at(0.0) == pytest.approx(2.0)
    assert pace.at(2.0) == pytest.approx((2.0 + 4.0 / 2) / (2.0 + 1.0 / 2), rel=0.02)
    assert pace.at(2.0) > pace.at(2.0 - PACE_S / 2) == pytest.approx(1.0, rel=0.02)
    assert pace.at(1.0) == pytest.approx(1.5, rel=0.02)
    assert pace.at(9.0) == pytest.approx(4.0)
    assert pace_of([], np.zeros(0), np.zeros(0)).at(4.0) == 1.0


def test_the_run_halts_while_other_steps_are_taken() -> None:
    """Its clock with it."""
    halted: list[tuple[float, float]] = []
    passed = [7.0]

    def sleep(seconds: float) -> None:
        passed.append(passed[-1] + seconds)

    def work(moment: float, busy: float) -> None:
        halted.append((moment, busy))
        sleep(0.2)

    clock = Halting(work, lambda: passed[-1], sleep)
    clock.wait(0.5)
    assert clock.now() == pytest.approx(0.5)
    clock.turn(0.3)
    ((moment, busy),) = halted
    assert moment == pytest.approx(0.5)
    assert busy == 0.3
    assert clock.now() == pytest.approx(0.5)
    clock.wait(0.1)
    assert clock.now() == pytest.approx(0.5)


def test_runs_of_a_machine_whose_pace_changes() -> None:
    """One that is predicted exactly but for its pace, which steps beside the runs show."""
    machine = replace(ASKED, calibration=TRUE.applied(ASKED.calibration))
    pace = Pace((0.0, 2.0, 3.0), (1.0, 1.0, 1.4))
    runs = []
    for seed in (0, 1):
        arrivals = requests_at(20.0, seed)
        moments = np.arange(0.0, arrivals[-1].time_s + 1, 0.01).tolist()
        step = Sample((((1, 60),) * 4,), 1.0)
        (usual,) = predicted_s(machine, [step])
        beside = [replace(step, seconds=usual * pace.at(moment)) for moment in moments]
        steps = [replace(step, seconds=usual * 1.25)]
        runs.append(Served(arrivals, simulated(machine, arrivals, pace), 0.01 * seed, steps, moments, beside))
    found = compared(machine, 0.5, 20.0, runs)
    for name, measured in figures([run.felt for run in runs]).items():
        assert found.predicted[name] == pytest.approx(measured, rel=0.01)
        assert found.measured[name] == measured
    assert found.priced == pytest.approx(-0.2)
    assert found.others == 0.01
    assert 0.1 < found.unsteady < 0.2
    even = figures([simulated(machine, run.arrivals) for run in runs])
    assert even["tpot_s"] < 0.95 * found.measured["tpot_s"]


def test_figures_are_of_all_requests() -> None:
    few, many = Felt([1.0], [5.0], 10.0), Felt([2.0, 3.0, 6.0], [1.0, 2.0, 3.0], 20.0)
    assert figures([few, many]) == {"tpot_s": 3.0, "ttft_p50_s": 2.5, "throughput": 4 * OUTPUT / 30.0}


def test_a_run_and_its_simulation() -> None:
    """As many requests in one order, as the simulator has them; slower machines take longer over them."""
    arrivals = requests_at(20.0, 0)
    assert len(arrivals) == COUNT
    found = figures([simulated(ASKED, arrivals)])
    run = simulate(ASKED, Open(lambda: iter(arrivals)), settings=settings_here(ASKED))
    assert found["tpot_s"] == pytest.approx(np.nanmean(run.tpot_s), rel=1e-9)
    assert found["ttft_p50_s"] == pytest.approx(percentile(run.ttft_s.tolist(), 0.5), rel=1e-9)
    assert found["throughput"] == pytest.approx(run.output_tok_per_s, rel=1e-9)
    slower = figures([simulated(replace(ASKED, calibration=TRUE.applied(ASKED.calibration)), arrivals)])
    assert found["tpot_s"] < slower["tpot_s"]
    assert found["ttft_p50_s"] < slower["ttft_p50_s"]
    half = arrivals[50].time_s
    late = figures([simulated(ASKED, arrivals, Pace((half, half + 1e-3), (1.0, 1.5)))])
    slow = figures([simulated(ASKED, arrivals, Pace((0.0,), (1.5,)))])
    assert found["tpot_s"] < late["tpot_s"] < slow["tpot_s"]


RUN = {
    "share": 0.5,
    "rate": 9.0,
    "measured": {"tpot_s": 0.004, "ttft_p50_s": 0.03, "throughput": 400.0},
    "predicted": {"tpot_s": 0.005, "ttft_p50_s": 0.03, "throughput": 400.0},
    "unsteady": 0.1,
    "others": 0.0,
    "priced": 0.01,
}


def test_the_native_engine_is_a_row_of_the_scoreboard(tmp_path: Path) -> None:
    path = tmp_path / "this.json"
    assert native_rows(last_tests(path)) == []
    remember(TRUE, "smollm2", path)
    assert last_tests(path) is None
    remember(TRUE, "smollm2", path, [RUN])
    rows = {row["metric"]: row for row in native_rows(last_tests(path))}
    assert set(rows) == {"tpot", "ttft", "throughput"}
    assert rows["tpot"]["median_ape"] == pytest.approx(0.25)
    assert rows["ttft"]["bias"] == 0
    assert {row["engine"] for row in rows.values()} == {"membound"}


def test_what_others_take(tmp_path: Path) -> None:
    """Ten seconds of one core, none of it this process's, in next to no time."""
    cores = sorted(os.sched_getaffinity(0))
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu{cores[0]} 5 0 0 0 0 0 0 0 0 0\n")
    neighbours = Neighbours(stat)
    stat.write_text(f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu{cores[0]} 505 100 200 7 7 50 50 100 0 0\n")
    assert (neighbours.share() or 0.0) > 1
    assert Neighbours(tmp_path / "absent").share() is None


def test_parameters_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "machine" / "this.json"
    assert remembered(path) is None
    for parameters in (TRUE, GROUPS):
        remember(parameters, "smollm2", path)
        assert remembered(path) == parameters
    os.utime(path, (0, os.stat(_core.__file__).st_mtime - 1))  # kernels were built since
    assert remembered(path) is None
    remember(GROUPS, "smollm2", path)
    kernels = f'"instruction_set": "{instruction_set()}"'
    path.write_text(path.read_text().replace(kernels, '"instruction_set": "another"'))
    assert remembered(path) is None
    remember(GROUPS, "smollm2", path)
    path.write_text(path.read_text().replace('"rows": [1, 8', '"rows": [8, 1'))
    assert remembered(path) is None
    kept = asdict(TRUE)
    before = {name: kept[name] for name in ("memory", "math", "unpack", "fixed")}  # as files once were
    path.write_text(json.dumps({**before, "processor": processor_name()}))
    assert remembered(path) == TRUE
    path.write_text(path.read_text().replace('"processor": "', '"processor": "another '))
    assert remembered(path) is None
    path.write_text("{}")
    assert remembered(path) is None
