"""The endpoints put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from membound.errors import InputError
from membound.server import about, chat, completions, feed
from membound.server.errors import ANSWERS, ApiError, api_error, of_validation
from membound.server.guard import Guard
from membound.server.log import RequestLog, logger
from membound.server.served import Served
from membound.server.settings import Settings
from membound.server.streams import ClientGoneError

LOOK_S = 0.5


def create_app(served: Served) -> FastAPI:
    """The ASGI application for one model."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await _warm_up(app, served.settings)
        task = asyncio.create_task(_look(served))
        yield
        task.cancel()

    app = FastAPI(
        title="membound",
        version=version("membound"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=ANSWERS,
    )
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    app.state.served = served
    app.state.feed = feed.Feed(served)
    app.state.reading = asyncio.Lock()  # of large bodies: one between two looks of the loop at its sockets
    for part in (completions, chat, about, feed):
        app.include_router(part.router)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(InputError, _input)
    app.add_exception_handler(ClientGoneError, _gone)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Guard, settings=served.settings)
    if served.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(served.settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(RequestLog, now=served.ledger.now)
    return app


async def _warm_up(app: FastAPI, settings: Settings) -> None:
    """What is built for the first request takes tens of milliseconds: better before anyone waits."""
    headers = [(b"content-type", b"application/json")]
    if settings.api_key is not None:
        headers.append((b"authorization", f"Bearer {settings.api_key}".encode()))

    async def empty() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def nobody(message: Message) -> None:
        pass

    logger.disabled = True
    posts = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
    gets = ("/v1/models", "/version", "/metrics", "/openapi.json")
    for method, path in [("POST", path) for path in posts] + [("GET", path) for path in gets]:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": list(headers),
            "query_string": b"",
        }
        await app(scope, empty, nobody)
    logger.disabled = False


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, without the 422 that never comes: faults of validation are 400 here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


async def _look(served: Served) -> None:
    """Now and then, so that no step is missed and none of the looks is long."""
    while True:
        await asyncio.sleep(LOOK_S)
        served.look()


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return of_validation(error.errors(), error.body).response()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, str(error.detail), headers=error.headers or {}).response()


async def _input(request: Request, error: Exception) -> JSONResponse:
    return ApiError(400, str(error).removesuffix("; --raw avoids it")).response()


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return ApiError(500, f"unexpected {type(error).__name__}: {error}").response()
