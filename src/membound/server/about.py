"""What is served, and how it is: models, tokens, health, version."""

import asyncio
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from membound.server.answers import shown_token
from membound.server.errors import ApiError
from membound.server.fields import PromptId, Wire
from membound.server.json_body import JsonRoute
from membound.server.messages import Messages, for_template
from membound.server.served import Served
from membound.server.streams import to_json

router = APIRouter(route_class=JsonRoute)
PART = 4096  # tokens that are rendered at once


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [_model(request.app.state.served)]}


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> dict[str, Any]:
    """It again, by name."""
    served: Served = request.app.state.served
    served.check_model(model)
    return _model(served)


def _model(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "membound",
        "max_model_len": served.context,
    }


class TokenizeFields(Wire):
    """A text, or a conversation through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeFields(Wire):
    model: str | None = None
    tokens: Annotated[list[PromptId], Field(fail_fast=True)]


@router.post("/tokenize", response_model=None, responses={200: {"content": {"application/json": {}}}})
async def tokenize(fields: TokenizeFields, request: Request) -> Response:
    """Text to token ids, as a completion of the same prompt would have them."""
    served: Served = request.app.state.served
    served.check_model(fields.model)
    if (fields.prompt is None) == (fields.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")

    def ids() -> list[int]:
        if fields.messages is None:
            assert fields.prompt is not None
            return served.text.encode(fields.prompt, add_bos=None if fields.add_special_tokens else False)
        text = served.text.chat(
            for_template(fields.messages), add_generation_prompt=fields.add_generation_prompt
        )
        return served.text.encode(text, special=True, add_bos=False)

    def body() -> bytes:
        tokens = ids()
        strings = b"null"
        if fields.return_token_strs:
            strings = _rendered([shown_token(served.text, token) for token in tokens])
        head = {"count": len(tokens), "max_model_len": served.context}
        return to_json(head)[:-1] + b',"tokens":' + _rendered(tokens) + b',"token_strs":' + strings + b"}"

    return Response(await asyncio.to_thread(body), media_type="application/json")


def _rendered(items: Sequence[object]) -> bytes:
    """A JSON list, part by part, so that a long one leaves the interpreter to other threads in between."""
    parts = (to_json(items[start : start + PART])[1:-1] for start in range(0, len(items), PART))
    return b"[" + b",".join(parts) + b"]"


@router.post("/detokenize")
async def detokenize(fields: DetokenizeFields, request: Request) -> dict[str, str]:
    """Token ids to text."""
    served: Served = request.app.state.served
    served.check_model(fields.model)
    return {"prompt": await asyncio.to_thread(served.text.decode, fields.tokens)}


@router.get("/health", response_model=None)
async def health(request: Request) -> Response:
    """Alive: the engine's thread runs. It stays so while the server drains."""
    if not request.app.state.served.engine.alive:
        raise ApiError(503, "the engine has stopped; restart the server")
    return JSONResponse({"status": "ok"})


@router.get("/ready", response_model=None)
async def ready(request: Request) -> Response:
    """Whether new requests are welcome: not while draining, and not with a full queue."""
    request.app.state.served.admit()
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    served: Served = request.app.state.served
    served.look()
    return Response(generate_latest(served.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": metadata.version("membound")}
