"""An OpenAI-compatible endpoint without a model: its tokens come at known times, whatever the load.

    python benchmarks/fake_endpoint.py --port 8001 --first 0.1 --gap 0.01

The first token comes `first` seconds after a request, one more every `gap`. Answers are written by timers of
an event loop that is on time to some tens of microseconds; nothing waits for anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from membound.measuring.fine_loop import run

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODEL = "fake"


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def event(message: dict[str, Any]) -> bytes:
    return chunk(b"data: " + json.dumps(message).encode() + b"\n\n")


def token_event(*, chat: bool) -> bytes:
    """As vLLM words it, so that reading it costs the client what it would."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
    choice |= {"delta": {"content": " word"}} if chat else {"text": " word"}
    kind = "chat.completion.chunk" if chat else "text_completion"
    return event({"id": "cmpl-0", "object": kind, "created": 0, "model": MODEL, "choices": [choice]})


TOKEN = {chat: token_event(chat=chat) for chat in (False, True)}


class Served(asyncio.Protocol):
    """One connection."""

    def __init__(self, first: float, gap: float) -> None:
        self._first, self._gap = first, gap
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        if len(body) < length:
            return
        self._buffer = body[length:]
        path = head.split(b" ", 2)[1].decode()
        self._answer(path, json.loads(body[:length]) if length else {}, now)

    def _answer(self, path: str, body: dict[str, Any], now: float) -> None:
        if path == "/v1/models":
            self._whole({"data": [{"id": MODEL}]})
        elif path == "/tokenize":
            self._whole({"count": len(words(body)) + 1})
        elif path in ("/v1/completions", "/v1/chat/completions"):
            self._transport.write(HEAD)
            chat = path.endswith("chat/completions")
            self._stream(now + self._first, body["max_tokens"], len(words(body)) + 1, 0, chat)
        else:
            self._whole({"error": {"message": f"there is no {path}"}}, b"404 Not Found")

    def _whole(self, answer: dict[str, Any], status: bytes = b"200 OK") -> None:
        data = json.dumps(answer).encode()
        self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))

    def _stream(self, due: float, tokens: int, prompt: int, sent: int, chat: bool) -> None:
        self._timer = self._loop.call_at(due, self._token, due, tokens, prompt, sent, chat)

    def _token(self, due: float, tokens: int, prompt: int, sent: int, chat: bool) -> None:
        if sent + 1 < tokens:
            self._transport.write(TOKEN[chat])
            self._stream(due + self._gap, tokens, prompt, sent + 1, chat)
            return
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        last = TOKEN[chat] + event({"choices": [], "usage": usage}) + chunk(b"data: [DONE]\n\n")
        self._transport.write(last + b"0\r\n\r\n")


def words(body: dict[str, Any]) -> list[str]:
    """A token for each word; an endpoint of this kind adds one."""
    messages = body.get("messages")
    text = body.get("prompt", "") if messages is None else " ".join(str(m["content"]) for m in messages)
    return str(text).split()


async def serve(port: int, first: float, gap: float) -> asyncio.Server:
    """Listening on loopback; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Served(first, gap), "127.0.0.1", port, backlog=4096)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--first", type=float, default=0.1, help="seconds to the first token")
    parser.add_argument("--gap", type=float, default=0.01, help="seconds between tokens")
    options = parser.parse_args()
    server = await serve(options.port, options.first, options.gap)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run(main())
