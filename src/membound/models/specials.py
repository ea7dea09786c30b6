"""Finding special tokens in text: at each place the longest one, the first place first."""

import re
from collections.abc import Iterator, Mapping


class SpecialTokens:
    """Cuts text at special tokens; looked up by first character and length, thousands cost as few do."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._lengths: dict[str, list[int]] = {}
        for text in ids:
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        self._start = re.compile("[" + re.escape("".join(self._lengths)) + "]") if ids else None

    def split(self, text: str) -> Iterator[str | int]:
        """Plain stretches (never empty) as text, special tokens as ids, in order."""
        done, at = 0, self._next(text, 0)
        while at >= 0:
            token = self._at(text, at)
            if token is None:
                at = self._next(text, at + 1)
                continue
            if done < at:
                yield text[done:at]
            yield self._ids[token]
            done = at + len(token)
            at = self._next(text, done)
        if done < len(text):
            yield text[done:]

    def _next(self, text: str, start: int) -> int:
        found = self._start.search(text, start) if self._start else None
        return found.start() if found else -1

    def _at(self, text: str, at: int) -> str | None:
        candidates = (text[at : at + length] for length in self._lengths[text[at]])
        return next((candidate for candidate in candidates if candidate in self._ids), None)
