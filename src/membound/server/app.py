"""The endpoints put together."""

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from membound.errors import InputError
from membound.server import about, chat, completions
from membound.server.errors import ApiError, api_error, of_validation
from membound.server.guard import Guard
from membound.server.log import RequestLog
from membound.server.served import Served
from membound.server.streams import ClientGoneError


def create_app(served: Served) -> FastAPI:
    """The ASGI application for one model."""
    app = FastAPI(title="membound", version=version("membound"), docs_url=None, redoc_url=None)
    app.state.served = served
    for part in (completions, chat, about):
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
    app.add_middleware(RequestLog)
    return app


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return of_validation(list(error.errors())).response()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, str(error.detail), headers=error.headers or {}).response()


async def _input(request: Request, error: Exception) -> JSONResponse:
    return ApiError(400, str(error).removesuffix("; --raw avoids it")).response()


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return ApiError(500, f"unexpected {type(error).__name__}: {error}").response()
