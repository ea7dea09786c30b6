"""The quick sums are the ruler's."""

from pathlib import Path

import pytest

from membound.measuring.ruler import Ruler, chunks_of
from membound.measuring.step_work import StepWork
from membound.models.weights import open_weights
from membound.serving.engine import StepRecord
from tests.small_models import small_architecture, write_gguf


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_equals_the_sum_over_operators(family: str, tmp_path: Path) -> None:
    weights = open_weights(write_gguf(tmp_path / "m.gguf", small_architecture(family, window=8)))
    ruler = Ruler(weights, 2)
    quick = StepWork(weights.graph, weights.types, 2)
    for chunks, decodes in [
        (((7, 0),), ()),
        ((), (0, 5, 7, 8, 100)),
        (((3, 6), (20, 1)), (4,)),
        (((1, 0),), (300,) * 40),
    ]:
        record = StepRecord(0.0, 1.0, chunks, decodes)
        work = ruler.work(chunks_of(record))
        assert quick.of(record) == (work.bytes, work.flops)
