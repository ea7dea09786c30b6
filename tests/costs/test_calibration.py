"""The shipped efficiencies: shares of peaks, each with its error, and what they turn a roof into."""

import tomllib

import pytest

from membound.costs.calibration import FILE, IDEAL, fitted
from membound.errors import InputError
from tests.costs.deployments import deployment

KINDS = ("matmul", "attention", "prefill", "experts", "recurrence", "other")


def test_no_share_exceeds_the_peak_and_every_value_has_an_error() -> None:
    shipped = fitted()
    for kind in KINDS:
        efficiency = shipped.kind(kind)
        assert 0 < efficiency.bandwidth <= 1
        assert all(0 < share <= 1 for share in efficiency.compute.values())
        assert efficiency.launch_s < 1e-4
    assert 0 < shipped.link_share <= 1
    tables = tomllib.loads(FILE.read_text())
    groups = [tables["form"], tables["collectives"], *tables["kinds"].values(), *tables["engines"].values()]
    for group in groups:
        for name, value in group.items():
            assert name == "source" or set(value) == {"value", "error"}


def test_engines_add_what_they_add() -> None:
    known = deployment(calibration=fitted()).estimate([(1, 100)] * 4)
    extra = next(op.seconds for op in known.operations if op.name == "engine")
    vllm = fitted().on("vllm", "h100-sxm").engine("vllm")
    assert extra == pytest.approx(80 * vllm.per_layer_s + vllm.per_step_s + 4 * vllm.per_sequence_s)
    with pytest.raises(InputError, match="--engine ollama: one of vllm"):
        fitted().engine("ollama")


def test_ideal_is_the_datasheet_alone() -> None:
    step = deployment(calibration=IDEAL).estimate([(1, 100)] * 4)
    assert step.seconds == pytest.approx(sum(op.limit_seconds for op in step.operations))
    assert step.limit_seconds == pytest.approx(step.bytes / 3.35e12)
    assert {op.source for op in step.operations} == {"datasheet"}


def test_the_talks_30_ms_are_what_the_fit_predicts() -> None:
    """70B on two H100s: the datasheet says 20.7 ms, engines take about 30."""
    assert (
        26e-3 < deployment(hardware="2xh100-sxm", tp=2, calibration=fitted()).step_seconds([(1, 0)]) < 33e-3
    )
