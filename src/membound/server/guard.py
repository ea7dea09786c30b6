"""What stands before the routes: the API key, and the size of a body."""

import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from membound.server.errors import ApiError
from membound.server.settings import Settings

GUARDED = ("/v1/", "/tokenize", "/detokenize")


class Guard:
    """Refuses before anything is read or parsed."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_key(scope["path"], headers)
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self.settings.max_body_bytes:
                raise self._too_large()
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.settings.max_body_bytes:
                raise HTTPException(413, self._too_large().message)  # what a route lets through
            return message

        await self.app(scope, counted, send)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        key = self.settings.api_key
        if key is None or not path.startswith(GUARDED):
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + key.encode()):
            raise ApiError(
                401,
                "the API key is missing or wrong: send it as Authorization: Bearer …",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _too_large(self) -> ApiError:
        most = self.settings.max_body_bytes
        return ApiError(413, f"the body is larger than the {most} bytes that this server takes")
