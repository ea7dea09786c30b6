"""What the garbage collector has to do while requests are served: next to nothing."""

import asyncio
import gc
import json
import socket
import time
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from membound.server.run import TICKS_BUSY, TICKS_IDLE, DrainingServer, configured
from tests.server.conftest import Live
from tests.server.live import wait_until_idle

WHOLE = {"prompt": "One two", "max_tokens": 3, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 3, "temperature": 0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("/v1/completions", WHOLE),
    "streamed": ("/v1/completions", {**WHOLE, "stream": True}),
    "several prompts": ("/v1/completions", {**WHOLE, "prompt": ["One", "two"], "stream": True}),
    "refused": ("/v1/completions", {**WHOLE, "n": 2}),
    "another model": ("/v1/completions", {**WHOLE, "model": "other"}),
    "too long": ("/v1/completions", {**WHOLE, "prompt": "word " * 2000}),
    "chat": ("/v1/chat/completions", CHAT),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True, "logprobs": True, "top_logprobs": 2}),
    "JSON": ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}),
    "tokens": ("/tokenize", {"prompt": "One two"}),
    "left": ("/v1/completions", {**WHOLE, "max_tokens": 900, "stream": True, "ignore_eos": True}),
    "left, not streamed": ("/v1/completions", {**WHOLE, "max_tokens": 900, "ignore_eos": True}),
}


def send_and_leave(url: str, path: str, body: dict[str, Any], *, read: bool) -> None:
    place = urlsplit(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection((place.hostname, place.port)) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        while read and client.recv(1 << 16):
            pass
        if not read:
            time.sleep(0.1)


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_requests_leave_no_circles(live: Live, kind: str) -> None:
    path, body = KINDS[kind]
    before = gc.get_threshold()
    for _ in range(2):  # what the first leaves may be made for all
        gc.collect()
        gc.set_threshold(0)
        try:
            for _ in range(5):
                send_and_leave(live.url, path, body, read="left" not in kind)
            wait_until_idle(live.served)
            time.sleep(0.2)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
        finally:
            gc.set_debug(0)
            gc.set_threshold(*before)
        found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
        gc.garbage.clear()
    assert not found


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_all_objects_are_looked_at_while_no_request_is_under_way() -> None:
    server = DrainingServer(configured(FastAPI()), SimpleNamespace())  # type: ignore[arg-type]
    loop = asyncio.new_event_loop()

    def gone_after(ticks: int, *tasks: object) -> bool:
        server.server_state.tasks = set(tasks)  # type: ignore[arg-type]
        gc.collect()
        circle = weakref.ref(Circle())
        for tick in range(1, 1 + ticks):
            loop.run_until_complete(server.on_tick(tick))
        return circle() is None

    gc.disable()
    try:
        assert not gone_after(TICKS_IDLE - 1)
        assert not gone_after(1, "one")
        assert gone_after(1)
        assert not gone_after(TICKS_IDLE, "one")
        assert gone_after(1)
        assert not gone_after(TICKS_BUSY - 1, "one")
        assert gone_after(1, "one")
    finally:
        gc.enable()
        loop.close()
