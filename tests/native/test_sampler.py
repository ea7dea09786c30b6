"""The native sampler against the oracle in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from membound import _core
from membound.executors import sampling as oracle
from membound.executors.native import kernel_settings
from membound.serving.sampling import Sampling

Floats = NDArray[np.float32]
ISAS = _core.isas()
BIASES = st.sampled_from([-100.0, -1.5, 0.25, 3.0, 100.0])


def native(
    logits: Floats,
    sampling: Sampling,
    history: list[int],
    prompt: int,
    isa: str = "",
    allowed: NDArray[np.int32] | None = None,
) -> tuple[int, _core.Report]:
    row = kernel_settings(sampling, prompt)
    row.extend(history)
    if allowed is not None:
        row.allow(allowed)
    return _core.sample(row, len(history), logits, isa)


def bits_of(tokens: set[int], vocab: int) -> NDArray[np.int32]:
    flags = np.zeros(-(-vocab // 32) * 32, np.uint8)
    flags[list(tokens)] = 1
    return np.packbits(flags, bitorder="little").view(np.int32)


def random_logits(vocab: int, spread: float, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, vocab).astype(np.float32)


@given(
    vocab=st.integers(1, 700),
    spread=st.sampled_from([0.0, 0.01, 1.0, 8.0, 100.0]),
    data=st.data(),
    isa=st.sampled_from(ISAS),
)
@settings(max_examples=300, deadline=None)
def test_same_tokens_as_the_oracle(vocab: int, spread: float, data: st.DataObject, isa: str) -> None:
    logits = random_logits(vocab, spread, data.draw(st.integers(0, 1000)))
    if data.draw(st.booleans()):
        logits = np.round(logits)  # many ties
    sampling = Sampling(
        temperature=data.draw(st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0])),
        top_k=data.draw(st.sampled_from([0, 0, 1, 5, 40, 1000])),
        top_p=data.draw(st.sampled_from([1.0, 1.0, 0.95, 0.5, 1e-6])),
        min_p=data.draw(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])),
        repetition_penalty=data.draw(st.sampled_from([1.0, 1.0, 1.3, 0.8])),
        presence_penalty=data.draw(st.sampled_from([0.0, 0.0, 0.5, -1.0])),
        frequency_penalty=data.draw(st.sampled_from([0.0, 0.0, 0.25])),
        logit_bias=tuple(data.draw(st.dictionaries(st.integers(0, vocab - 1), BIASES, max_size=4)).items()),
        seed=data.draw(st.integers(0, 2**64 - 1)),
        logprobs=data.draw(st.sampled_from([None, 0, 1, 5, 1000])),
    )
    history = data.draw(st.lists(st.integers(0, vocab - 1), max_size=30))
    prompt = data.draw(st.integers(0, len(history)))

    allowed = None
    if data.draw(st.booleans()):
        some = data.draw(st.sets(st.integers(0, vocab - 1), min_size=1, max_size=5))
        allowed = bits_of(some, vocab)

    expected, chances = oracle.sample(logits, sampling, history, prompt, allowed)
    token, (chosen, top) = native(logits, sampling, history, prompt, isa, allowed)
    assert token == expected
    assert allowed is None or token in some
    if chances is not None:
        assert chosen == pytest.approx(chances.chosen, abs=1e-9)
        assert [id for id, _ in top] == [id for id, _ in chances.top]
        np.testing.assert_allclose([p for _, p in top], [p for _, p in chances.top], atol=1e-9)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.02}, {"top_k": 200, "top_p": 0.8, "min_p": 0.001}],
    ids=str,
)
def test_a_large_vocabulary(options: dict[str, Any], isa: str) -> None:
    logits = random_logits(262_144, 3.0, 1)
    for seed in range(4):
        for temperature in (0.6, 1.5):
            sampling = Sampling(temperature=temperature, seed=seed, **options)
            assert (
                native(logits, sampling, [1, 2], 1, isa)[0] == oracle.sample(logits, sampling, [1, 2], 1)[0]
            )


@pytest.mark.parametrize("isa", ISAS)
def test_greedy_takes_the_first_of_equals_wherever_it_stands(isa: str) -> None:
    for vocab in (1, 3, 16, 31, 64, 65, 257):
        for place in {0, vocab // 2, vocab - 1}:
            logits = np.full(vocab, -5.0, np.float32)
            logits[place:] = 2.0
            assert native(logits, Sampling(), [], 0, isa)[0] == place


@pytest.mark.parametrize("isa", ISAS)
def test_logits_that_are_no_numbers_give_a_token(isa: str) -> None:
    for value in (np.nan, np.inf, -np.inf):
        for sampling in (
            Sampling(),
            Sampling(temperature=1.0),
            Sampling(temperature=1.0, top_p=0.5, min_p=0.1),
        ):
            token, _ = native(np.full(100, value, np.float32), sampling, [], 0, isa)
            assert 0 <= token < 100


def test_shares_follow_the_distribution() -> None:
    probabilities = np.array([0.5, 0.2, 0.2, 0.1])
    logits = np.log(probabilities).astype(np.float32)
    tokens = [native(logits, Sampling(temperature=1.0, seed=seed), [], 0)[0] for seed in range(4000)]
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 4000, probabilities, atol=0.03)


def test_a_history_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="history holds a token outside the vocabulary"):
        native(np.zeros(10, np.float32), Sampling(repetition_penalty=1.2), [10], 0)
    with pytest.raises(ValueError, match="history is shorter than its prompt"):
        native(np.zeros(10, np.float32), Sampling(repetition_penalty=1.2), [1], 2)
    with pytest.raises(ValueError, match="a bias is of a token outside the vocabulary"):
        native(np.zeros(10, np.float32), Sampling(logit_bias=((10, 1.0),)), [1], 1)
    with pytest.raises(ValueError, match="no logits"):
        native(np.zeros(0, np.float32), Sampling(), [], 0)
