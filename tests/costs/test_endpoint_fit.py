"""A few factors on the shipped efficiencies, from probes of one endpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from membound.costs.deployment import Deployment, deployment
from membound.costs.endpoint_fit import Factors, Sample, fit, predicted_s

LENGTHS, BATCHES = (
    (32, 128, 512, 1024, 2048, 4096),
    ((1, 90), (4, 90), (16, 90), (64, 90), (1, 1050), (8, 1050)),
)


@pytest.fixture(scope="module")
def shipped() -> Deployment:
    return deployment("Llama-3.1-8B", "h100-sxm")


def probes(asked: Deployment, truth: Factors, noise: float = 0.0) -> list[Sample]:
    """What an endpoint of which the truth is known would answer."""
    real = replace(asked, calibration=truth.applied(asked.calibration))
    random = np.random.default_rng(5)
    asked_for = [Sample(0, length, 0.0) for length in LENGTHS] + [Sample(b, c, 0.0) for b, c in BATCHES]
    return [
        replace(
            sample,
            seconds=predicted_s(real, sample, 2048, truth.server_s) * float(random.lognormal(0, noise)),
        )
        for sample in asked_for
    ]


def errors(asked: Deployment, factors: Factors, samples: list[Sample]) -> list[float]:
    after = replace(asked, calibration=factors.applied(asked.calibration))
    return [abs(predicted_s(after, s, 2048, factors.server_s) / s.seconds - 1) for s in samples]


def test_an_endpoint_as_shipped_changes_nothing(shipped: Deployment) -> None:
    found = fit(shipped, probes(shipped, Factors(server_s=0.018)), step_tokens=2048, server_s=0.018)
    assert (found.memory, found.math, found.fixed) == pytest.approx((1, 1, 1), abs=1e-3)
    assert found.server_s == pytest.approx(0.018, rel=1e-3)


def test_another_endpoint_is_found_through_noise(shipped: Deployment) -> None:
    truth = Factors(memory=1.3, math=1.6, fixed=1.8, server_s=0.05)
    found = fit(shipped, probes(shipped, truth, 0.03), step_tokens=2048, server_s=0.018)
    assert found.math == pytest.approx(1.6, rel=0.1)  # reading and the fixed part look alike to probes
    exact = probes(shipped, truth)
    assert max(errors(shipped, found, exact)) < 0.08
    assert max(errors(shipped, Factors(server_s=0.018), exact)) > 0.4


def test_two_disturbed_probes_do_not_pull(shipped: Deployment) -> None:
    truth = Factors(memory=1.2, math=1.3, fixed=1.4, server_s=0.03)
    disturbed = probes(shipped, truth, 0.02)
    disturbed[3] = replace(disturbed[3], seconds=9 * disturbed[3].seconds)
    disturbed[9] = replace(disturbed[9], seconds=2 * disturbed[9].seconds)
    found = fit(shipped, disturbed, step_tokens=2048, server_s=0.018)
    assert max(errors(shipped, found, probes(shipped, truth))) < 0.1


def test_no_share_exceeds_one(shipped: Deployment) -> None:
    applied = Factors(memory=0.1, math=0.1).applied(shipped.calibration)
    assert all(kind.bandwidth <= 1 for kind in applied.kinds.values())
    assert all(share <= 1 for kind in applied.kinds.values() for share in kind.compute.values())


def test_a_single_probe_moves_little_but_the_server(shipped: Deployment) -> None:
    """What one short prompt cannot tell stays where the prior has it."""
    sample = Sample(0, 32, 0.5)
    found = fit(shipped, [sample], step_tokens=2048, server_s=0.018)
    assert found.math == pytest.approx(1, abs=0.05)
    assert found.server_s > 0.1
