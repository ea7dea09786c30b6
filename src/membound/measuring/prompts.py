"""Prompts of an exact number of tokens.

Common English words with a space before them are one token each in nearly every vocabulary, and so are their
sequences: a prompt of n tokens is n such words, less what the endpoint puts around a prompt. Which words hold
is asked of whoever counts: the endpoint's /tokenize, a tokenizer at hand, or the usage of short requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from membound.errors import RunError
from membound.measuring.sender import Prompt
from membound.workloads.arrivals import Arrival

Count = Callable[[Prompt], Awaitable[int]]  # tokens as the endpoint counts them, with what it adds

PHRASE = 64
COMMON = (
    "the of and to in is was for on that with as by at from his an were are which this be or had its "
    "not also have one their first new they has who after but two her been other when time all during "
    "there into more school would years only up most some world many over city out no people state "
    "used can such where about year then these war made later between under part being both through "
    "work called known while them second him until we so several day before early name including use "
    "number large well against long end set right south town place water life house small form great "
    "high back since north river power found home order line system took near game music book area "
    "public main family group land member local law side air best road white black old young children "
    "open point force"
)


@dataclass(frozen=True)
class Vocabulary:
    """Words that count one token each, and the tokens that the endpoint adds to every prompt.

    `between`: what a chat template adds for an answer and a further message.
    """

    words: Sequence[str]
    added: int
    between: int = 0

    def text(self, tokens: int, random: Random) -> str:
        """Random words of so many tokens, each with a space before it.

        A long text goes on in whole phrases, which is quick: servers name a block of a prompt by all that
        stands before it, so texts that differ at first share no block.
        """
        phrases, rest = divmod(max(0, tokens - PHRASE), PHRASE)
        first = min(tokens, PHRASE) + rest
        return "".join(random.choices(self.words, k=first) + random.choices(self.phrases, k=phrases))

    @cached_property
    def phrases(self) -> Sequence[str]:
        """Of PHRASE words each."""
        random = Random("phrases")
        return ["".join(random.choices(self.words, k=PHRASE)) for _ in range(500)]


async def vocabulary(count: Count, *, chat: bool = False) -> Vocabulary:
    """Find the words that hold. RunError if the counts do not add up for at least a few dozen."""
    words = [f" {word}" for word in COMMON.split()]
    added = 2 * await count(words[0]) - await count(words[0] * 2)
    good = await _holding(words, count, added)
    sample = "".join(Random(0).choices(good, k=256)) if good else ""
    if len(good) < 32 or added < 0 or await count(sample) != 256 + added:
        raise RunError(
            "prompts of exact length cannot be made: common words are not one token each here; "
            "give a prompts file (--prompts)"
        )
    return Vocabulary(good, added, await _between(good[0], count) if chat else 0)


async def _between(word: str, count: Count) -> int:
    """What stands around an answer and a further message, each of one token."""
    said = [{"role": role, "content": word} for role in ("user", "assistant", "user")]
    return await count(said) - await count(said[:1]) - 2


async def _holding(words: Sequence[str], count: Count, added: int) -> list[str]:
    """Those of the words that are one token each: halved until a group holds."""
    if not words:
        return []
    if await count("".join(words)) == len(words) + added:
        return list(words)
    if len(words) == 1:
        return []
    half = len(words) // 2
    return [*await _holding(words[:half], count, added), *await _holding(words[half:], count, added)]


@dataclass
class _Conversation:
    """What was said so far, as it was said, and its tokens by the server's count."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0


class Made:
    """Prompts made of words: the length that an arrival asks for, equal where its keys are equal.

    `salt` keeps texts of different runs apart, so that one does not find its prompts in the server's cache
    because of another. A conversation repeats the answers that the server really gave.
    """

    def __init__(self, vocabulary: Vocabulary, key_tokens: int, salt: str, *, chat: bool) -> None:
        self._vocabulary, self._key_tokens, self._salt, self._chat = vocabulary, key_tokens, salt, chat
        self._sessions: dict[int, _Conversation] = {}
        self._runs: dict[Hashable, str] = {}  # texts of keys that came lately

    def prompt(self, number: int, arrival: Arrival) -> Prompt:
        """Of the arrival with this number."""
        wanted = max(1, arrival.prompt_tokens - self._vocabulary.added)
        if arrival.session < 0:
            return self._text(wanted, arrival.keys, number)
        said = self._sessions.setdefault(arrival.session, _Conversation())
        if said.messages:
            wanted = max(1, arrival.prompt_tokens - said.tokens - self._vocabulary.between)
            new = self._vocabulary.text(wanted, self._random("turn", number))
        else:
            new = self._text(wanted, arrival.keys, number)
        said.messages.append({"role": "user", "content": new})
        return list(said.messages) if self._chat else "".join(m["content"] for m in said.messages)

    def answered(self, arrival: Arrival, text: str, tokens: int, *, more: bool) -> None:
        """The answer of a conversation, `tokens` with its prompt; `more` if a turn follows."""
        if not more:
            self._sessions.pop(arrival.session, None)
        elif (said := self._sessions.get(arrival.session)) is not None:
            said.messages.append({"role": "assistant", "content": text})
            said.tokens = tokens

    def _text(self, tokens: int, keys: Sequence[Hashable], number: int) -> str:
        runs, left = [], tokens
        for key in keys:
            if left < self._key_tokens:
                break
            runs.append(self._run(key))
            left -= self._key_tokens
        return "".join(runs) + self._vocabulary.text(left, self._random("own", number))

    def _run(self, key: Hashable) -> str:
        if len(self._runs) > 20_000:
            self._runs.clear()
        if key not in self._runs:
            self._runs[key] = self._vocabulary.text(self._key_tokens, self._random("key", key))
        return self._runs[key]

    def _random(self, what: str, which: Hashable) -> Random:
        return Random(f"{self._salt} {what} {which}")


@dataclass(frozen=True)
class Given:
    """Prompts of a file, in its order, over and over."""

    prompts: Sequence[Prompt]

    def prompt(self, number: int, arrival: Arrival) -> Prompt:
        return self.prompts[number % len(self.prompts)]

    def answered(self, arrival: Arrival, text: str, tokens: int, *, more: bool) -> None:
        """A file's prompts do not depend on answers."""
