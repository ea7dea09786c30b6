"""Runs that are kept, and what chance makes of their differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from membound.errors import InputError, RunError
from membound.measuring.noise import differences, intervals
from membound.measuring.runs import Runs
from membound.measuring.summary import Measured
from membound.workloads.slo import Slo
from tests.measuring.made_runs import done, failed, made


def noisy(seed: int, requests: int = 200, slower: float = 1.0) -> Measured:
    random = np.random.default_rng(seed)
    records = [
        done(number, number * 0.5, ttft=slower * float(random.lognormal(-1, 0.3)), gap=0.05)
        for number in range(requests)
    ]
    return Measured(made(records))


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "deep" / "runs.db")
    measured = Measured(made([done(0, 0.0), failed(1, 1.0), done(2, 2.0)]), Slo(ttft_s=1.0), 0.5, 0.25)
    number = runs.add(measured, name="one", url="http://x", options={"rate": 1.0})
    back = runs.load(number)
    assert back.as_json() == measured.as_json()
    assert [list(record.events_s) for record in back.run.records] == [
        list(record.events_s) for record in measured.run.records
    ]
    assert (back.slo, back.warm_up_s, back.cool_down_s) == (measured.slo, 0.5, 0.25)
    (entry,) = runs.entries()
    assert (entry.name, entry.url, entry.options) == ("one", "http://x", {"rate": 1.0})
    assert entry.summary == measured.as_json()


def test_runs_are_found_by_number_name_and_age(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.db")
    for name in ("a", "b", "a"):
        runs.add(noisy(0, 3), name=name, url="http://x", options={})
    assert [entry.id for entry in runs.entries()] == [3, 2, 1]
    assert [runs.find(which).id for which in ("1", "b", "a", "last")] == [1, 2, 3, 3]
    runs.remove(3)
    assert runs.find("a").id == 1
    for unknown in ("3", "c"):
        with pytest.raises(InputError, match="membound runs"):
            runs.find(unknown)
    with pytest.raises(InputError, match="no run 3"):
        runs.remove(3)
    with pytest.raises(InputError, match="no run 3"):
        runs.load(3)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunError, match="MEMBOUND_DATA"):
        Runs(file / "runs.db").entries()
    file.write_text("not a database" * 100)
    with pytest.raises(RunError, match="MEMBOUND_DATA"):
        Runs(file).entries()


def test_runs_of_the_same_endpoint_differ_by_noise_alone() -> None:
    """Of 20 pairs, a 95 % interval should miss about one: three or more misses of the median are unlikely."""
    missed = 0
    for pair in range(20):
        found = differences([noisy(pair, 100)], [noisy(1000 + pair, 100)])
        missed += next(one for one in found if one.metric == "ttft_s.p50").exceeds_noise
    assert missed <= 3


def test_a_slower_endpoint_is_told_from_noise() -> None:
    found = {one.metric: one for one in differences([noisy(1)], [noisy(2, slower=1.3)])}
    assert found["ttft_s.p50"].exceeds_noise
    assert found["ttft_s.p50"].low < found["ttft_s.p50"].difference < found["ttft_s.p50"].high
    assert not found["tpot_s.p50"].exceeds_noise
    assert found["output_tok_per_s"].first > 0


def test_what_differs_between_runs_widens_the_interval() -> None:
    steady = [noisy(seed) for seed in (1, 2, 3)]
    unsteady = [noisy(seed, slower=slower) for seed, slower in ((1, 0.7), (2, 1.0), (3, 1.3))]

    def width(first: list[Measured]) -> float:
        found = next(one for one in differences(first, steady) if one.metric == "ttft_s.p50")
        return found.high - found.low

    assert width(unsteady) > 2 * width(steady)


def test_intervals_cover_the_truth() -> None:
    """The median of exp(N(-1, 0.3)) is exp(-1): 20 intervals of 95 % should miss it about once."""
    missed = 0
    for seed in range(20):
        low, high = intervals(noisy(seed))["ttft_s"]["p50"]
        missed += not low <= np.exp(-1) <= high
    assert missed <= 4


def test_queueing_widens_the_interval() -> None:
    """The same values, in long waves: successive requests tell less than independent ones."""
    values = np.abs(np.random.default_rng(0).normal(1.0, 0.3, 400))

    def width(order: NDArray[np.float64]) -> float:
        records = [done(number, number * 0.5, ttft=float(value)) for number, value in enumerate(order)]
        low, high = intervals(Measured(made(records)))["ttft_s"]["mean"]
        return high - low

    assert width(np.sort(values)) > 1.5 * width(values)


def test_too_few_requests_have_no_interval() -> None:
    assert "ttft_s" not in intervals(Measured(made([done(0, 0.0)])))
