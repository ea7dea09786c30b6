"""Text where there is no model: a vocabulary that grows as it reads, and an answer that says what it is.

Token counts come close to real ones (words of up to six letters with the space before them), equal texts give
equal ids, so that prefixes are found in the cache, and ids read before give their text again.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from membound.errors import InputError
from membound.models.detokenize import Detokenizer, StopStrings
from membound.serving.request import Request

PIECES = re.compile(r" ?[^\W\d_]{1,6}| ?\d{1,3}|\s+| ?[^\w\s]{1,2}|_", re.ASCII)
ANSWER = (
    " This text is not an answer. No model wrote it: the server predicts when each token would be there on"
    " the hardware it was told of, and sends a word of this text at that moment. Ask it how long things"
    " take, and it will tell you as truly as its prediction goes. Ask anything else, and you get this again."
)
END = 0


class StandIn:
    """Takes the place of a tokenizer; `size` is the model's vocabulary. Id 0 ends."""

    strips_leading_space = False
    end_ids: Collection[int] = frozenset({END})
    has_chat_template = True
    chat_template = ""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pieces: list[bytes] = [b""]
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()  # prompts are read in threads

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]:
        """Pieces as they are found; once the vocabulary is full, new ones share ids."""
        ids = self._ids
        found = []
        end = 0
        for match in PIECES.finditer(text):
            for piece in (*text[end : match.start()], match[0]):
                found.append(ids[piece] if piece in ids else self._learn(piece))
            end = match.end()
        found += [ids[piece] if piece in ids else self._learn(piece) for piece in text[end:]]
        return found

    def _learn(self, piece: str) -> int:
        with self._lock:
            if piece in self._ids:
                return self._ids[piece]
            if len(self._pieces) < self.size:
                self._pieces.append(piece.encode("utf-8", "replace"))
                self._ids[piece] = len(self._pieces) - 1
                return self._ids[piece]
        return 1 + sum(piece.encode("utf-8", "replace")) % (self.size - 1)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise InputError(f"token id {token} is outside the vocabulary of {self.size}")
        return self._pieces[token] if token < len(self._pieces) else b""

    def text_bytes(self, token: int) -> bytes:
        return self.token_bytes(token)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        return Detokenizer(self)

    def stops(self, strings: Sequence[str]) -> StopStrings:
        return StopStrings(strings)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """About as many tokens as a template of today adds."""
        text = "".join(f"<{message['role']}>\n{message['content']}\n" for message in messages)
        return text + "<assistant>\n" if add_generation_prompt else text


def answering(ids: Sequence[int], end: int, output_tokens: int) -> Callable[[Request, int], int]:
    """The n-th token of a request: `ids` over and over; after `output_tokens` of them `end`."""

    def token(request: Request, n: int) -> int:
        if n >= output_tokens and not request.sampling.ignore_eos:
            return end
        return ids[n % len(ids)]

    return token
