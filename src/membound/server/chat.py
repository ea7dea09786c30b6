"""POST /v1/chat/completions: a conversation in, the next message out."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from membound.server.answers import Gathered, chat_logprobs, usage_of
from membound.server.errors import ApiError
from membound.server.fields import GenerationFields
from membound.server.generation import following
from membound.server.messages import Message, for_template
from membound.server.sampling import sampling_of
from membound.server.served import Served
from membound.server.streams import DONE, EventStream, sse, unless_gone
from membound.serving.async_engine import Job
from membound.serving.engine import Event

router = APIRouter()


class ChatFields(GenerationFields):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@router.post("/v1/chat/completions")
async def chat_completions(fields: ChatFields, request: Request) -> Response:
    """Answer a conversation through the model's chat template."""
    served: Served = request.app.state.served
    served.check_model(fields.model)
    if not served.text.has_chat_template:
        raise ApiError(400, f"{served.name} has no chat template: use /v1/completions", param="messages")
    if fields.top_logprobs and not fields.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    prompt = await asyncio.to_thread(_prompt, fields, served)
    served.admit()
    limits = [n for n in (fields.max_completion_tokens, fields.max_tokens) if n is not None]
    sampling = sampling_of(
        fields,
        served.vocabulary,
        max_tokens=min(limits) if limits else None,
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
    )
    served.engine.engine.check(prompt, sampling)
    job = Job(prompt, sampling)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if fields.stream else "chat.completion",
        "created": int(time.time()),
        "model": served.name,
    }
    if fields.stream:
        include_usage = fields.stream_options is not None and fields.stream_options.include_usage
        return EventStream(_streamed(served, job, head, include_usage=include_usage))
    return JSONResponse(await unless_gone(request, _whole(served, job, head)))


def _prompt(fields: ChatFields, served: Served) -> list[int]:
    messages = [for_template(message) for message in fields.messages]
    text = served.text.chat(messages, **(fields.chat_template_kwargs or {}))
    return served.text.encode(text, special=True, add_bos=False)


async def _whole(served: Served, job: Job, head: dict[str, Any]) -> dict[str, Any]:
    gathered = Gathered()
    async with following(served, head["id"], [job]) as news:
        async for events in news:
            for _, event in events:
                gathered.take(event)
    logprobs = None
    if job.sampling.logprobs is not None:
        logprobs = chat_logprobs(served.text, gathered.token_ids, gathered.logprobs)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": gathered.text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": gathered.finish_reason,
    }
    return {**head, "choices": [choice], "usage": usage_of(news.entries)}


async def _streamed(
    served: Served, job: Job, head: dict[str, Any], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    extra = {"usage": None} if include_usage else {}
    delta: dict[str, Any] = {"role": "assistant", "content": ""}
    async with following(served, head["id"], [job]) as news:
        async for events in news:
            chunks = []
            for _, event in events:
                logprobs = _event_logprobs(served, event)
                if event.text or event.finish_reason or logprobs:
                    if event.text or not event.finish_reason:
                        delta["content"] = event.text
                    choice = _choice(delta, logprobs, event.finish_reason)
                    chunks.append(sse({**head, "choices": [choice], **extra}))
                    delta = {}
            if chunks:
                yield b"".join(chunks)
    if include_usage:
        yield sse({**head, "choices": [], "usage": usage_of(news.entries)})
    yield DONE


def _event_logprobs(served: Served, event: Event) -> dict[str, Any] | None:
    if event.logprobs is None:
        return None
    return chat_logprobs(served.text, event.token_ids, event.logprobs)


def _choice(
    delta: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
