"""The seam between the scheduler and whoever carries its steps out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from membound.serving.request import Request
from membound.serving.sampling import TokenLogprobs


@dataclass(slots=True)
class Step:
    """What runs now. It holds only what is not the rule: caught-up requests compute one token each.

    A chunk `(request, n)` computes positions `request.computed … request.computed + n - 1`, and samples if
    and only if that reaches `request.length`. Positions beyond are drafts, which the step verifies. A
    decoding request computes position `request.length - 1` and always samples. `request.blocks` already has
    room for all of them.
    """

    chunks: list[tuple[Request, int]]
    """Requests catching up, and how many tokens each computes now."""
    running: Sequence[Request]
    """The scheduler's own list, in order, not copied: caught-up requests first, then those of the chunks."""
    decodes: int
    """How many of them are caught up."""
    context: dict[int | None, int]
    """Cached tokens of the caught-up requests before the step, summed per window: Σ min(cached, window)."""
    growth: dict[int | None, int]
    """By how much each sum of `context` grows from one repetition to the next."""
    preempted: list[Request]
    """Requests that lost their blocks to this step and wait again, in the order in which they lost them."""
    tokens: int
    """Computed by one run of the step."""
    repeat: int = 1
    """Permission to run up to this many such steps at once; more than 1 only without chunks."""
    grown: Collection[Request] = ()
    """The caught-up requests that have a block more than before."""

    def decoding(self) -> Iterator[Request]:
        """The caught-up requests, in running order."""
        return islice(self.running, self.decodes)


@dataclass(slots=True)
class Outcome:
    """What came of a step."""

    now: float
    """The time after it, in seconds."""
    times: int = 1
    """How many times it ran: 1 … step.repeat; 0 if it failed, and nothing was computed."""
    tokens: Mapping[Request, list[int]] | None = None
    """The sampled ids of each request that sampled, one per time; None where tokens have no ids."""
    ended: Collection[Request] = ()
    """Requests whose last token this was."""
    counts: Mapping[Request, int] | None = None
    """How many tokens each request sampled whose drafts were verified: at least one, at most one more."""
    seconds: float | None = None
    """What it took where `now` does not tell: a predicted step may begin before the clock says so."""
    logprobs: Mapping[Request, list[TokenLogprobs]] | None = None
    """For requests that asked, one per sampled token."""


class Executor(Protocol):
    """Carries steps out: kernels on this machine, or a prediction of a described one."""

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        """Run `step`, which starts at `now`.

        Kernels run it once. A prediction may run it up to `step.repeat` times, and stops at the first end or
        once the time reaches `until`, the next arrival.
        """
        ...
