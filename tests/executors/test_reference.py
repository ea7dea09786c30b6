"""The reference computes what transformers does, however a sequence is cut and wherever its cache lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from membound.executors.reference import ReferenceModel
from membound.models.config_json import architecture_from_config
from membound.models.families import build
from membound.models.weights import open_weights
from tests.golden.seeded import seeded_tensor
from tests.small_models import (
    FAMILIES,
    hf_name,
    safetensors_bytes,
    small_architecture,
    write_safetensors,
)

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = np.load(GOLDEN / "golden.npz")
EXPECTED = dict(zip(FILE["names"].tolist(), FILE["logits"], strict=True))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_logits(name: str, tmp_path: Path) -> None:
    """transformers' config.json as it writes it, and its logits within 1e-3."""
    config = json.loads((GOLDEN / f"{name}.json").read_text())
    architecture = architecture_from_config(config, name)
    tensors = {
        theirs: seeded_tensor(theirs, parameter.shape)
        for parameter in build(architecture).params()
        for theirs in [hf_name(parameter.name, architecture.family)]
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors, "F32"))
    logits = ReferenceModel(open_weights(tmp_path)).logits(FILE["tokens"].tolist())
    np.testing.assert_allclose(logits, EXPECTED[name], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_scattered_slots_change_nothing(family: str, tmp_path: Path) -> None:
    model = ReferenceModel(open_weights(write_safetensors(tmp_path, small_architecture(family))))
    random = np.random.default_rng(1)
    tokens = random.integers(0, 300, 40).tolist()
    slots = random.permutation(64)[:40]
    cache = model.cache(64)
    parts, done = [], 0
    for size in (1, 7, 16, 1, 1, 14):
        parts.append(model.forward(tokens[done : done + size], cache, slots[: done + size]))
        done += size
    np.testing.assert_allclose(np.concatenate(parts), model.logits(tokens), atol=2e-4)


def test_only_the_rows_that_sample_reach_the_head(tmp_path: Path) -> None:
    model = ReferenceModel(open_weights(write_safetensors(tmp_path, small_architecture("qwen3"))))
    tokens = [3, 1, 4, 1, 5, 9]
    last = model.forward(tokens, model.cache(6), np.arange(6), samples=2)
    np.testing.assert_allclose(last, model.logits(tokens)[-2:], atol=1e-5)
    assert model.forward(tokens, model.cache(6), np.arange(6), samples=0).shape == (0, 300)
