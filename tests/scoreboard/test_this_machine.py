"""The native engine's parameters: found again from the steps that they make, kept, and used for `this`."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

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
    Sample,
    averaged,
    fit_steps,
    gathered,
    median_error,
    refuse_implausible,
)
from membound.scoreboard.this_machine_run import (
    BESIDE_S,
    EVEN,
    TURN_S,
    Beside,
    Halting,
    Pace,
    Served,
    pace_of,
    requests_at,
    saturation,
    settings_here,
    simulated,
)
from membound.serving.engine import StepRecord
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


def test_a_run_is_priced_by_its_own_steps() -> None:
    steps = samples_of(ASKED)
    assert Served({}, 0.0, steps, [], EVEN).priced(ASKED) == pytest.approx(0.0)
    slower = [replace(one, seconds=2 * one.seconds) for one in steps]
    assert Served({}, 0.0, slower, [], EVEN).priced(ASKED) == pytest.approx(-0.5)


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


class FewSteps:
    """A test whose rounds have four steps of known lengths; the machine takes twice as long in odd rounds."""

    def __init__(self) -> None:
        self.engines = (None, None)
        self.rounds = 0
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def staggered(
        self, groups: Sequence[Sequence[int]], every: int, tokens: int, *, engine: object
    ) -> Iterator[tuple[float, StepRecord]]:
        if list(groups) != [[FIRST]]:
            return
        self.rounds += 1
        for rows in range(1, 5):
            self.now += BESIDE_S / 20
            yield rows * (2 - self.rounds % 2), StepRecord(0, 0, (), (5,) * rows)


FIRST = SHORT[0]


def test_steps_beside_a_run_go_round_and_round() -> None:
    """To the end of the last round; and the pace at each turn is that of the machine beside other rounds."""
    test = FewSteps()
    beside = Beside(cast(SpeedTest, test), test.read)
    for moment in (1.0, 2.0):
        beside.turn(moment)
    rounds = beside.finish()
    assert len(rounds) == test.rounds > 4
    assert [one.seconds for one in rounds[0]] == [1, 2, 3, 4]
    assert [one.seconds for one in rounds[1]] == [2, 4, 6, 8]
    pace = beside.pace()
    assert 0.5 < pace.at(0.0) == pace.at(1.0) < 1.5
    assert pace.at(1.5) == pytest.approx((pace.at(1.0) + pace.at(2.0)) / 2)


def test_the_pace_is_that_of_its_moment() -> None:
    """Of steps beside the same of other rounds, whichever they were; nobody knows it from one round."""
    rounds = [[1.0, 10.0], [1.0, 10.0], [2.0, 20.0]]
    turns = [(3.0, [(0, 0), (0, 1), (1, 0)]), (4.0, [(1, 1)]), (5.0, [(2, 0), (2, 1)]), (6.0, [])]
    pace = pace_of(rounds, turns)
    assert pace.at(0.0) == pace.at(3.0) == pytest.approx(12 / 18)
    assert pace.at(4.0) == pytest.approx(10 / 15)
    assert pace.at(5.0) == pace.at(9.0) == pytest.approx(2.0)
    assert pace.at(4.5) == pytest.approx((10 / 15 + 2) / 2)
    assert pace.spread == pytest.approx(np.std([2 / 3, 2 / 3, 2]))
    assert pace_of(rounds[:1], turns[:1]).at(4.0) == 1.0
    assert pace_of(rounds, []).at(4.0) == 1.0


def test_the_run_halts_while_other_steps_are_taken() -> None:
    """Its clock with it, once in a while; and who waits is woken for it."""
    halted: list[float] = []
    passed = [7.0]

    def sleep(seconds: float) -> None:
        passed.append(passed[-1] + seconds)

    def work(moment: float) -> None:
        halted.append(moment)
        sleep(0.2)

    clock = Halting(work, lambda: passed[-1], sleep)
    clock.turn()
    assert not halted
    clock.wait(60.0)
    assert clock.now() == pytest.approx(TURN_S)
    sleep(0.001)
    clock.turn()
    assert halted == [pytest.approx(TURN_S + 0.001)]
    assert clock.now() == pytest.approx(halted[0])
    clock.turn()
    assert len(halted) == 1


def test_a_run_and_its_simulation() -> None:
    """As many requests in one order, as the simulator has them; slower machines take longer over them."""
    arrivals = requests_at(20.0, 0)
    assert len(arrivals) == 100
    found = simulated(ASKED, arrivals)
    run = simulate(ASKED, Open(lambda: iter(arrivals)), settings=settings_here(ASKED))
    assert found["tpot_s"] == pytest.approx(np.nanmean(run.tpot_s), rel=1e-9)
    assert found["ttft_p50_s"] == pytest.approx(percentile(run.ttft_s.tolist(), 0.5), rel=1e-9)
    assert found["throughput"] == pytest.approx(run.output_tok_per_s, rel=1e-9)
    slower = simulated(replace(ASKED, calibration=TRUE.applied(ASKED.calibration)), arrivals)
    assert found["tpot_s"] < slower["tpot_s"]
    assert found["ttft_p50_s"] < slower["ttft_p50_s"]
    half = arrivals[50].time_s
    late = simulated(ASKED, arrivals, Pace((half, half + 1e-3), (1.0, 1.5)))
    assert found["tpot_s"] < late["tpot_s"] < simulated(ASKED, arrivals, Pace((0.0,), (1.5,)))["tpot_s"]


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
