"""Bodies read by pydantic's own parser: several times quicker, and as strict as JSON is."""

import gc
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.responses import Response


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            gc.disable()  # thousands of small lists would have it go through them again and again
            try:
                self._json = from_json(body, allow_inf_nan=False, cache_strings="none")
            except ValueError as error:
                raise json.JSONDecodeError(str(error), "", 0) from None
            finally:
                gc.enable()
        return self._json


class JsonRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read
