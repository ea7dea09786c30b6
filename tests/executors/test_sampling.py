"""Sampling by its definition: order of filters, ties, penalties, random numbers, distribution."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from membound.errors import InputError
from membound.executors.sampling import candidates, penalize, sample, splitmix64, uniform
from membound.serving.sampling import Sampling

RNG = np.random.default_rng(7)


def logits_of(probabilities: list[float]) -> NDArray[np.float32]:
    return np.asarray(np.log(probabilities), dtype=np.float32)


def kept(probabilities: list[float], sampling: Sampling) -> list[int]:
    return [int(id) for id in candidates(np.log(np.asarray(probabilities)), sampling)[0]]


def test_splitmix64_is_the_published_one() -> None:
    # the first outputs of the reference implementation for state 1234567
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(splitmix64(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_numbers_depend_on_seed_and_position() -> None:
    numbers = {uniform(seed, position) for seed in range(20) for position in range(20)}
    assert len(numbers) == 400
    assert all(0 <= number < 1 for number in numbers)
    assert uniform(-1, 5) == uniform(2**64 - 1, 5)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), [1, 0, 2, 3]),
        (Sampling(temperature=1, top_k=2), [1, 0]),
        (Sampling(temperature=1, top_k=9), [1, 0, 2, 3]),
        (Sampling(temperature=1, top_p=0.69), [1, 0]),
        (Sampling(temperature=1, top_p=0.71), [1, 0, 2]),
        (Sampling(temperature=1, top_p=1e-9), [1]),
        (Sampling(temperature=1, min_p=0.49), [1, 0, 2]),
        (Sampling(temperature=1, min_p=0.51), [1, 0]),
        (Sampling(temperature=1, min_p=1), [1]),
        # top-p is of what top-k leaves: 0.4 of 0.7 is 0.57
        (Sampling(temperature=1, top_k=2, top_p=0.5), [1]),
        (Sampling(temperature=1, top_k=2, top_p=0.6), [1, 0]),
        # and of what min-p leaves: 0.9 - 0.2 of 0.9
        (Sampling(temperature=1, min_p=0.49, top_p=0.77), [1, 0]),
    ],
)
def test_filters(sampling: Sampling, expected: list[int]) -> None:
    assert kept([0.3, 0.4, 0.2, 0.1], sampling) == expected


def test_ties_go_to_the_lower_id() -> None:
    logits = np.array([1, 3, 3, 2, 3], dtype=np.float32)
    assert sample(logits, Sampling(), [], 0)[0] == 1
    assert kept([0.2, 0.25, 0.25, 0.3], Sampling(temperature=1, top_k=2)) == [3, 1]
    report = sample(logits, Sampling(logprobs=3), [], 0)[1]
    assert report is not None
    assert [token for token, _ in report.top] == [1, 2, 4]


def test_penalties() -> None:
    logits = np.array([2.0, -2.0, 2.0, 2.0, 1.0])
    history = [0, 1, 2, 2]  # prompt 0 1; output 2 2
    repeated = penalize(logits, Sampling(repetition_penalty=2), history, 2)
    assert repeated.tolist() == [1, -4, 1, 2, 1]
    present = penalize(logits, Sampling(presence_penalty=0.5), history, 2)
    assert present.tolist() == [2, -2, 1.5, 2, 1]
    frequent = penalize(logits, Sampling(frequency_penalty=0.5), history, 2)
    assert frequent.tolist() == [2, -2, 1, 2, 1]
    both = penalize(logits, Sampling(repetition_penalty=2, presence_penalty=0.5), history, 2)
    assert both[2] == 0.5, "repetition comes first"
    assert sample(logits.astype(np.float32), Sampling(repetition_penalty=2), history, 2)[0] == 3


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = logits_of([0.5, 0.3, 0.2])
    sampling = Sampling(temperature=5, repetition_penalty=3, top_k=1, logprobs=2)
    token, report = sample(logits, sampling, [0], 1)
    assert report is not None
    assert report.chosen == pytest.approx(math.log([0.5, 0.3, 0.2][token]), abs=1e-6)
    assert [id for id, _ in report.top] == [0, 1]
    assert [chance for _, chance in report.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)
    assert sample(logits, Sampling(), [], 0)[1] is None
    alone = sample(logits, Sampling(logprobs=0), [], 0)[1]
    assert alone is not None
    assert alone.top == ()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_distribution_is_the_softmax(temperature: float) -> None:
    """Chi-square over seeds: 7 degrees of freedom, 24.3 is exceeded once in a thousand."""
    logits = RNG.normal(size=8).astype(np.float32)
    weights = np.exp(logits.astype(np.float64) / temperature)
    expected = 4000 * weights / weights.sum()
    counts = Counter(
        sample(logits, Sampling(temperature=temperature, seed=seed), [], 0)[0] for seed in range(4000)
    )
    observed = np.array([counts[id] for id in range(8)])
    assert ((observed - expected) ** 2 / expected).sum() < 24.3


def test_positions_of_one_sequence_are_independent() -> None:
    """Chi-square of pairs of successive tokens: 9 degrees of freedom, 27.9 once in a thousand."""
    logits = logits_of([0.25] * 4)
    tokens = [
        sample(logits, Sampling(temperature=1, seed=3), [0] * position, 0)[0] for position in range(4001)
    ]
    pairs = Counter(itertools.pairwise(tokens))
    singles = Counter(tokens)
    statistic = 0.0
    for first in range(4):
        for second in range(4):
            expected = singles[first] * singles[second] / 4001
            statistic += (pairs[first, second] - expected) ** 2 / expected
    assert statistic < 27.9


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    temperature=st.floats(0.01, 5),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(-(2**63), 2**64),
)
def test_a_sample_is_among_the_candidates(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    logits = np.array(values, dtype=np.float32)
    ids, weights = candidates(logits.astype(np.float64) / temperature, sampling)
    assert len(ids) >= 1
    assert ids[0] == int(np.argmax(logits))
    assert (np.diff(weights) <= 0).all()
    assert sample(logits, sampling, [], 0)[0] in ids


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("max_tokens", -1),
        ("stop", "text"),
        ("stop", ("",)),
        ("logprobs", -1),
    ],
)
def test_bad_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{field} is "):
        Sampling(**{field: value})  # type: ignore[arg-type]
