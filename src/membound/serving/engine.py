"""The engine: requests in, tokens and text out. It drives scheduler and executor, and decides what ends."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from membound.errors import InputError, MemboundError
from membound.serving.clock import Clock
from membound.serving.constraint import Constraint
from membound.serving.request import GREEDY, Request, State
from membound.serving.sampling import Sampling, TokenLogprobs
from membound.serving.scheduler import Scheduler
from membound.serving.step import Executor, Outcome, Step
from membound.serving.text import Codec, Text

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)
class Event:
    """News of one request."""

    request: Request
    now: float  # seconds, on the engine's clock
    token_ids: list[int] = field(default_factory=list)
    text: str = ""  # may be empty while characters or stop strings are incomplete
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None


@dataclass(slots=True)
class Completion:
    """All that came of one request. An end token is among the ids but not in the text."""

    prompt_tokens: int
    hit_tokens: int = 0  # of the prompt, found in the cache
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason = "abort"
    error: str | None = None
    sent: float = 0.0
    token_times: list[float] = field(default_factory=list)  # when each token was there

    def take(self, event: Event) -> None:
        """Add an event of this request."""
        self.token_ids += event.token_ids
        self.token_times += [event.now] * len(event.token_ids)
        self.text += event.text
        if event.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *event.logprobs]
        if event.finish_reason is not None:
            self.finish_reason, self.error = event.finish_reason, event.error
            self.hit_tokens = event.request.hit_tokens

    @property
    def ttft_s(self) -> float | None:
        """Seconds from sent to the first token."""
        return self.token_times[0] - self.sent if self.token_times else None

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None below two tokens."""
        count = len(self.token_times)
        return (self.token_times[-1] - self.token_times[0]) / (count - 1) if count > 1 else None


class StepRecord(NamedTuple):
    """One executed step, as the roofline needs it."""

    began: float  # seconds, on the engine's clock
    seconds: float  # of the executor alone
    chunks: tuple[tuple[int, int], ...]  # (new tokens, cached tokens) of each request that is catching up
    decodes: tuple[int, ...]  # cached tokens of each request that computed one

    @property
    def tokens(self) -> int:
        return len(self.decodes) + sum(new for new, _ in self.chunks)


class _Track:
    """What the engine keeps about a request that it serves."""

    __slots__ = ("count", "ends", "text")

    def __init__(self, ends: frozenset[int], text: Text | None) -> None:
        self.ends = ends
        self.text = text
        self.count = 0


class Engine:
    """Not for several threads at once; `AsyncEngine` gives it one of its own."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        clock: Clock,
        codec: Codec | None = None,
        *,
        context: int | None = None,
        vocabulary: int | None = None,
        log_steps: int = 10_000,
    ) -> None:
        """`context`: the most tokens of one sequence; `vocabulary`: ids from there on are refused."""
        self.scheduler = scheduler
        self.executor = executor
        self.clock = clock
        self.codec = codec
        cache = scheduler.pool.blocks * scheduler.block_tokens
        self.context = cache if context is None else min(context, cache)
        self.vocabulary = vocabulary
        self.log: deque[StepRecord] = deque(maxlen=log_steps)  # the latest steps
        self.steps = 0  # how many there were
        self._ends = frozenset(codec.end_ids) if codec else frozenset[int]()
        self._tracks: dict[Request, _Track] = {}
        self._empty: list[Request] = []  # that want no token: they end before the next step
        self._added = 0

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._empty) or self.scheduler.busy

    def encode(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """The ids of a prompt."""
        if not isinstance(prompt, str):
            return prompt
        if self.codec is None:
            raise InputError("this engine has no tokenizer: give the prompt as token ids")
        return self.codec.encode(prompt)

    def check(self, ids: Sequence[int], sampling: Sampling) -> int:
        """The most tokens that such a request may make; InputError if it has no place. For any thread."""
        if not ids:
            raise InputError("the prompt is empty: give at least one token")
        room = self.context - len(ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the context {self.context}: shorten the prompt"
                " or raise the context"
            )
        if sampling.max_tokens is not None and sampling.max_tokens > room:
            raise InputError(
                f"{len(ids)} prompt tokens and {sampling.max_tokens} new ones exceed the context of"
                f" {self.context}: lower max_tokens to {room} or raise the context"
            )
        if self.vocabulary is not None and ids and not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise InputError(f"a prompt's token ids must lie between 0 and {self.vocabulary - 1}")
        if sampling.stop and self.codec is None:
            raise InputError("this engine has no tokenizer: stop at stop_ids instead of stop strings")
        return room if sampling.max_tokens is None else sampling.max_tokens

    def add(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling = GREEDY,
        constraint: Constraint | None = None,
    ) -> Request:
        """Queue a request; InputError if its prompt is empty, too long, or out of the vocabulary."""
        ids = self.encode(prompt)
        most = self.check(ids, sampling)
        request = Request(self._added, ids, sampling, max_tokens=most, arrival=self.clock.now())
        request.constraint = constraint
        if most:
            self.scheduler.add(request)
        else:
            self._empty.append(request)
        self._added += 1
        ends = sampling.stop_ids if sampling.ignore_eos else sampling.stop_ids | self._ends
        text = Text(self.codec, request.tokens, sampling.stop) if self.codec else None
        self._tracks[request] = _Track(ends, text)
        return request

    def abort(self, request: Request) -> Event | None:
        """Stop serving a request; None if it has ended already. Its blocks are free at the next step."""
        if self._tracks.pop(request, None) is None:
            return None
        self.scheduler.abort(request)
        return Event(request, self.clock.now(), finish_reason="abort")

    def step(self) -> list[Event]:
        """Run one step; what came of it, by request. If the executor fails, its requests end in error."""
        if self._empty:
            return self._end_empty()
        step = self.scheduler.schedule()
        if step is None:
            return []
        step.repeat = 1  # new requests may come at any time
        chunks = tuple((count, request.computed) for request, count in step.chunks)
        decodes = self.scheduler.cached_tokens(step)
        began = self.clock.now()
        for request, _ in step.chunks:
            if request.admitted is None:
                request.admitted = began
        try:
            outcome = self.executor.execute(step, began, began)
        except Exception as error:
            return self._fail(step, error)
        except BaseException as interrupt:
            self._fail(step, interrupt)
            raise
        outcome.now = self.clock.reach(outcome.now)
        seconds = outcome.now - began if outcome.seconds is None else outcome.seconds
        self.log.append(StepRecord(began, seconds, chunks, decodes))
        self.steps += 1
        events, outcome.ended = self._take(outcome)
        self.scheduler.commit(outcome)
        return events

    def generate(
        self, prompts: Iterable[str | Sequence[int]], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """Serve all prompts together; their completions in the order of the prompts."""
        encoded = [self.encode(prompt) for prompt in prompts]
        completions: dict[Request, Completion] = {}
        try:
            for ids in encoded:
                request = self.add(ids, sampling)
                completions[request] = Completion(len(ids), sent=request.arrival)
            while any(request.state is not State.ENDED for request in completions):
                for event in self.step():
                    if event.request in completions:
                        completions[event.request].take(event)
        except BaseException:
            for request in completions:
                self.abort(request)
            raise
        return list(completions.values())

    def _end_empty(self) -> list[Event]:
        """Whoever wants no token has all it wants."""
        now = self.clock.now()
        events = []
        for request in self._empty:
            request.state = State.ENDED
            if self._tracks.pop(request, None) is not None:
                events.append(Event(request, now, finish_reason="length"))
        self._empty.clear()
        return events

    def _take(self, outcome: Outcome) -> tuple[list[Event], list[Request]]:
        """Tokens become events; which requests end with them."""
        events: list[Event] = []
        ended = list(outcome.ended)
        now = outcome.now
        for request, tokens in (outcome.tokens or {}).items():
            track = self._tracks.get(request)
            if track is None:
                continue  # aborted
            reason, text = self._push(request, track, tokens, request in outcome.ended)
            logprobs = outcome.logprobs.get(request) if outcome.logprobs else None
            events.append(Event(request, now, tokens, text, logprobs, reason))
            if reason is not None:
                del self._tracks[request]
                ended.append(request)
        for request in outcome.ended:
            if self._tracks.pop(request, None) is not None:  # ended without a token
                events.append(Event(request, now, finish_reason="stop"))
        return events, list(dict.fromkeys(ended))

    def _push(
        self, request: Request, track: _Track, tokens: list[int], ended: bool
    ) -> tuple[FinishReason | None, str]:
        """Why it ends with these tokens, if it does, and the text that they bring."""
        reason: FinishReason | None = "stop" if ended else None
        piece = ""
        text = track.text
        constraint = request.constraint
        for token in tokens:
            track.count += 1
            if constraint is not None:
                constraint.accept(token)
            if token in track.ends:
                reason = "stop"
            elif text is not None:
                piece += text.push(token)
                if text.stopped:
                    return "stop", piece
        if reason is None and track.count >= request.max_tokens:
            reason = "length"
        if reason is not None and text is not None:
            piece += text.finish()
            if text.stopped:
                reason = "stop"
        return reason, piece

    def _fail(self, step: Step, error: BaseException) -> list[Event]:
        """The step did not happen: its requests end, the others go on."""
        now = self.clock.now()
        message = str(error) if isinstance(error, MemboundError) else f"the step failed: {error!r}"
        events = []
        for request in step.running:
            self.scheduler.abort(request)
            if self._tracks.pop(request, None) is not None:
                events.append(Event(request, now, finish_reason="error", error=message))
        self.scheduler.commit(Outcome(now, times=0))
        return events
