"""Latencies and percentiles by their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.workloads.metrics import Summary, Timing, percentile, summarize


def test_latencies_of_one_request() -> None:
    timing = Timing(sent=1.0, events=[1.5, 1.75, 2.5], tokens=5)
    assert timing.ttft_s == 0.5
    assert timing.tpot_s == 0.25  # four tokens after the first, one second
    assert timing.itl_s == [0.25, 0.75]
    assert timing.e2e_s == 1.5


def test_one_token_has_no_time_per_token() -> None:
    assert Timing(0.0, [2.0], 1).tpot_s is None
    assert Timing(0.0, [2.0], 1).ttft_s == 2.0


def test_nothing_came() -> None:
    timing = Timing(0.0, [], 0)
    assert (timing.ttft_s, timing.tpot_s, timing.e2e_s, timing.itl_s) == (None, None, None, [])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)


def test_failed_requests_count_as_infinite() -> None:
    values = [1.0] * 98 + [math.inf] * 2
    assert percentile(values, 0.5) == 1.0
    assert percentile(values, 0.99) == math.inf
    assert summarize(values) == Summary(math.inf, 1.0, 1.0, math.inf)


def test_summary_of_nothing_is_none() -> None:
    assert summarize([]) is None
    with pytest.raises(ValueError, match="of 0 values"):
        percentile([], 0.5)
