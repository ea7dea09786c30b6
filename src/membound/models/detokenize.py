"""Text from tokens as they come: whole characters only, and nothing that may yet become a stop string."""

import codecs
from collections.abc import Sequence
from typing import Protocol


class Decodes(Protocol):
    """What a detokenizer needs of a tokenizer."""

    def text_bytes(self, token: int) -> bytes:
        """Bytes that the token adds to decoded text."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether text starts with a space that the encoder put there."""


class Detokenizer:
    """Turns one sequence's tokens into text, piece by piece.

    The pushes and `finish` joined equal `decode(prompt_ids + pushed)` without what the prompt shows: bytes of
    a character that the prompt left open count for the first push, and a leading space is dropped only where
    no text came before it. Broken UTF-8 becomes U+FFFD, as `bytes.decode(errors="replace")` has it.
    """

    def __init__(self, tokenizer: Decodes, prompt_ids: Sequence[int] = ()) -> None:
        self._text_bytes = tokenizer.text_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for token in reversed(prompt_ids):
            tail = self._text_bytes(token) + tail
            if len(tail) >= 4:  # an open character is at most three bytes of four
                break
        self._decoder.decode(tail)
        self._strip = tokenizer.strips_leading_space and not tail

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        return self._decode(self._text_bytes(token), final=False)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._decode(b"", final=True)

    def _decode(self, piece: bytes, final: bool) -> str:
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece, final)


class StopStrings:
    """Passes text on until a stop string appears; holds back an end that may be the beginning of one.

    `push` returns the text that is safe to show. Once `stopped` is set, the text before the first stop string
    has been passed on in full, and neither the stop string nor anything after it ever is.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._beginnings = tuple({stop[:n] for stop in self._stops for n in range(1, len(stop))})
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> str:
        """Text that can no longer belong to a stop string."""
        if self.stopped is not None:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        found = [(held.find(stop), stop) for stop in self._stops if stop in held]
        if found:
            at, self.stopped = min(found, key=lambda match: match[0])
            self._held = ""
            return held[:at]
        keep = 0
        if held.endswith(self._beginnings):
            keep = max(len(start) for start in self._beginnings if held.endswith(start))
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back, now that no more comes."""
        held, self._held = self._held, ""
        return held
