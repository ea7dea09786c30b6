"""The least time of a step under a roof."""

import pytest
from gguf import GGMLQuantizationType

from membound.costs.roof import Roof, multiply_precision
from membound.models.operators import Work

H100 = Roof(3.35e12, 989.4e12)


def test_the_talk_s_decode_step_is_bound_by_memory() -> None:
    step = Work(flops=2 * 70 * 10**9, weight_bytes=140 * 10**9)
    assert H100.limit_s(step) == pytest.approx(0.0418, rel=1e-3)
    assert H100.bound(step) == "memory"
    assert H100.ridge == pytest.approx(295.3, rel=1e-3)


def test_a_prompt_beyond_the_ridge_is_bound_by_arithmetic() -> None:
    step = Work(flops=512 * 2 * 70 * 10**9, weight_bytes=140 * 10**9)
    assert H100.limit_s(step) == pytest.approx(0.0724, rel=1e-2)
    assert H100.bound(step) == "compute"


def test_precision_of_a_mixed_file_is_its_quickest() -> None:
    types = GGMLQuantizationType
    assert multiply_precision([types.F32, types.Q4_K]) == "int8"
    assert multiply_precision([types.F32, types.BF16]) == "bf16"
    assert multiply_precision([types.F32, types.F16]) == "fp32"
