"""What arrives when: the requests of a workload, as the simulator and the load tester both send them.

A workload is a description that can be begun any number of times; the same seed gives the same traffic.
Traffic is an iterator of the arrivals that come of themselves, in order of time, and says what the end of a
request brings: the next request of a closed loop, or the next turn of a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import NamedTuple, Protocol

from membound.errors import InputError
from membound.workloads.lengths import Lengths

BLOCK_TOKENS = 16  # tokens that a prefix key of a synthetic workload stands for


class Arrival(NamedTuple):
    """One request as a user sends it."""

    time_s: float  # since the workload began
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[Hashable] = ()
    """Names of its leading runs of `key_tokens` tokens. Equal names: everything up to there is equal. They
    may go on beyond the prompt, where a later turn of the conversation will repeat the answer."""
    session: int = -1  # the conversation it belongs to; -1: none
    turn: int = 0


class Traffic(Protocol):
    """A workload that has begun."""

    responds: bool
    """Whether the end of a request may bring another."""

    def __iter__(self) -> Iterator[Arrival]:
        """Those that come of themselves, in order of time. To be asked once."""
        ...

    def after(self, ended: Arrival, now: float) -> Arrival | None:
        """What the end of a request at `now` brings, not before `now`."""
        ...


class Workload(Protocol):
    """What to send: `begin` it to get the traffic."""

    @property
    def key_tokens(self) -> int:
        """Tokens that each prefix key stands for."""
        ...

    def begin(self) -> Traffic: ...


@dataclass(frozen=True)
class Open:
    """Requests that come whatever becomes of them; `make` gives their iterator anew, in order of time."""

    make: Callable[[], Iterable[Arrival]]
    key_tokens: int = BLOCK_TOKENS

    def begin(self) -> OpenTraffic:
        return OpenTraffic(iter(self.make()))


class OpenTraffic:
    """Traffic in which ends bring nothing."""

    responds = False

    def __init__(self, arrivals: Iterator[Arrival]) -> None:
        self._arrivals = arrivals

    def __iter__(self) -> Iterator[Arrival]:
        return self._arrivals

    def after(self, ended: Arrival, now: float) -> Arrival | None:
        return None


# Gaps between arrivals, in seconds, endless.


def poisson(rate: float, random: Random) -> Iterator[float]:
    """Independent arrivals: `rate` per second in the mean."""
    while True:
        yield random.expovariate(rate)


def gamma(rate: float, burstiness: float, random: Random) -> Iterator[float]:
    """Gaps of shape `burstiness`, as in vLLM's benchmark: 1 is Poisson, less is bursty, more is steady."""
    while True:
        yield random.gammavariate(burstiness, 1 / (burstiness * rate))


def constant(rate: float) -> Iterator[float]:
    """Evenly spaced."""
    while True:
        yield 1 / rate


def ramp(first: float, last: float, duration_s: float, random: Random) -> Iterator[float]:
    """A Poisson process whose rate goes from `first` to `last` per second in `duration_s`, then stays."""
    now, highest = 0.0, max(first, last)
    gap = 0.0
    while True:  # thinning: candidates at the highest rate, each kept with the share of its moment's rate
        gap += random.expovariate(highest)
        moment = min(1.0, (now + gap) / duration_s)
        if random.random() * highest < first + (last - first) * moment:
            now += gap
            yield gap
            gap = 0.0


def synthetic(
    gaps: Callable[[Random], Iterator[float]], lengths: Lengths, requests: int, seed: int = 0
) -> Open:
    """So many requests, with the gaps and lengths that are asked for.

    Gaps and lengths have generators of their own: another rate brings the same requests at other times.
    """

    def arrivals() -> Iterator[Arrival]:
        now = 0.0
        sizes = lengths.draw(Random(f"lengths {seed}"))
        for gap, (prompt, output) in islice(zip(gaps(Random(f"gaps {seed}")), sizes, strict=False), requests):
            now += gap
            yield Arrival(now, prompt, output)

    return Open(arrivals)


def open_loop(
    rate: float, lengths: Lengths, requests: int, *, burstiness: float = 1.0, seed: int = 0
) -> Open:
    """`rate` requests per second in the mean: Poisson, or of another burstiness; infinity is even."""
    if not rate > 0:
        raise InputError(f"the rate must be above 0 requests per second, it is {rate}")
    if not burstiness > 0:
        raise InputError(f"the burstiness must be above 0 (1 is Poisson), it is {burstiness}")
    if burstiness == float("inf"):
        return synthetic(lambda random: constant(rate), lengths, requests, seed)
    if burstiness == 1:
        return synthetic(lambda random: poisson(rate, random), lengths, requests, seed)
    return synthetic(lambda random: gamma(rate, burstiness, random), lengths, requests, seed)


def ramped(
    first: float, last: float, duration_s: float, lengths: Lengths, requests: int, seed: int = 0
) -> Open:
    """Poisson arrivals whose rate goes from `first` to `last` in `duration_s` seconds, then stays."""
    if not (first >= 0 and last > 0 and duration_s > 0 and max(first, last, duration_s) < float("inf")):
        raise InputError(
            f"a ramp needs finite rates and a duration above 0, it has {first}, {last}, {duration_s}"
        )
    return synthetic(lambda random: ramp(first, last, duration_s, random), lengths, requests, seed)


@dataclass(frozen=True)
class ClosedLoop:
    """`concurrency` users: each sends, waits for the end, thinks, and sends again; `requests` in all.

    The users begin `stagger_s` after one another; 0 is a burst. Thinking is exponential around `think_s`.
    """

    concurrency: int
    lengths: Lengths
    requests: int
    think_s: float = 0.0
    stagger_s: float = 0.0
    seed: int = 0
    key_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"the concurrency must be at least 1, it is {self.concurrency}")
        if self.think_s < 0 or self.stagger_s < 0:
            raise InputError("thinking and staggering take 0 seconds or more")

    def begin(self) -> ClosedTraffic:
        return ClosedTraffic(self)


class ClosedTraffic:
    """The users of a closed loop; lengths are dealt in the order in which requests are sent."""

    responds = True

    def __init__(self, loop: ClosedLoop) -> None:
        self._loop = loop
        self._sizes = islice(loop.lengths.draw(Random(f"lengths {loop.seed}")), loop.requests)
        self._random = Random(f"thinking {loop.seed}")

    def __iter__(self) -> Iterator[Arrival]:
        for user in range(self._loop.concurrency):
            size = next(self._sizes, None)
            if size is None:
                return
            yield Arrival(user * self._loop.stagger_s, *size)

    def after(self, ended: Arrival, now: float) -> Arrival | None:
        size = next(self._sizes, None)
        if size is None:
            return None
        think = self._loop.think_s
        return Arrival(now + (self._random.expovariate(1 / think) if think else 0.0), *size)


@dataclass(frozen=True)
class SharedPrefix:
    """Every request of another workload begins with one of `prefixes` common texts of `prefix_tokens` tokens.

    Which one is drawn evenly, or falling as rank^-skew; the prompt grows by it.
    """

    workload: Workload
    prefix_tokens: int
    prefixes: int = 1
    skew: float = 0.0
    seed: int = 0

    @property
    def key_tokens(self) -> int:
        return self.workload.key_tokens

    def begin(self) -> SharedPrefixTraffic:
        return SharedPrefixTraffic(self)


class SharedPrefixTraffic:
    """Puts a common text before each arrival."""

    def __init__(self, described: SharedPrefix) -> None:
        self._traffic = described.workload.begin()
        self.responds = self._traffic.responds
        self._random = Random(f"prefixes {described.seed}")
        self._tokens = described.prefix_tokens
        blocks = described.prefix_tokens // described.key_tokens
        self._keys = [
            tuple(("prefix", prefix, block) for block in range(blocks))
            for prefix in range(described.prefixes)
        ]
        self._weights = [(rank + 1) ** -described.skew for rank in range(described.prefixes)]

    def __iter__(self) -> Iterator[Arrival]:
        return map(self._prefixed, self._traffic)

    def after(self, ended: Arrival, now: float) -> Arrival | None:
        arrival = self._traffic.after(ended, now)
        return None if arrival is None else self._prefixed(arrival)

    def _prefixed(self, arrival: Arrival) -> Arrival:
        keys = self._random.choices(self._keys, self._weights)[0]
        return arrival._replace(prompt_tokens=arrival.prompt_tokens + self._tokens, keys=keys)


@dataclass(frozen=True)
class Conversations:
    """Sessions of `turns` turns: each prompt is all that was said before, and a new message.

    `starts` gives the first turns (their lengths are those of a first message and its answer); the next turn
    follows the end of the last after thinking, exponential around `think_s`, with lengths from `lengths`.
    """

    starts: Workload
    lengths: Lengths
    turns: int
    think_s: float = 10.0
    seed: int = 0

    @property
    def key_tokens(self) -> int:
        return self.starts.key_tokens

    def begin(self) -> ConversationTraffic:
        return ConversationTraffic(self)


class ConversationTraffic:
    """Sessions under way. A session's keys name its tokens from the first on, answers included."""

    responds = True

    def __init__(self, described: Conversations) -> None:
        self._described = described
        self._traffic = described.starts.begin()
        self._random = Random(f"thinking {described.seed}")
        self._sizes = described.lengths.draw(Random(f"turns {described.seed}"))
        self._sessions = count()

    def __iter__(self) -> Iterator[Arrival]:
        for arrival in self._traffic:
            session = next(self._sessions)
            yield self._named(arrival._replace(session=session))

    def after(self, ended: Arrival, now: float) -> Arrival | None:
        described = self._described
        if ended.turn + 1 >= described.turns:
            return None
        message, answer = next(self._sizes)
        said = ended.prompt_tokens + ended.output_tokens
        think = self._random.expovariate(1 / described.think_s) if described.think_s else 0.0
        return self._named(
            Arrival(now + think, said + message, answer, ended.keys, ended.session, ended.turn + 1)
        )

    def _named(self, arrival: Arrival) -> Arrival:
        """With a key for each whole run of tokens that a later turn repeats."""
        runs = (arrival.prompt_tokens + arrival.output_tokens) // self._described.key_tokens
        own = (("session", arrival.session, run) for run in range(len(arrival.keys), runs))
        return arrival._replace(keys=(*arrival.keys, *own))


def scaled(workload: Workload, rate_scale: float) -> Workload:
    """The same requests, coming `rate_scale` times as fast."""
    if not rate_scale > 0:
        raise InputError(f"the rate scale must be above 0, it is {rate_scale}")

    def arrivals() -> Iterator[Arrival]:
        for time_s, prompt, output, keys, session, turn in workload.begin():
            yield Arrival(time_s / rate_scale, prompt, output, keys, session, turn)

    if rate_scale == 1:
        return workload
    if not isinstance(workload, Open):
        raise InputError("only workloads that come of themselves can be sped up: a closed loop has no rate")
    return Open(arrivals, workload.key_tokens)


def limited(workload: Open, requests: int | None) -> Open:
    """The first so many requests."""
    if requests is None:
        return workload
    return Open(lambda: islice(workload.make(), requests), workload.key_tokens)
