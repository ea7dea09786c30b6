"""Sampling in NumPy, exactly as `serving.sampling` defines it: what native kernels are compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from membound.serving.sampling import Sampling, TokenLogprobs

Floats = NDArray[np.float32] | NDArray[np.float64]

_MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """One output of SplitMix64 (Steele, Lea, Flood 2014), of 64 bits."""
    z = (state + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) for the token at `position` of its sequence."""
    return (splitmix64(splitmix64(seed & _MASK) ^ position) >> 11) * 2.0**-53


def sample(
    logits: Floats,
    sampling: Sampling,
    history: Sequence[int],
    prompt_length: int,
    allowed: NDArray[np.int32] | None = None,
) -> tuple[int, TokenLogprobs | None]:
    """The next token, and its log-probabilities if asked for.

    logits: (vocabulary,), raw. history: the known ids, of which the first `prompt_length` are the prompt; the
    sampled token stands at position `len(history)`. allowed: a bit per token, as a constraint tells it.
    """
    raw = np.asarray(logits, dtype=np.float64)
    adjusted = restrict(raw, sampling, allowed)
    if sampling.penalized:
        adjusted = penalize(adjusted, sampling, history, prompt_length)
    if sampling.greedy:
        token = int(np.argmax(adjusted))
    else:
        token = _draw(adjusted / sampling.temperature, sampling, uniform(sampling.seed, len(history)))
    return token, None if sampling.logprobs is None else logprobs(raw, token, sampling.logprobs)


def restrict(
    logits: NDArray[np.float64], sampling: Sampling, allowed: NDArray[np.int32] | None
) -> NDArray[np.float64]:
    """Logits with biases, and without what is forbidden."""
    adjusted = logits.copy()
    if allowed is not None:
        bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")[: len(logits)]
        adjusted[bits == 0] = -np.inf
    for token, bias in sampling.logit_bias:
        adjusted[token] = np.float32(adjusted[token] + np.float32(bias))
    return adjusted


def penalize(
    logits: NDArray[np.float64], sampling: Sampling, history: Sequence[int], prompt_length: int
) -> NDArray[np.float64]:
    """Logits after the penalties. Repetition as in CTRL (Keskar et al. 2019), then presence and frequency."""
    adjusted = logits.copy()
    seen = np.unique(np.asarray(history, dtype=np.int64))
    penalty = sampling.repetition_penalty
    adjusted[seen] = np.where(adjusted[seen] > 0, adjusted[seen] / penalty, adjusted[seen] * penalty)
    output, counts = np.unique(np.asarray(history[prompt_length:], dtype=np.int64), return_counts=True)
    adjusted[output] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return adjusted


def candidates(
    logits: NDArray[np.float64], sampling: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids that the filters leave, by descending logit, ties by lower id; and their weights, not normalized.

    logits: (vocabulary,), penalized and divided by the temperature.
    """
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order] - logits[order[0]])
    keep = int(np.count_nonzero((weights >= sampling.min_p) & (weights > 0)))  # the greatest weighs 1
    if sampling.top_k:
        keep = min(keep, sampling.top_k)
    if sampling.top_p < 1:
        cumulative = np.cumsum(weights[:keep])
        keep = min(keep, int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1)
    return order[:keep], weights[:keep]


def logprobs(logits: NDArray[np.float64], token: int, alternatives: int) -> TokenLogprobs:
    """Log-softmax of the raw logits at the token and at the most probable ids."""
    normalized = logits - logits.max()
    normalized -= np.log(np.exp(normalized).sum())
    top = np.argsort(-logits, kind="stable")[:alternatives]
    return TokenLogprobs(float(normalized[token]), tuple((int(id), float(normalized[id])) for id in top))


def _draw(logits: NDArray[np.float64], sampling: Sampling, u: float) -> int:
    ids, weights = candidates(logits, sampling)
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return int(ids[min(index, len(ids) - 1)])
