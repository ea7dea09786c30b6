"""Intervals: wide enough about one, wider outside of what was measured, and they say why."""

import pytest

from membound.costs.intervals import METRICS, Interval, Regime, interval


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("experts", [False, True])
def test_an_interval_lies_about_the_prediction(metric: str, experts: bool) -> None:
    found = interval(metric, Regime(experts=experts))
    assert 0 < found.low < 1 < found.high
    assert not found.widened
    assert found.around(2.0) == (2 * found.low, 2 * found.high)
    assert 1.0 in found
    assert found.high * 1.01 not in found


def test_quantiles_of_an_interval() -> None:
    found = Interval(0.5, 3.0)
    assert found.at(0.5) == pytest.approx(1)
    assert found.at(0.05) == pytest.approx(0.5)
    assert found.at(0.95) == pytest.approx(3)
    quantiles = [found.at(tenth / 10) for tenth in range(1, 10)]
    assert quantiles == sorted(quantiles)


@pytest.mark.parametrize(
    ("regime", "word"),
    [(Regime(part="mi300x"), "mi300x"), (Regime(bits=2), "2-bit"), (Regime(batch=5000), "batch of 5000")],
)
def test_outside_of_what_was_measured_it_is_wider_and_says_why(regime: Regime, word: str) -> None:
    found, usual = interval("tpot", regime), interval("tpot", Regime())
    assert found.low < usual.low
    assert found.high > usual.high
    assert word in found.widened[0]
