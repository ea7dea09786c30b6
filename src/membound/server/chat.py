"""POST /v1/chat/completions: a conversation in, the next message out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from membound.server.answers import Gathered, chat_logprobs, usage_of
from membound.server.errors import ApiError
from membound.server.fields import GenerationFields
from membound.server.generation import News, constrained, following
from membound.server.guidance import grammar_of
from membound.server.json_body import JsonRoute
from membound.server.log import Told
from membound.server.messages import Messages, for_template
from membound.server.sampling import sampling_of
from membound.server.served import Served
from membound.server.streams import (
    DONE,
    EventStream,
    Straight,
    TextEvent,
    sse,
    straight,
    to_json,
    unless_gone,
)
from membound.server.tools import (
    Call,
    Function,
    NamedTool,
    Tool,
    ToolChoice,
    ToolForm,
    ToolReader,
    form_of,
    template_messages,
)
from membound.serving.async_engine import Job
from membound.serving.engine import Event

router = APIRouter(route_class=JsonRoute)


class ChatFields(GenerationFields):
    """The body of /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request may call."""

    offered: tuple[Tool, ...] = ()
    form: ToolForm | None = None
    forced: tuple[Function, ...] = ()  # one of these must be called
    named: bool = False
    parallel: bool = True

    @classmethod
    def of(cls, fields: ChatFields, template: str) -> Tools:
        choice = fields.tool_choice
        if fields.tools is None:
            if choice not in (None, "none"):
                raise ApiError(400, "tool_choice needs tools", param="tool_choice")
            return cls()
        functions = {tool.function.name: tool.function for tool in fields.tools}
        if len(functions) < len(fields.tools):
            raise ApiError(400, "two tools have the same name", param="tools")
        if choice == "none":
            return cls()
        forced: tuple[Function, ...] = tuple(functions.values()) if choice == "required" else ()
        if isinstance(choice, NamedTool):
            if choice.function.name not in functions:
                raise ApiError(400, f"there is no tool {choice.function.name!r}", param="tool_choice")
            forced = (functions[choice.function.name],)
        return cls(
            tuple(fields.tools),
            form_of(template),
            forced,
            isinstance(choice, NamedTool),
            fields.parallel_tool_calls is not False,
        )

    def reader(self) -> ToolReader:
        """Of one answer."""
        names = [tool.function.name for tool in self.offered]
        return ToolReader(self.form, names, parallel=self.parallel)


@dataclass(frozen=True, slots=True)
class Turn:
    """A request that was understood."""

    served: Served
    job: Job
    tools: Tools
    head: dict[str, Any]
    told: Told

    def finish_reason(self, event: Event, calls: int) -> str | None:
        """As OpenAI has it: a call that was named ends with stop."""
        if event.finish_reason == "stop" and calls and not self.tools.named:
            return "tool_calls"
        return event.finish_reason


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
)
async def chat_completions(fields: ChatFields, request: Request) -> Response:
    """Answer a conversation through the model's chat template."""
    served: Served = request.app.state.served
    told = Told.of(request, fields)
    served.check_model(fields.model)
    if not served.text.has_chat_template:
        raise ApiError(400, f"{served.name} has no chat template: use /v1/completions", param="messages")
    if fields.top_logprobs and not fields.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    if fields.logprobs:
        served.check_logprobs()
    served.admit()
    tools = Tools.of(fields, served.text.chat_template)
    job = await asyncio.to_thread(_job, fields, tools, served)
    served.admit()
    head = {
        "id": f"chatcmpl-{told.id}",
        "object": "chat.completion.chunk" if fields.stream else "chat.completion",
        "created": int(time.time()),
        "model": served.name,
    }
    turn = Turn(served, job, tools, head, told)
    if fields.stream:
        chunks = _streamed(turn, straight(request), include_usage=fields.include_usage)
        return EventStream(chunks, told)
    return Response(await unless_gone(request, _whole(turn)), media_type="application/json")


def _job(fields: ChatFields, tools: Tools, served: Served) -> Job:
    """The prompt, sampling and grammar; in a thread, since they may take long."""
    limits = [n for n in (fields.max_completion_tokens, fields.max_tokens) if n is not None]
    sampling = sampling_of(
        fields,
        served.vocabulary,
        max_tokens=min(limits) if limits else None,
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
    )
    messages = template_messages(for_template(fields.messages))
    offered = [tool.model_dump(exclude_none=True) for tool in tools.offered]
    text = served.text.chat(messages, tools=offered or None, **(fields.chat_template_kwargs or {}))
    prompt = served.text.encode(text, special=True, add_bos=False)
    served.engine.engine.check(prompt, sampling)
    return Job(prompt, sampling, constrained(served, _grammar(fields, tools)))


def _grammar(fields: ChatFields, tools: Tools) -> tuple[str, str] | None:
    found = grammar_of(fields)
    if found is not None and tools.form is not None:
        raise ApiError(400, f"{found[1]} beside tools is not supported", param=found[1], code="unsupported")
    if tools.form is not None and tools.forced:
        return tools.form.grammar(tools.forced), "tools"
    return found


async def _whole(turn: Turn) -> bytes:
    gathered = Gathered()
    async with following(turn.served, turn.told, [turn.job]) as news:
        async for events in news.stream:
            news.take(events)
            for _, event in events:
                gathered.take(event)
    content, calls = turn.tools.reader().push(gathered.text, last=True)
    reason = gathered.finish_reason
    if reason == "stop" and calls and not turn.tools.named:
        reason = "tool_calls"
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message["content"] = content or None
        message["tool_calls"] = [call.as_json() for call in calls]

    def body() -> bytes:
        logprobs = None
        if turn.job.sampling.logprobs is not None:
            logprobs = chat_logprobs(turn.served.text, gathered.token_ids, gathered.logprobs)
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return to_json({**turn.head, "choices": [choice], "usage": usage_of(news.entries)})

    return await asyncio.to_thread(body)


async def _streamed(
    turn: Turn, straight: Straight | None, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    extra = {"usage": None} if include_usage else {}
    reader = turn.tools.reader()
    role = {"role": "assistant", "content": ""}

    def chunk(delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**turn.head, "choices": [choice], **extra}

    plain = TextEvent(lambda text: chunk({"content": text}, None, None))

    def render(events: News) -> bytes:
        nonlocal role
        chunks = []
        for _, event in events:
            before = reader.calls
            text, calls = reader.push(event.text, last=event.finish_reason is not None)
            logprobs = None
            if event.logprobs is not None:
                logprobs = chat_logprobs(turn.served.text, event.token_ids, event.logprobs)
            delta = _delta(text, calls, before)
            reason = turn.finish_reason(event, reader.calls)
            if role or calls or reason or logprobs:
                if delta or reason or logprobs:
                    chunks.append(sse(chunk({**role, **delta}, logprobs, reason)))
                    role = {}
            elif text:
                chunks.append(plain.of(text))
        return b"".join(chunks)

    async with following(turn.served, turn.told, [turn.job]) as news:
        part = news.through(render, straight)
        async for events in news.stream:
            if made := part(events):
                yield made
    if include_usage:
        yield sse({**turn.head, "choices": [], "usage": usage_of(news.entries)})
    yield DONE


def _delta(text: str, calls: list[Call], before: int) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if text:
        delta["content"] = text
    if calls:
        delta["tool_calls"] = [
            {"index": before + place, **call.as_json()} for place, call in enumerate(calls)
        ]
    return delta
