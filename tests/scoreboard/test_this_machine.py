"""The native engine's parameters: found again from the steps that they make, kept, and used for `this`."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from membound.costs.calibration import fitted
from membound.costs.deployment import Deployment, deployment
from membound.costs.this_machine import ENGINE, Parameters, last_tests, remember, remembered
from membound.errors import RunError
from membound.measuring.neighbours import Neighbours
from membound.scoreboard.scores import native_rows
from membound.scoreboard.this_machine import (
    BATCHES,
    PROMPTS,
    Sample,
    drift,
    fit_steps,
    predicted_s,
    refuse_implausible,
    requests_at,
    saturation,
    simulated,
    typical,
)

SHIPPED = Parameters().applied(fitted())
ASKED = deployment("Qwen2.5-0.5B-Instruct", "l4", weights="int8", tp=1, engine=ENGINE, calibration=SHIPPED)
TRUE = Parameters(memory=1.2, math=1.4, unpack=25.0, fixed=1.5)


def test_parameters_are_found_again() -> None:
    machine = replace(ASKED, calibration=TRUE.applied(ASKED.calibration))
    samples = samples_of(machine)
    found = fit_steps(ASKED, samples)
    fitted = replace(ASKED, calibration=found.applied(ASKED.calibration))
    for sample in samples:
        assert predicted_s(fitted, sample) == pytest.approx(sample.seconds, rel=0.03)
        assert predicted_s(ASKED, sample) < sample.seconds
    assert saturation(fitted) == pytest.approx(saturation(machine), rel=0.03)


def samples_of(machine: Deployment) -> list[Sample]:
    shapes = [(rows, None) for rows in PROMPTS] + [(rows, 44) for rows in BATCHES]
    return [Sample(r, c, predicted_s(machine, Sample(r, c, 0.0))) for r, c in shapes]


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
        refuse_implausible(ASKED, samples, parameters)
    refuse_implausible(ASKED, samples_of(ASKED), Parameters())
    uneven = [replace(one, seconds=one.seconds * (2 + place % 3)) for place, one in enumerate(samples)]
    with pytest.raises(RunError, match="off by"):
        refuse_implausible(ASKED, uneven, parameters)


def test_one_round_of_few_does_not_move_what_is_typical() -> None:
    usual = samples_of(ASKED)
    slow = [replace(one, seconds=9 * one.seconds) for one in usual]
    assert typical([usual, slow, usual]) == usual
    assert drift([usual, slow, usual], [usual]) == 0
    assert drift([usual], [slow]) == pytest.approx(8)


def test_a_run_and_its_simulation() -> None:
    """As many requests in one order; slower machines take longer over them."""
    arrivals = requests_at(20.0, 0)
    assert len(arrivals) == 100
    found = simulated(ASKED, arrivals)
    slower = simulated(replace(ASKED, calibration=TRUE.applied(ASKED.calibration)), arrivals)
    assert found["tpot_s"] < slower["tpot_s"]
    assert found["ttft_p50_s"] < slower["ttft_p50_s"]


RUN = {
    "share": 0.5,
    "rate": 9.0,
    "measured": {"tpot_s": 0.004, "ttft_p50_s": 0.03, "throughput": 400.0},
    "predicted": {"tpot_s": 0.005, "ttft_p50_s": 0.03, "throughput": 400.0},
    "unsteady": 0.0,
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
    remember(TRUE, "smollm2", path)
    assert remembered(path) == TRUE
    path.write_text(path.read_text().replace('"processor": "', '"processor": "another '))
    assert remembered(path) is None
    path.write_text("{}")
    assert remembered(path) is None
