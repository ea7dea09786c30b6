"""A deployment's own factors from a few measurements: found where they can be, held where they cannot."""

import pytest

from membound.costs.adjustment import Adjustment, Observation, adjust
from membound.costs.calibration import fitted
from membound.costs.deployment import deployment


def test_nothing_measured_changes_nothing() -> None:
    assert adjust([]) == Adjustment()


def test_two_measurements_tell_kernels_from_what_is_fixed() -> None:
    seen = [(0.01, 0.002), (0.002, 0.01), (0.03, 0.002)]
    found = adjust([Observation(1.3 * k + 0.8 * f, k, f, sigma=0.005) for k, f in seen])
    assert found.kernels == pytest.approx(1.3, rel=0.02)
    assert found.fixed == pytest.approx(0.8, rel=0.03)
    assert found.server == pytest.approx(1.0)


def test_what_cannot_be_told_apart_is_shared() -> None:
    found = adjust([Observation(2.0, 1.0, 1.0, sigma=0.01)])
    assert found.kernels == pytest.approx(1, abs=0.01)
    off = adjust([Observation(3.0, 1.0, 1.0, sigma=0.01)])
    assert 1.2 < off.kernels < off.fixed


def test_one_wild_measurement_does_not_carry_the_others() -> None:
    good = [Observation(1.1, 1.0, 0.0)] * 6
    assert adjust([*good, Observation(9.0, 1.0, 0.0)]).kernels == pytest.approx(1.1, rel=0.05)


def test_factors_scale_a_step() -> None:
    asked = deployment("Qwen3-8B", "h100-sxm")
    plain = asked.cost.step_seconds([(1, 1000)] * 8)
    for factor in (1.2, 2.0):
        scaled = deployment("Qwen3-8B", "h100-sxm", calibration=fitted().scaled(factor, factor))
        assert scaled.cost.step_seconds([(1, 1000)] * 8) == pytest.approx(factor * plain)
    server = Adjustment(server=2.0)(fitted()).engine("vllm").server_s
    assert server == 2 * fitted().engine("vllm").server_s
