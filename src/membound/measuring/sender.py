"""Sends one request to an OpenAI-compatible endpoint, and says what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from membound.errors import RunError
from membound.measuring.http import ExchangeError, Pool
from membound.measuring.record import Record
from membound.measuring.reply import Reply, error_text

Prompt = str | list[dict[str, Any]]  # text, or the messages of a chat


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """A text becomes what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True)
class Asking:
    """How every request is put."""

    model: str
    chat: bool = False
    ignore_eos: bool = True  # so that outputs are as long as asked; vLLM's name, also SGLang's
    temperature: float = 0.0
    timeout_s: float = 600.0
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the body, or others for these

    def body(self, prompt: Prompt, output_tokens: int) -> bytes:
        """The request's JSON."""
        fields: dict[str, Any] = {"model": self.model}
        if self.chat:
            fields["messages"] = messages_of(prompt)
        else:
            fields["prompt"] = prompt
        fields |= {
            "max_tokens": output_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return json.dumps(fields | dict(self.extra)).encode()

    @property
    def path(self) -> str:
        return CHAT if self.chat else COMPLETIONS


class Sender:
    """Requests to one endpoint; `begin` is the loop's time at which the run began.

    `count` counts the tokens of a text, for servers that do not report usage.
    """

    def __init__(
        self,
        pool: Pool,
        asking: Asking,
        begin: float = 0.0,
        count: Callable[[str], int] | None = None,
    ) -> None:
        self._pool, self._asking, self._begin, self._count = pool, asking, begin, count
        self._loop = asyncio.get_running_loop()
        self.in_flight = 0
        self.events = 0  # of streams that have ended

    def body(self, prompt: Prompt, output_tokens: int) -> bytes:
        return self._asking.body(prompt, output_tokens)

    async def send(self, record: Record, body: bytes, *, keep_text: bool = False) -> str:
        """Fill `record` with what happens; the answer's text if it is to be kept."""
        reply = Reply(keep_text=keep_text or self._count is not None)
        self.in_flight += 1
        record.sent_s = self._loop.time() - self._begin
        try:
            async with asyncio.timeout(self._asking.timeout_s):
                status = await self._pool.exchange("POST", self._asking.path, body, reply.feed)
            if status != 200:
                record.error, record.message = f"status {status}", reply.refusal()
        except TimeoutError:
            record.error, record.message = "timeout", f"no complete answer in {self._asking.timeout_s:g} s"
        except ExchangeError as error:
            record.error, record.message = error.kind, str(error)
        finally:
            self.in_flight -= 1
        record.ended_s = self._loop.time() - self._begin
        self._fill(record, reply)
        return "".join(reply.texts)

    def _fill(self, record: Record, reply: Reply) -> None:
        self.events += len(reply.events)
        begin = self._begin
        for place, moment in enumerate(reply.events):
            reply.events[place] = moment - begin
        record.events_s = reply.events
        record.prompt_tokens, record.cached_tokens = reply.prompt_tokens, reply.cached_tokens
        if reply.completion_tokens is not None:
            record.output_tokens = reply.completion_tokens
        elif self._count is not None:
            record.output_tokens, record.counted_by = self._count("".join(reply.texts)), "tokenizer"
        else:
            record.output_tokens, record.counted_by = len(reply.events), "events"
        if record.error is not None:
            return
        if reply.error is not None:
            record.error, record.message = "stream", reply.error
        elif not (reply.done or reply.events) and (said := reply.refusal()):
            record.error, record.message = "no stream", f"the answer is no event stream: {said}"
        elif not reply.done and reply.finish_reason is None:
            record.error, record.message = "incomplete", "the stream ended without a finish reason or [DONE]"
        elif not reply.events:
            record.error, record.message = "empty", "the answer had no text"


async def get_json(pool: Pool, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """A small JSON answer; RunError says what the endpoint said instead."""
    pieces: list[bytes] = []
    url = f"{pool.endpoint.url}{path}"
    data = b"" if body is None else json.dumps(body).encode()
    try:
        async with asyncio.timeout(60):
            method = "GET" if body is None else "POST"
            status = await pool.exchange(method, path, data, lambda piece, _: pieces.append(piece))
    except ExchangeError as error:
        raise RunError(f"{url}: {error}") from None
    except TimeoutError:
        raise RunError(f"{url}: no answer in 60 s") from None
    try:
        answer = json.loads(b"".join(pieces))
    except ValueError:
        answer = b"".join(pieces)[:300].decode("utf-8", "replace")
    if status != 200:
        raise RunError(f"{url}: status {status}: {error_text(answer)}")
    return answer


async def served_models(pool: Pool) -> list[str]:
    """The models that the endpoint serves, by its own list."""
    answer = await get_json(pool, "/v1/models")
    try:
        return [str(entry["id"]) for entry in answer["data"]]
    except (KeyError, TypeError):
        raise RunError(f"{pool.endpoint.url}/v1/models: not a list of models; give --served-model") from None
