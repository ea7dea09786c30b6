"""Speculative decoding: tokens guessed cheaply, and verified as rows of the next step.

A request that samples brings its newest token and `drafts` guessed ones. Each guess is right with a chance of
its own if all before it were; the step yields the right ones and one token more. In the mean, with one chance
a for all, that is (1 - a^(g+1)) / (1 - a) tokens for g drafts (Leviathan, Kalman, Matias, ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from membound.costs.deployment import Deployment
from membound.costs.folded import FoldedCost
from membound.costs.memory import RankMemory
from membound.errors import InputError
from membound.executors.predicted import Chunk, StepSeconds, Window


@dataclass(frozen=True)
class Speculation:
    """`drafter` makes the guesses, one after another; None guesses for nothing, as n-gram look-up does."""

    drafts: int
    acceptance: tuple[float, ...] = (0.7,)  # of each position, given those before it; the last repeats
    drafter: Deployment | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.drafts < 1:
            raise InputError(f"--speculate must be at least 1 draft, it is {self.drafts}")
        if not self.acceptance or not all(0 <= chance <= 1 for chance in self.acceptance):
            raise InputError("--acceptance: give chances between 0 and 1, such as 0.8 or 0.8,0.7,0.5")

    def accepted(self) -> Accepted:
        """A fresh stream of luck."""
        return Accepted(self)

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a verified request yields in the mean."""
        tokens = chance = 1.0
        for position in range(self.drafts):
            chance *= self.chance(position)
            tokens += chance
        return tokens

    def chance(self, position: int) -> float:
        """That a draft is right, if those before it are."""
        return self.acceptance[min(position, len(self.acceptance) - 1)]


class Accepted:
    """How many of so many drafts prove right, time after time."""

    def __init__(self, speculation: Speculation) -> None:
        self._speculation = speculation
        self._random = Random(f"acceptance {speculation.seed}")

    def __call__(self, drafts: int) -> int:
        for position in range(drafts):
            if self._random.random() >= self._speculation.chance(position):
                return position
        return drafts


class DraftedCost:
    """A step of the model, and before it the drafter's: prompts once, a step for each draft."""

    def __init__(self, cost: StepSeconds, drafter: FoldedCost) -> None:
        self._cost = cost
        self._drafter = drafter

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        drafted = [chunk for chunk in chunks if chunk[2] > 1]
        others = [chunk for chunk in chunks if chunk[2] <= 1]
        seconds = self._cost.seconds(sequences, context, chunks)
        if drafted:
            seen = sum(cached for _, cached, _ in drafted)
            windows = dict.fromkeys([None, *self._drafter.windows], seen)
            seconds += (drafted[0][2] - 1) * self._drafter.seconds(len(drafted), windows)
        if others:
            seconds += self._drafter.seconds(0, dict.fromkeys(windows_of(self._drafter), 0), others)
        return seconds

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        return now + self.seconds(sequences, context), 1


def windows_of(cost: FoldedCost) -> list[Window]:
    """The windows of a cost, with the unbounded one."""
    return list(dict.fromkeys([None, *cost.windows]))


def prediction_head(deployment: Deployment) -> Deployment:
    """A multi-token prediction head, as DeepSeek-V3's: one more layer of the model's last kind, and its head.

    Every draft is a step of this one layer.
    """
    layers = deployment.model.layers
    return replace(
        deployment,
        name=f"{deployment.name} (prediction head)",
        model=replace(deployment.model, layers=layers[-1:]),
        layout=replace(deployment.layout, pipeline=1),
        engine="none",
    )


def beside(memory: RankMemory, drafter: RankMemory) -> RankMemory:
    """A rank that holds the drafter's weights and cache as well."""
    return replace(
        memory,
        weight_bytes=memory.weight_bytes + drafter.weight_bytes,
        growing_bytes_per_token=memory.growing_bytes_per_token + drafter.growing_bytes_per_token,
        bounded_bytes_per_sequence=memory.bounded_bytes_per_sequence + drafter.bounded_bytes_per_sequence,
    )
