"""Objectives, and the search for the highest rate that holds them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.errors import InputError
from membound.workloads.goodput import RateSearch, highest_rate
from membound.workloads.metrics import Timing, adjusted, percentile, steady_window
from membound.workloads.slo import Slo, parse_slo


def test_an_slo_as_it_is_typed() -> None:
    assert parse_slo("ttft=0.5,tpot=0.05") == Slo(0.5, 0.05)
    assert parse_slo(" e2e = 10 ") == Slo(e2e_s=10.0)
    assert str(parse_slo("tpot=0.05,ttft=1")) == "ttft=1,tpot=0.05"


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=nan", "itl=1", "ttft=1,ttft=2"]
)
def test_what_is_no_slo(text: str) -> None:
    with pytest.raises(InputError, match="--slo"):
        parse_slo(text)


def test_every_limit_must_hold() -> None:
    timing = Timing(1.0, [1.5, 2.5], 5)  # TTFT 0.5, TPOT 0.25, 1.5 in all
    assert Slo().held_by(timing)
    assert Slo(0.5, 0.25, 1.5).held_by(timing)
    assert not Slo(ttft_s=0.49).held_by(timing)
    assert not Slo(tpot_s=0.24).held_by(timing)
    assert not Slo(e2e_s=1.49).held_by(timing)


def test_a_single_token_holds_any_tpot_and_nothing_holds_none() -> None:
    assert Slo(tpot_s=1e-9).held_by(Timing(0.0, [9.0], 1))
    assert not Slo().held_by(Timing(0.0, [], 0))


@given(st.floats(0.01, 1000), st.floats(0.1, 100), st.sampled_from([0.2, 0.05, 0.01]))
def test_bisection_ends_within_its_precision(capacity: float, first: float, precision: float) -> None:
    tried = []

    def attainment(rate: float) -> float:
        tried.append(rate)
        return 1.0 if rate <= capacity else 0.5

    found = highest_rate(attainment, first, precision)
    assert found is not None
    assert found <= capacity <= found * (1 + precision)
    assert len(tried) == len(set(tried)) < 40


def test_the_threshold_is_ninety_percent() -> None:
    search = RateSearch(1.0)
    search.tell(1.0, 0.9)
    assert search.held == 1.0
    search.tell(2.0, 0.899)
    assert search.failed == 2.0
    assert search.next() == 1.5


def test_no_rate_holds() -> None:
    assert highest_rate(lambda rate: 0.0, 4.0) is None


def test_a_server_without_limit_is_not_asked_for_ever() -> None:
    assert highest_rate(lambda rate: 1.0, 4.0) == 4.0 * 2**17  # the next would be above a million


def test_failures_spoil_adjusted_percentiles() -> None:
    assert percentile(adjusted([1.0] * 9, 1), 0.5) == 1.0
    assert percentile(adjusted([1.0] * 9, 1), 0.99) == math.inf


def test_the_steady_window_is_between_filling_and_draining() -> None:
    assert steady_window([0.0, 1.0, 2.0, 3.0], [1.5, 2.5, 3.5, 4.5]) == (1.5, 3.0)
    assert steady_window([0.0, 1.0], [2.0, 3.0]) is None
    assert steady_window([], []) is None
