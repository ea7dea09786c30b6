"""POST /v1/completions: text in, text out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from membound.server.answers import Gathered, completion_logprobs, usage_of
from membound.server.fields import GenerationFields, Ids, OnlyFalse, Texts
from membound.server.generation import News, constrained, following
from membound.server.guidance import grammar_of
from membound.server.json_body import JsonRoute
from membound.server.log import Told
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
from membound.serving.async_engine import Job

router = APIRouter(route_class=JsonRoute)

DEFAULT_MAX_TOKENS = 16  # as OpenAI's document has it


class CompletionFields(GenerationFields):
    """The body of /v1/completions."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=0)] | None = DEFAULT_MAX_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    add_special_tokens: bool = True
    echo: OnlyFalse = None
    suffix: Literal[""] | None = None


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
)
async def completions(fields: CompletionFields, request: Request) -> Response:
    """Continue one or several prompts, texts or token ids."""
    served: Served = request.app.state.served
    told = Told.of(request, fields)
    served.check_model(fields.model)
    if fields.logprobs is not None:
        served.check_logprobs()
    served.admit(_count(fields.prompt))
    jobs = await asyncio.to_thread(_jobs, fields, served)
    served.admit(len(jobs))
    head = {
        "id": f"cmpl-{told.id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": served.name,
    }
    if fields.stream:
        usage = fields.include_usage
        chunks = _streamed(served, told, jobs, head, straight(request), include_usage=usage)
        return EventStream(chunks, told)
    body = await unless_gone(request, _whole(served, told, jobs, head))
    return Response(body, media_type="application/json")


def _jobs(fields: CompletionFields, served: Served) -> list[Job]:
    """Prompts, sampling and grammars; in a thread, since they may take long."""
    sampling = sampling_of(fields, served.vocabulary, max_tokens=fields.max_tokens, logprobs=fields.logprobs)
    prompts = _prompts(fields, served)
    for prompt in prompts:
        served.engine.engine.check(prompt, sampling)
    grammar = grammar_of(fields)
    return [Job(prompt, sampling, constrained(served, grammar)) for prompt in prompts]


def _count(prompt: str | list[str] | list[int] | list[list[int]]) -> int:
    """How many prompts these are."""
    return 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)


def _prompts(fields: CompletionFields, served: Served) -> list[list[int]]:
    """Token ids of each prompt."""
    prompt = fields.prompt
    add_bos = None if fields.add_special_tokens else False
    if isinstance(prompt, str):
        return [served.text.encode(prompt, add_bos=add_bos)]
    prompts: list[list[int]] = []
    alone: list[int] = []
    for part in prompt:
        if isinstance(part, int):
            alone.append(part)
        else:
            prompts.append(served.text.encode(part, add_bos=add_bos) if isinstance(part, str) else part)
    return prompts or [alone]


async def _whole(served: Served, told: Told, jobs: list[Job], head: dict[str, Any]) -> bytes:
    gathered = [Gathered() for _ in jobs]
    async with following(served, told, jobs) as news:
        async for events in news.stream:
            news.take(events)
            for index, event in events:
                gathered[index].take(event)

    def body() -> bytes:
        choices = []
        for index, (choice, job) in enumerate(zip(gathered, jobs, strict=True)):
            logprobs = None
            if job.sampling.logprobs is not None:
                logprobs, _ = completion_logprobs(served.text, choice.token_ids, choice.logprobs, 0)
            choices.append(_choice(index, choice.text, choice.finish_reason, logprobs))
        return to_json({**head, "choices": choices, "usage": usage_of(news.entries)})

    return await asyncio.to_thread(body)


async def _streamed(
    served: Served,
    told: Told,
    jobs: list[Job],
    head: dict[str, Any],
    straight: Straight | None,
    *,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    extra = {"usage": None} if include_usage else {}

    def chunk(choice: dict[str, Any]) -> dict[str, Any]:
        return {**head, "choices": [choice], **extra}

    def shown(index: int, text: str) -> dict[str, Any]:
        return chunk(_choice(index, text, None, None))

    plain = [TextEvent(partial(shown, index)) for index in range(len(jobs))]
    offsets = [0] * len(jobs)

    def render(events: News) -> bytes:
        chunks = []
        for index, event in events:
            logprobs = None
            if event.logprobs is not None:
                logprobs, offsets[index] = completion_logprobs(
                    served.text, event.token_ids, event.logprobs, offsets[index]
                )
            if event.finish_reason or logprobs:
                chunks.append(sse(chunk(_choice(index, event.text, event.finish_reason, logprobs))))
            elif event.text:
                chunks.append(plain[index].of(event.text))
        return b"".join(chunks)

    async with following(served, told, jobs) as news:
        part = news.through(render, straight)
        async for events in news.stream:
            if made := part(events):
                yield made
    if include_usage:
        yield sse({**head, "choices": [], "usage": usage_of(news.entries)})
    yield DONE


def _choice(
    index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
