"""Native logits against the dequantized float32 reference, on real files of three families and six types."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from membound.executors.native import NativeExecutor
from membound.executors.reference import ReferenceModel
from membound.models.tokenizer import Tokenizer
from membound.models.weights import open_weights
from tests.real_models import real_model

TEXT = Path(__file__).parents[2] / "benchmarks" / "data" / "us-constitution.txt"
PROMPTS, LENGTH = 20, 64
RELATIVE_L2 = 5e-2  # of the logits, for quantized types
KL_NATS = 2e-3  # mean over positions

Floats = NDArray[np.float64]


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2", "gemma3", "qwen0.5b"])
def test_twenty_prompts_of_a_real_file(name: str) -> None:
    weights = open_weights(real_model(name))
    tokenizer = Tokenizer.from_gguf(weights.metadata)
    start = tokenizer.encode("")  # a prompt begins with this token where the file says so
    ids = tokenizer.encode(TEXT.read_text())[len(start) :]
    step = LENGTH - len(start)
    reference = ReferenceModel(weights)
    native = NativeExecutor(weights, blocks=LENGTH // 16)
    error, size, certain, divergences = 0.0, 0.0, 0, []
    for prompt in range(PROMPTS):
        tokens = start + ids[prompt * step : (prompt + 1) * step]
        wanted, found = reference.logits(tokens), native.logits(tokens)
        error += float(np.square(found - wanted, dtype=np.float64).sum())
        size += float(np.square(wanted, dtype=np.float64).sum())
        expected, got = log_softmax(wanted), log_softmax(found)
        divergences.append((np.exp(expected) * (expected - got)).sum(axis=1).mean())
        # Teacher-forced greedy tokens agree wherever the reference is sure by more than the two differ.
        best = wanted.argmax(axis=1)
        rows = np.arange(LENGTH)
        second = np.partition(wanted, -2, axis=1)[:, -2]
        sure = wanted[rows, best] - second > 2 * np.abs(found - wanted).max(axis=1)
        certain += sure.sum()
        assert (found.argmax(axis=1) == best)[sure].all()
    assert certain > PROMPTS * LENGTH // 4
    assert np.sqrt(error / size) <= RELATIVE_L2
    assert np.mean(divergences) <= KL_NATS
