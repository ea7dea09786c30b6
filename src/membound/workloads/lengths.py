"""How long prompts and outputs are, in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from random import Random
from typing import Protocol

from membound.errors import InputError

Size = tuple[int, int]  # prompt and output tokens, both at least 1


class Lengths(Protocol):
    """An endless supply of sizes; the same random numbers give the same sizes."""

    def draw(self, random: Random) -> Iterator[Size]: ...


@dataclass(frozen=True)
class Fixed:
    """All alike."""

    prompt: int
    output: int

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.output < 1:
            raise InputError(
                f"prompts and outputs have at least one token, not {self.prompt} and {self.output}"
            )

    def draw(self, random: Random) -> Iterator[Size]:
        while True:
            yield self.prompt, self.output


@dataclass(frozen=True)
class Uniform:
    """Each length between `low` and `high` times its nominal value, all equally likely."""

    prompt: int
    output: int
    low: float = 0.8
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.output < 1 or not 0 <= self.low <= self.high:
            raise InputError(
                f"lengths of {self.prompt} and {self.output} tokens cannot range from {self.low} to"
                f" {self.high} times that"
            )

    def draw(self, random: Random) -> Iterator[Size]:
        def one(nominal: int) -> int:
            return max(1, random.randint(round(nominal * self.low), round(nominal * self.high)))

        while True:
            yield one(self.prompt), one(self.output)


@dataclass(frozen=True)
class LogNormal:
    """Independent log-normal lengths of the given means; `spread` is the deviation over the mean."""

    prompt: float
    output: float
    spread: float = 1.0
    most_prompt: int = 131_072
    most_output: int = 16_384

    def draw(self, random: Random) -> Iterator[Size]:
        variance = log(1 + self.spread**2)
        deviation = sqrt(variance)

        def one(mean: float, most: int) -> int:
            return min(most, max(1, round(exp(random.gauss(log(mean) - variance / 2, deviation)))))

        while True:
            yield one(self.prompt, self.most_prompt), one(self.output, self.most_output)


@dataclass(frozen=True)
class Sampled:
    """Sizes drawn from those that were seen, prompt and output together."""

    sizes: Sequence[Size]

    def draw(self, random: Random) -> Iterator[Size]:
        if not self.sizes:
            raise InputError("there are no lengths to draw from")
        while True:
            yield random.choice(self.sizes)


NAMED: dict[str, Lengths] = {
    # Mean lengths of the two datasets, Kwon et al., "Efficient Memory Management for LLM Serving with
    # PagedAttention" (SOSP 2023), figure 11; the shape is an assumption.
    "sharegpt": LogNormal(161.31, 337.99, spread=1.2, most_prompt=2048, most_output=2048),
    "alpaca": LogNormal(19.31, 58.45, spread=1.0, most_prompt=2048, most_output=2048),
}
