"""One line of JSON per request, without a word of what was said unless asked."""

import json
import logging
import logging.handlers
import queue
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from membound.server.fields import GenerationFields
from membound.server.ledger import Entry

logger = logging.getLogger("membound.requests")
OTHERS = ("uvicorn.error", "asyncio")  # whose warnings are lines too
QUIET = ("/health", "/ready", "/metrics", "/page")
GONE = 499  # the client left before the answer
MOST_WAITING = 1000  # lines that wait to be written


@dataclass
class Told:
    """What a request has told of itself so far."""

    id: str
    arrived: float  # on the engine's clock
    asked: dict[str, Any] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    rest: Callable[[Receive, Send], Awaitable[None]] | None = None  # of the answer, which is yet to be sent

    @classmethod
    def of(cls, request: Request, fields: GenerationFields) -> "Told":
        """The request's own, with what its fields say."""
        told: Told = request.state.told
        told.asked = {"stream": bool(fields.stream)}
        if fields.user is not None:
            told.asked["user"] = fields.user
        if request.app.state.served.settings.log_prompts:
            said = {name: getattr(fields, name, None) for name in ("prompt", "messages")}
            told.asked["prompt"] = {name: words for name, words in said.items() if words is not None}
        return told

    def outcome(self) -> dict[str, Any]:
        """Tokens and times: counts are sums, times those of the first of several prompts."""
        if not self.entries:
            return {}
        first = self.entries[0]
        return {
            "prompt_tokens": sum(entry.prompt_tokens for entry in self.entries),
            "cached_tokens": sum(entry.cached_tokens for entry in self.entries),
            "output_tokens": sum(entry.output_tokens for entry in self.entries),
            "finish_reason": first.reason,
            "preemptions": sum(entry.preemptions for entry in self.entries),
            "queue_s": _rounded(first.queue_s),
            "ttft_s": _rounded(first.ttft_s),
            "tpot_s": _rounded(first.tpot_s),
        }


class RequestLog:
    """Gives each request an id, and writes its line when all is sent. `now` is the engine's clock."""

    def __init__(self, app: ASGIApp, now: Callable[[], float]) -> None:
        self.app = app
        self.now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if re.fullmatch(r"[\w.:-]{1,128}", given) else uuid.uuid4().hex
        told = Told(id, self.now())
        scope.setdefault("state", {})["told"] = told
        status = 0
        complete = False

        async def noted(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = told.id
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        began = time.perf_counter()
        try:
            await self.app(dict(scope), receive, noted)  # a copy: what is put there goes with its users
            if told.rest is not None:
                rest, told.rest = told.rest, None  # which knows `told`: a circle, else
                await rest(receive, noted)
        finally:
            if not scope["path"].startswith(QUIET):
                line = {
                    "time": round(time.time(), 3),
                    "id": told.id,
                    "client": (scope.get("client") or ("",))[0],
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status if complete else GONE,
                    "seconds": _rounded(time.perf_counter() - began),
                    **told.asked,
                    **told.outcome(),
                }
                logger.info(json.dumps(line, ensure_ascii=False))


class AsJson(logging.Formatter):
    """What others log, uvicorn and asyncio, is a line of JSON too."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == logger.name:
            return record.getMessage()
        line = {"time": round(record.created, 3), record.levelname.lower(): record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Lines(logging.handlers.QueueHandler):
    """Hands lines to a thread that writes them; where nobody reads them, counts those beyond `MOST_WAITING`.

    A pipe that is full holds up neither requests nor, by lines that wait for ever, the memory.
    """

    def __init__(self, lines: queue.SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self.setFormatter(AsJson())
        self._lines = lines
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= MOST_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            told = {"warning": "nobody read the log: lines were dropped", "lines": self._dropped}
            self._lines.put(logging.makeLogRecord({"msg": json.dumps(told)}))
            self._dropped = 0
        self._lines.put(record)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
