"""What comes back for one streamed request: server-sent events read as they come, each with its time.

Only events that carry text (or reasoning, or a piece of a tool call) count: a role, a finish reason or
usage alone is no token. The server's own count of tokens is taken from `usage`.
"""

from __future__ import annotations

import json
from array import array
from typing import Any

_decode = json.JSONDecoder().raw_decode  # json.loads without what it does around it
UNREAD_LIMIT = 4096  # of an answer that is no stream, for its error message


class Reply:
    """Feed it the body's pieces; afterwards it holds what was measured. Times are the loop's."""

    __slots__ = (
        "_data", "_keeps_text", "_rest", "cached_tokens", "completion_tokens", "done", "error", "events",
        "finish_reason", "prompt_tokens", "texts", "unread",
    )  # fmt: skip

    def __init__(self, *, keep_text: bool = False) -> None:
        self.events: array[float] = array("d")
        self.texts: list[str] = []  # only if kept
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.finish_reason: str | None = None
        self.done = False  # whether the stream said that it is complete
        self.error: str | None = None  # an error within the stream
        self.unread = b""  # of a body that is no event stream
        self._rest = b""
        self._data: list[bytes] = []
        self._keeps_text = keep_text

    def feed(self, piece: bytes, now: float) -> None:
        """A piece of the body, and when it came."""
        if piece.startswith(b"data: ") and piece.find(b"\n") + 2 == len(piece) and not self._pending:
            self._read(piece[6:].strip(), now)  # one whole event, as most pieces are
            return
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif line in (b"", b"\r"):
                if self._data:
                    payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data.clear()
                    self._read(payload, now)
            elif not self.events and not line.startswith((b":", b"event", b"id", b"retry")):
                self.unread = (self.unread + line)[:UNREAD_LIMIT]

    @property
    def _pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest or self._data)

    def _read(self, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            message = _decode(payload.decode())[0]
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self.error = "an event of the stream is not a JSON object"
            return
        if message.get("error"):
            self.error = error_text(message)
            return
        carries = False
        for choice in message.get("choices") or ():
            if text := _text_of(choice):
                carries = True
                if self._keeps_text:
                    self.texts.append(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if carries:
            self.events.append(now)
        if usage := message.get("usage"):
            self._read_usage(usage)

    def _read_usage(self, usage: dict[str, Any]) -> None:
        self.prompt_tokens = usage.get("prompt_tokens")
        self.completion_tokens = usage.get("completion_tokens")
        self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    def refusal(self) -> str:
        """What a body that is no event stream says."""
        body = (self.unread + self._rest)[:UNREAD_LIMIT]
        try:
            return error_text(json.loads(body))
        except ValueError:
            return " ".join(body.decode("utf-8", "replace").split())[:300]


def error_text(message: Any) -> str:
    """The one line of an error in OpenAI's shape, or in whatever shape it came."""
    error = message.get("error", message.get("detail", message)) if isinstance(message, dict) else message
    if isinstance(error, dict):
        error = error.get("message", error)
    return " ".join(str(error).split())[:300]


def _text_of(choice: dict[str, Any]) -> str:
    """What a choice adds: text, a chat delta's content or reasoning, or a tool call's arguments."""
    delta = choice.get("delta")
    if delta is None:
        return choice.get("text") or ""
    text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    if text:
        return str(text)
    return "".join(
        (call.get("function") or {}).get("name", "") + ((call.get("function") or {}).get("arguments") or "")
        for call in delta.get("tool_calls") or ()
    )
