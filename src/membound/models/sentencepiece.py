"""SentencePiece's byte-pair encoding: the best-scored pair merges first, the leftmost of equals.

A list of merges, as the `tokenizers` library wants it, cannot say this: pairs that make the same token, or
tokens of one score, must go left to right, whichever pair they are. Working from the scores also loads
Gemma's 262,144 tokens at once, where deriving their 514,847 merges takes three seconds and 250 MB.
"""

import heapq
import re
from collections.abc import Sequence
from functools import lru_cache

from membound.errors import InputError
from membound.models.vocabulary import Kind, Vocabulary

SPACE = "▁"


class SentencePieceBpe:
    """Text without special tokens to ids.

    `scores[id]` ranks the token that a merge would make. Merges never make control, unknown and byte tokens,
    so plain text cannot turn into them; a character that the vocabulary lacks becomes its byte tokens.
    """

    def __init__(self, vocabulary: Vocabulary, scores: Sequence[float], unknown: int | None) -> None:
        ids = dict(vocabulary.ids)
        for i in vocabulary.of_kind(Kind.CONTROL, Kind.UNKNOWN, Kind.BYTE):
            ids.pop(vocabulary.texts[i], None)
        self._ids, self._scores, self._unknown = ids, scores, unknown
        self._bytes = {vocabulary.bytes_of(i): i for i in vocabulary.of_kind(Kind.BYTE)}
        # No merge reaches over an "x▁" that no token contains, so text is cut there and words are cached.
        # (The separator is a code point that no text can hold.)
        inside = set(re.findall(f"([^\ud800{SPACE}]){SPACE}", "\ud800".join(ids))) | {SPACE}
        self._boundary = re.compile(f"(?<=[^{re.escape(''.join(sorted(inside)))}])(?={SPACE})")
        self._cached = lru_cache(maxsize=1 << 15)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, in which spaces become ▁."""
        found: list[int] = []
        for word in self._boundary.split(text.replace(" ", SPACE)):
            found += self._cached(word) if len(word) <= 32 else self._merge(word)
        return found

    def _merge(self, text: str) -> tuple[int, ...]:
        # Symbol i starts at character i and has size[i] characters; 0 once merged into its left neighbour.
        size = [1] * len(text)
        left_of = list(range(-1, len(text) - 1))
        right_of = [*range(1, len(text)), -1]
        heap: list[tuple[float, int, int, int]] = []  # (-score, left, right, characters)

        def propose(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                length = size[left] + size[right]
                token = self._ids.get(text[left : left + length])
                if token is not None:
                    heapq.heappush(heap, (-self._scores[token], left, right, length))

        for i in range(1, len(text)):
            propose(i - 1, i)
        while heap:
            _, left, right, length = heapq.heappop(heap)
            if not size[left] or not size[right] or size[left] + size[right] != length:
                continue  # one of the two has merged with another since
            size[left], size[right] = length, 0
            after = right_of[left] = right_of[right]
            if after >= 0:
                left_of[after] = left
            propose(left_of[left], left)
            propose(left, after)
        return tuple(
            token
            for i, length in enumerate(size)
            if length
            for token in self._of_symbol(text[i : i + length])
        )

    def _of_symbol(self, symbol: str) -> list[int]:
        """A token, or the byte tokens of a character that the vocabulary lacks."""
        if symbol in self._ids:
            return [self._ids[symbol]]
        spelled = [self._bytes.get(bytes([byte]), self._unknown) for byte in symbol.encode()]
        if None in spelled:
            raise InputError(f"the tokenizer has no token for {symbol!r} and none for unknown text")
        return [token for token in spelled if token is not None]
