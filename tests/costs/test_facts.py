"""The talk's chain of claims, each through the public API and from the catalogs."""

from dataclasses import replace

import pytest

from membound.costs.calibration import IDEAL, Efficiency
from membound.costs.memory import rank_memories
from membound.hardware.lookup import find
from membound.models.families import build
from membound.models.mixtures import expected_distinct
from membound.models.names import dimensions_of
from tests.costs.deployments import LLAMA, deployment

SEVENTY_PERCENT = replace(IDEAL, kinds={"matmul": Efficiency(bandwidth=0.7)})


def intensity(batch: int, context: int) -> float:
    step = deployment().estimate([(1, context - 1)] * batch)
    return step.flops / step.bytes


def test_140_gb_are_read_per_step() -> None:
    whole = build(dimensions_of(LLAMA)).parameters() * 2
    assert whole == 141_107_412_992
    assert deployment().estimate([(1, 0)]).bytes == pytest.approx(
        139.0e9, rel=1e-3
    )  # without the look-up table


def test_capped_near_24_tokens_per_second_and_300_times_left_of_the_ridge() -> None:
    step = deployment().estimate([(1, 0)])
    assert 1 / step.seconds == pytest.approx(23.9, rel=0.01)
    assert step.flops / step.bytes == pytest.approx(1.0, rel=1e-3)
    assert find("h100-sxm").accelerator.ridge() / (step.flops / step.bytes) == pytest.approx(295.3, abs=0.5)
    assert step.bound == "memory"


def test_140_gb_do_not_fit_one_h100_and_two_reach_48() -> None:
    assert rank_memories(deployment())[0].fits is False
    two = deployment(hardware="2xh100-sxm", tp=2)
    assert rank_memories(two)[0].fits is True
    without_links = sum(op.seconds for op in two.estimate([(1, 0)]).operations if op.bound != "link")
    assert 1 / without_links == pytest.approx(47.9, rel=0.01)


def test_30_ms_and_less_than_a_tenth_of_math() -> None:
    two = deployment(hardware="2xh100-sxm", tp=2, calibration=SEVENTY_PERCENT).estimate([(1, 0)])
    assert sum(op.seconds for op in two.operations if op.bound != "link") == pytest.approx(29.9e-3, rel=0.015)
    assert two.flops / 989.4e12 == pytest.approx(0.071e-3, rel=0.02)
    one = deployment(weights="fp8", calibration=SEVENTY_PERCENT).estimate([(1, 0)])
    assert one.seconds == pytest.approx(29.9e-3, rel=0.03)
    assert rank_memories(deployment(weights="fp8"))[0].fits is True


@pytest.mark.parametrize(("tokens", "seconds"), [(295, 41.7e-3), (512, 72.4e-3), (2048, 290e-3)])
def test_prefill_is_compute_bound_above_the_ridge(tokens: int, seconds: float) -> None:
    step = deployment().estimate([(tokens, 0)])
    assert step.seconds == pytest.approx(seconds, rel=0.01)
    assert step.bound == ("memory" if tokens <= 295 else "compute")


def test_kv_cache_is_320_kib_per_token() -> None:
    graph = build(dimensions_of(LLAMA))
    assert graph.kv_bytes_per_token(2) == 320 * 1024
    assert graph.kv_bytes_per_token(1) == 160 * 1024
    assert graph.kv_bytes_per_token(2) * 64 / 8 == 2.5 * 2**20  # without GQA


@pytest.mark.parametrize(("context", "limit"), [(1024, 425), (4096, 112), (8192, 60), (131_072, 11)])
def test_batching_cannot_rescue_long_contexts(context: int, limit: float) -> None:
    endless = intensity(100_000, context)
    assert endless == pytest.approx(limit, rel=0.03)
    assert endless == pytest.approx((140e9 + 2.62e6 * context) / (327_680 * context), rel=0.015)
    assert intensity(64, context) < endless


def test_above_1487_tokens_no_batch_is_compute_bound() -> None:
    ridge = find("h100-sxm").accelerator.ridge()
    assert intensity(100_000, 1450) > ridge > intensity(100_000, 1500)


@pytest.mark.parametrize(("model", "expected"), [(LLAMA, 8.0), ("Llama-2-7b", 1.0), ("DeepSeek-V3", 242.0)])
@pytest.mark.parametrize(("batch", "context"), [(1, 16_384), (32, 65_536)])
def test_intensity_of_attention_alone(model: str, expected: float, batch: int, context: int) -> None:
    cost = deployment(model, "b200-sxm")
    attention = next(op for op in cost.estimate([(1, context - 1)] * batch).operations if op.name == "attn")
    assert attention.flops / attention.bytes == pytest.approx(expected, rel=0.01)


def test_one_sequence_of_128k() -> None:
    assert build(dimensions_of(LLAMA)).kv_bytes_per_token(2) * 131_072 == 40 * 2**30
    assert deployment().step_seconds([(1, 131_071)]) == pytest.approx(54.6e-3, rel=0.01)


def test_speculation_is_free_until_the_ridge() -> None:
    """With 16-bit weights, verification costs nothing until batch x (g + 1) reaches the ridge."""
    cost = deployment(calibration=IDEAL)
    plain = cost.step_seconds([(1, 100)])
    assert cost.step_seconds([(294, 100)]) == pytest.approx(plain, rel=0.01)
    assert cost.step_seconds([(2 * 295, 100)]) == pytest.approx(2 * plain, rel=0.02)
    verify, one = cost.estimate([(4, 4096)]), cost.estimate([(1, 4096)])
    reuse = [next(op.flops / op.bytes for op in e.operations if op.name == "attn") for e in (verify, one)]
    assert reuse[0] / reuse[1] == pytest.approx(4, rel=0.01)


def test_experts_hit_by_a_batch() -> None:
    assert expected_distinct(256, 8, 1) == pytest.approx(8)
    assert expected_distinct(256, 8, 64) == pytest.approx(256 * (1 - (1 - 8 / 256) ** 64))
    assert expected_distinct(256, 8, 10_000) == pytest.approx(256)
    for rows in (2, 16, 256):
        assert expected_distinct(256, 8, rows, skew=1.0) < expected_distinct(256, 8, rows)
    assert expected_distinct(256, 8, 1, skew=1.0) == pytest.approx(8)
    few, many = deployment("DeepSeek-V3", "b200-sxm", skew=1.2), deployment("DeepSeek-V3", "b200-sxm")
    assert few.estimate([(1, 100)] * 32).bytes < many.estimate([(1, 100)] * 32).bytes
