"""An executor without a model: the next token is a hash of all tokens before it, read from a paged cache."""

from collections.abc import Sequence
from hashlib import blake2b

from membound.serving.request import Request
from membound.serving.step import Outcome, Step

BLOCK = 16
VOCABULARY = 256


def next_token(prefix: Sequence[int], seed: int = 0) -> int:
    return blake2b(bytes([seed, *prefix]), digest_size=1).digest()[0]


def continuation(prompt: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """What any schedule must give."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, seed))
    return tokens[len(prompt) :]


class PagedFake:
    """Writes token ids where keys and values would go, and samples from what it reads back."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.cache: dict[tuple[int, int], int] = {}
        self.seconds = seconds
        self.steps = 0
        self.fail_at: int | None = None

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the kernel tripped")
        for request, count in step.chunks:
            self.write(request, request.computed, request.computed + count)
        for request in step.decoding():
            self.write(request, request.length - 1, request.length)
        sampling = [r for r, count in step.chunks if r.computed + count == r.length]
        tokens = {r: [next_token(self.read(r), r.sampling.seed)] for r in [*step.decoding(), *sampling]}
        return Outcome(now + self.seconds, tokens=tokens)

    def write(self, request: Request, begin: int, end: int) -> None:
        for position in range(begin, end):
            place = request.blocks[position // BLOCK], position % BLOCK
            self.cache[place] = request.tokens[position]

    def read(self, request: Request) -> list[int]:
        prefix = [self.cache[request.blocks[p // BLOCK], p % BLOCK] for p in range(request.length)]
        assert prefix == request.tokens, "the cache holds another prefix"
        return prefix


class Letters:
    """A codec of one letter per id; id 0 ends."""

    end_ids = frozenset({0})

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def detokenizer(self, prompt: Sequence[int]) -> "LetterByLetter":
        return LetterByLetter()

    def stops(self, strings: Sequence[str]) -> "FirstStop":
        return FirstStop(strings)


class LetterByLetter:
    def push(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


class FirstStop:
    """Holds everything back: the simplest correct matcher."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        self.stopped: str | None = None
        self.held = ""

    def push(self, text: str) -> str:
        self.held += text
        for string in self.strings:
            if string in self.held:
                self.stopped = string
                return self.held[: self.held.index(string)]
        return ""

    def finish(self) -> str:
        return self.held
