"""How the next token is chosen from the logits: the settings of one request, checked once.

The order is fixed, and every executor follows it:

0. tokens that the request's constraint forbids are out, and biases are added, in float32;
1. penalties: repetition over prompt and output (CTRL: a positive logit is divided by it, a negative one
   multiplied), then presence (once) and frequency (per occurrence) over the output, subtracted;
2. temperature divides; temperature 0 stops here and takes the greatest logit, ties to the lower id;
3. min-p keeps tokens with at least `min_p` times the greatest probability;
4. top-k keeps the k greatest logits;
5. top-p keeps the shortest head, by descending probability, that holds at least `top_p` of what is left;
6. the inverse of the cumulative distribution over the tokens that are left, sorted by descending logit,
   ties by lower id, in float64, at `u`.

`u` depends on the seed and the position of the sampled token in its sequence alone, so that neither batching
nor preemption changes an output: `z = splitmix64(splitmix64(seed) ^ position)`, `u = (z >> 11) * 2**-53`.
Log-probabilities are of the raw logits.
"""

import math
from dataclasses import dataclass

from membound.errors import InputError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of one request. The default is greedy, until an end token or a full context."""

    temperature: float = 0.0
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    seed: int = 0  # its low 64 bits count
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None  # how many alternatives to report; 0 reports the chosen token alone

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "at least 0")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0; 0 keeps all tokens")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(
            0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0"
        )
        _require(
            -2 <= self.presence_penalty <= 2, "presence_penalty", self.presence_penalty, "between -2 and 2"
        )
        _require(
            -2 <= self.frequency_penalty <= 2, "frequency_penalty", self.frequency_penalty, "between -2 and 2"
        )
        _require(
            all(id >= 0 and math.isfinite(bias) for id, bias in self.logit_bias),
            "logit_bias",
            self.logit_bias,
            "of token ids and finite numbers",
        )
        _require(self.max_tokens is None or self.max_tokens >= 0, "max_tokens", self.max_tokens, "at least 0")
        _require(not isinstance(self.stop, str), "stop", self.stop, "a tuple of strings, not one string")
        _require(all(self.stop), "stop", self.stop, "free of empty strings")
        _require(self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "at least 0")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalized(self) -> bool:
        """Whether the tokens so far change the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities of the raw logits, for one sampled token."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), most probable first, ties by lower id


def _require(holds: bool, field: str, value: object, wanted: str) -> None:
    if not holds:
        raise InputError(f"{field} is {value!r}; it must be {wanted}")
