"""The predicted executor: it says how long a step would take on a described machine, and what ends with it.

Only it knows how many tokens a simulated request will sample; the scheduler never sees that number. A
caught-up request samples one token in every step that decodes, so its end is a step count, known once it has
caught up.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Protocol

from membound.serving.request import Request
from membound.serving.step import Outcome, Step

Window = int | None
Chunk = tuple[int, int, int]  # new tokens, cached tokens, rows that sample

NOBODY: tuple[Request, ...] = ()


class StepSeconds(Protocol):
    """What a step takes: `costs.folded.FoldedCost`, or any stand-in."""

    def seconds(
        self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()
    ) -> float: ...

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]: ...


def chunks_of(step: Step) -> list[Chunk]:
    """The chunks of a step as a cost asks for them."""
    return [
        (count, request.computed, max(0, request.computed + count - request.length + 1))
        for request, count in step.chunks
    ]


class PredictedExecutor:
    """Carries steps out in predicted seconds.

    `token` gives the id of the n-th token of a request where ids are wanted (a server without a model); in
    simulation there are none, and nothing is done for a request that merely decodes. `accepted` says how
    many of so many drafts prove right.
    """

    def __init__(
        self,
        cost: StepSeconds,
        token: Callable[[Request, int], int] | None = None,
        accepted: Callable[[int], int] | None = None,
    ) -> None:
        self.cost = cost
        self._token = token
        self._accepted = accepted
        self._steps = 0  # that decoded
        self._outputs: dict[Request, int] = {}  # tokens that each will sample
        # Step count -> who ends there, if not preempted since: then it has been so more often.
        self._ending: dict[int, list[tuple[Request, int]]] = {}
        self._next: list[int] = []  # heap of these step counts

    def expect(self, request: Request, output_tokens: int) -> None:
        """The request will sample so many tokens and end. Without this it ends only where others end it."""
        self._outputs[request] = output_tokens

    def forget(self, request: Request) -> None:
        """It was aborted."""
        self._outputs.pop(request, None)

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        """Run as often as permitted, but not beyond the first end, nor once the time is `until`."""
        if step.chunks:
            return self._verified(step, now) if self._accepted else self._with_chunks(step, now)
        most = step.repeat
        if self._next and self._next[0] - self._steps < most:
            most = self._next[0] - self._steps
        now, times = self.cost.run(step.decodes, step.context, step.growth, now, until, most)
        self._steps += times
        ended = self._ended() if self._next and self._next[0] == self._steps else NOBODY
        return Outcome(now, times, self._sampled(step, times) if self._token else None, ended)

    def _with_chunks(self, step: Step, now: float) -> Outcome:
        chunks = []
        ended: list[Request] = []
        decodes = 1 if step.decodes else 0
        begun = self._steps + decodes
        for request, count in step.chunks:
            cached, length = request.computed, request.length
            if cached + count < length:
                chunks.append((count, cached, 0))
                continue
            chunks.append((count, cached, 1))
            output = self._outputs.get(request)
            if output is not None:
                left = output - (length - request.prompt_length) - 1
                if not left:
                    ended.append(request)
                    del self._outputs[request]
                    continue
                end = begun + left
                ending = self._ending.get(end)
                if ending is None:
                    ending = self._ending[end] = []
                    heappush(self._next, end)
                ending.append((request, request.preemptions))
        now += self.cost.seconds(step.decodes, step.context, chunks)
        self._steps = begun
        if decodes and self._next and self._next[0] == begun:
            ended += self._ended()
        return Outcome(now, 1, self._sampled(step, 1) if self._token else None, ended)

    def _verified(self, step: Step, now: float) -> Outcome:
        """A step of a scheduler with drafts: everything is a chunk."""
        assert self._accepted is not None
        chunks = chunks_of(step)
        counts: dict[Request, int] = {}
        ended = []
        for (request, _), (_, _, samples) in zip(step.chunks, chunks, strict=True):
            if not samples:
                continue
            left = self._outputs[request] - request.output_length
            count = min(1 + self._accepted(samples - 1), left)
            if samples > 1:
                counts[request] = count
            if count == left:
                ended.append(request)
                del self._outputs[request]
        now += self.cost.seconds(0, step.context, chunks)
        return Outcome(now, ended=ended, counts=counts)

    def _ended(self) -> list[Request]:
        """Those that the latest step brought to their ends; one that was preempted is behind, or gone."""
        forget = self._outputs.pop
        return [
            request
            for request, preemptions in self._ending.pop(heappop(self._next))
            if request.preemptions == preemptions and forget(request, None) is not None
        ]

    def _sampled(self, step: Step, times: int) -> dict[Request, list[int]]:
        """Ids for all that sampled."""
        assert self._token is not None
        token = self._token
        found = {
            request: [token(request, request.output_length + n) for n in range(times)]
            for request in step.decoding()
        }
        for request, count in step.chunks:
            if request.computed + count == request.length:
                found[request] = [token(request, request.output_length)]
        return found
