"""What the engine asks of a tokenizer, and the text of one request as its tokens arrive."""

from collections.abc import Collection, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """Ids to text, piece by piece, never half a character."""

    def push(self, token: int, /) -> str: ...

    def finish(self) -> str: ...


class Stops(Protocol):
    """Passes text on up to the first stop string, and holds back what may be the beginning of one."""

    stopped: str | None

    def push(self, text: str, /) -> str: ...

    def finish(self) -> str: ...


class Codec(Protocol):
    """Text to ids and back."""

    @property
    def end_ids(self) -> Collection[int]:
        """Ids that end a generation."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer: ...

    def stops(self, strings: Sequence[str]) -> Stops: ...


class Text:
    """The text of one request, up to its first stop string."""

    __slots__ = ("_detokenizer", "_stops")

    def __init__(self, codec: Codec, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = codec.detokenizer(prompt)
        self._stops = codec.stops(stops) if stops else None

    def push(self, token: int) -> str:
        """The text that can be shown now."""
        piece = self._detokenizer.push(token)
        return piece if self._stops is None else self._stops.push(piece)

    def finish(self) -> str:
        """What was held back."""
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.push(rest)
        return rest if self.stopped else rest + self._stops.finish()

    @property
    def stopped(self) -> bool:
        return self._stops is not None and self._stops.stopped is not None
