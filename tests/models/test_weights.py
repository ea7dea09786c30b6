"""Weights: what is opened is the model that was written, and what cannot be opened is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from membound.executors.reference import ReferenceModel
from membound.models.rope import LinearScaling, Scaling, YarnScaling, yarn_magnitude
from membound.models.weights import open_weights
from tests.small_models import (
    FAMILIES,
    small_architecture,
    write_gguf,
    write_safetensors,
)

TOKENS = [5, 17, 17, 250, 0, 3, 99, 42, 7, 7, 8, 1, 120, 33, 2, 64, 31, 77]


YARN = YarnScaling(factor=4.0, original_context=64, amplitude=yarn_magnitude(4.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", [None, LinearScaling(4.0), YARN])
def test_both_files_give_one_model(family: str, scaling: Scaling | None, tmp_path: Path) -> None:
    """GGUF differs in form: permuted rows, rope of neighbours, norms with one added, other names and keys."""
    architecture = small_architecture(family, scaling=scaling)
    from_gguf = open_weights(write_gguf(tmp_path / "m.gguf", architecture))
    from_folder = open_weights(write_safetensors(tmp_path / "m", architecture))
    np.testing.assert_allclose(
        ReferenceModel(from_gguf).logits(TOKENS), ReferenceModel(from_folder).logits(TOKENS), atol=2e-4
    )
