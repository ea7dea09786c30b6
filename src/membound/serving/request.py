"""A request: the tokens it knows, how many of them are computed, and the blocks that hold them.

Everything a request goes through follows from one rule: it catches its computed tokens up to its length. A
fresh prompt, a chunked prefill, a prefix found in the cache and a request that was preempted differ only in
how far apart the two are.
"""

from collections.abc import Hashable, Iterable, Sequence
from enum import Enum
from hashlib import blake2b
from itertools import islice
from typing import Final

from membound.serving.blocks import NO_BLOCKS
from membound.serving.constraint import Constraint
from membound.serving.sampling import Sampling

BLOCK_TOKENS: Final = 16
"""Tokens of KV cache in one block."""

GREEDY = Sampling()


class State(Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class StepCount:
    """How many steps a scheduler has carried out: what its caught-up requests count their tokens by."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


class Request:
    """One sequence, compared by identity.

    With token ids, `tokens` holds the prompt and what was sampled since. In virtual time there are none: a
    request is its `prompt_length` and, where prefixes are shared, one key per leading block of the prompt;
    equal keys say that everything up to the end of that block is equal.
    """

    __slots__ = (
        "_computed",
        "_count",
        "_keys",
        "_length",
        "admitted",
        "arrival",
        "blocks",
        "constraint",
        "first_token",
        "hit_tokens",
        "id",
        "last_token",
        "max_tokens",
        "offset",
        "order",
        "preemptions",
        "prompt_length",
        "published",
        "received",
        "sampling",
        "shareable",
        "state",
        "tokens",
    )

    def __init__(
        self,
        id: Hashable,
        prompt: Iterable[int] = (),
        sampling: Sampling = GREEDY,
        *,
        max_tokens: int,
        arrival: float = 0.0,
        prompt_length: int | None = None,
        keys: Sequence[Hashable] = (),
    ) -> None:
        """`max_tokens` is the most it may sample: `sampling.max_tokens`, or what the context leaves."""
        self.id = id
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens) if prompt_length is None else prompt_length
        self.sampling = sampling
        self.constraint: Constraint | None = None  # what its output must obey
        self.max_tokens = max_tokens
        self.arrival = arrival  # seconds, on the clock of the engine
        self.admitted: float | None = None  # when its first step began
        self.first_token: float | None = None  # when the first token was there
        self.last_token: float | None = None  # when it ended
        self.blocks = NO_BLOCKS  # ids of its KV blocks: position p lies in blocks[p // 16], slot p % 16
        self.state = State.NEW
        self.hit_tokens = 0  # prompt tokens found in the cache when it was first admitted
        self.preemptions = 0
        self.shareable = bool(self.tokens or keys)  # whether any block of it may be named
        self.received = 0  # tokens whose keys and values came from elsewhere: computed once it is admitted
        self.published = 0  # its leading blocks that were found in the cache or offered to it
        self.order = 0  # its place among all admissions: running requests stand in this order
        self.offset = 0  # while caught up: steps carried out minus tokens computed
        self._keys: list[Hashable] = list(keys) if keys else []
        self._length = self.prompt_length
        self._computed = 0
        self._count: StepCount | None = None

    @property
    def length(self) -> int:
        """Tokens known: prompt and sampled."""
        return self._length if self._count is None else self._count.steps - self.offset + 1

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return self._computed if self._count is None else self._count.steps - self.offset

    @property
    def output_length(self) -> int:
        """Tokens sampled so far."""
        known = self._length if self._count is None else self._count.steps - self.offset + 1
        return known - self.prompt_length

    @property
    def caught_up(self) -> bool:
        """Whether each step computes its one newest token and samples the next."""
        return self._count is not None

    def advance(self, tokens: int) -> bool:
        """Computed, or found in the cache: that many more tokens. Whether these are all that are known."""
        self._computed += tokens
        return self._computed == self._length

    def compute(self, tokens: int, count: StepCount) -> bool:
        """Computed that many more tokens. If these are all that are known, one was sampled, and from now on
        every step adds one of each: then it is caught up.
        """
        self._computed += tokens
        if self._computed < self._length:
            return False
        self.offset = count.steps - self._computed
        self._count = count
        return True

    def sampled(self, tokens: int) -> None:
        """Known since: so many further tokens."""
        self._length += tokens

    def settle(self) -> int:
        """Steps no longer count for it; what it has computed."""
        if self._count is not None:
            self._computed = self._count.steps - self.offset
            self._length = self._computed + 1
            self._count = None
        return self._computed

    def reset(self) -> None:
        """Preempted: what it knows stays, what is computed is lost."""
        self._computed = self.received = 0
        self.preemptions += 1

    def move(self) -> None:
        """It ended here and goes on elsewhere, where what is computed arrives with it."""
        self.received, self._computed = self._computed, 0
        self.state = State.NEW

    def keys(self, begin: int, end: int, block_tokens: int = BLOCK_TOKENS) -> Sequence[Hashable]:
        """The names of blocks `begin … end - 1`, up to the first that is private."""
        if self.tokens and end > begin:
            self.key(end - 1, block_tokens)
        return self._keys[begin:end]

    def key(self, index: int, block_tokens: int = BLOCK_TOKENS) -> Hashable | None:
        """The name of everything up to the end of block `index`, or None where it is private.

        With token ids it is the hash of the previous block's name and this block's tokens, made when first
        asked for; all tokens of the block must be known.
        """
        if not self.tokens:
            return self._keys[index] if index < len(self._keys) else None
        while len(self._keys) <= index:
            begin = len(self._keys) * block_tokens
            parent = self._keys[-1] if self._keys else b""
            assert isinstance(parent, bytes)
            text = ",".join(map(str, islice(self.tokens, begin, begin + block_tokens)))
            self._keys.append(blake2b(parent + text.encode(), digest_size=16).digest())
        return self._keys[index]

    def __repr__(self) -> str:
        return f"Request({self.id!r}, {self.state.value}, {self.computed}/{self.length} tokens)"
