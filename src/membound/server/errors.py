"""Failures in the shape that OpenAI's clients read, with its status codes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: Fault


ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": what}
    for status, what in {
        400: "The request cannot be used; `param` names the field.",
        401: "The API key is missing or wrong.",
        404: "There is no such model or path.",
        413: "The body is too large.",
        429: "The queue is full; Retry-After says when to come again.",
        500: "The step failed.",
        503: "The server is shutting down.",
        504: "The request took longer than this server allows.",
    }.items()
}


class ApiError(Exception):
    """Ends a request with `status`; `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.status, self.message, param=self.param, code=self.code)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_validation(faults: Sequence[Any], body: Any) -> ApiError:
    """What pydantic found in `body`, told by one of its faults."""
    fault = _likeliest(faults)
    place = _place(fault, body)
    param = ".".join(place) or None
    match fault["type"]:
        case "json_invalid":
            return ApiError(400, f"the body is not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}")
        case "model_attributes_type" if not place:
            return ApiError(400, "send a JSON object, with Content-Type: application/json")
        case "needs_stream":
            return ApiError(400, fault["msg"], param="stream_options")
        case "unsupported":
            return ApiError(400, f"{param}: {fault['msg']}", param=param, code="unsupported")
        case "extra_forbidden":
            return ApiError(400, f"{param} is not supported by this server", param=param, code="unsupported")
        case "literal_error" if (field := place[-1]) in ONLY:
            message = (
                f"{field} = {fault['input']!r} is not supported: leave it out or set it to {ONLY[field]}"
            )
            return ApiError(400, message, param=param, code="unsupported")
        case _:
            return ApiError(400, f"{param or 'the body'}: {fault['msg']}", param=param)


def _likeliest(faults: Sequence[Any]) -> Any:
    """Where a field may be of several types, the fault of the one that fits furthest."""
    field = faults[0]["loc"][:2]
    return max((f for f in faults if f["loc"][:2] == field), key=lambda f: len(f["loc"]))


def _place(fault: Any, body: Any) -> list[str]:
    """The path to the fault through the body, without the types that pydantic tried on its way."""
    path = []
    at = body
    *way, last = fault["loc"]
    for part in way[1:] if way else way:
        if (isinstance(at, dict) and part in at) or (isinstance(at, list) and isinstance(part, int)):
            at = at[part]
            path.append(str(part))
    named = fault["type"] in ("missing", "extra_forbidden")
    if named or (isinstance(at, dict) and last in at) or (isinstance(at, list) and isinstance(last, int)):
        path.append(str(last))
    return [part for part in path if part != "body"]


# Fields of which only the value that changes nothing is taken.
ONLY = {
    "n": "1",
    "best_of": "1",
    "echo": "false",
    "store": "false",
    "use_beam_search": "false",
    "service_tier": "auto or default",
    "suffix": "an empty text",
}


async def api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()
