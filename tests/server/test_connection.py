"""What a connection takes, and from whom: raw sockets, since clients send none of this."""

import asyncio
import json
import re
import socket
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from membound.server import connection
from membound.server.connection import MOST_HEAD, MOST_PIECES, PIECE, Connection
from membound.server.run import configured
from membound.server.turns import AT_ONCE, Turns
from tests.server.conftest import Live
from tests.server.live import wait_until_idle

FEW = {"prompt": "One two", "max_tokens": 2, "temperature": 0}
MANY = {**FEW, "max_tokens": 900, "ignore_eos": True}


def dial(live: Live) -> socket.socket:
    place = urlsplit(live.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def post(body: dict[str, Any], *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers)
    return "\r\n".join((*lines, "Content-Type: application/json", "", "")).encode() + data


def to_the_end(client: socket.socket) -> str:
    read = b""
    while part := client.recv(1 << 16):
        read += part
    return read.decode()


def refusal(answer: str) -> tuple[int, str]:
    """Its status and what it says, if it has OpenAI's shape."""
    head, _, body = answer.partition("\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["message"]


@pytest.mark.models
def test_headers_have_a_bound(live: Live) -> None:
    for headers in (b"X: " + b"y" * 2 * MOST_HEAD, b"x:y\r\n" * MOST_HEAD):
        with dial(live) as client:
            client.sendall(b"GET /health HTTP/1.1\r\n" + headers[: MOST_HEAD + PIECE])
            status, message = refusal(to_the_end(client))
            assert (status, message) == (431, f"the request's headers are longer than {MOST_HEAD} bytes")
    with dial(live) as client:
        client.sendall(post(FEW, "Connection: close", "X: " + "y" * (MOST_HEAD // 2)))
        assert to_the_end(client).startswith("HTTP/1.1 200")


@pytest.mark.models
def test_what_is_not_http_is_refused_in_the_shape_of_all_errors(live: Live) -> None:
    with dial(live) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01")  # how TLS begins
        assert refusal(to_the_end(client))[0] == 400


@pytest.mark.models
def test_an_offer_of_http_2_changes_nothing(live: Live) -> None:
    """Java's client and curl --http2 make it with their first request."""
    with dial(live) as client:
        client.sendall(
            post(FEW, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")
        )
        client.sendall(post(FEW, "Connection: close"))
        assert len(re.findall(r"HTTP/1.1 200 OK", to_the_end(client))) == 2


@pytest.mark.models
def test_requests_one_behind_the_other_are_answered_in_their_order(live: Live) -> None:
    with dial(live) as client:
        client.sendall(post({**FEW, "stream": True}, "X-Request-Id: 1"))
        client.sendall(b"".join(post(FEW, f"X-Request-Id: {n}") for n in range(2, 200)))
        client.sendall(post(FEW, "X-Request-Id: 200", "Connection: close"))
        answers = to_the_end(client)
    assert re.findall(r"x-request-id: (\d+)", answers) == [str(n) for n in range(1, 201)]
    assert len(re.findall(r"HTTP/1.1 200 OK", answers)) == 200


@pytest.mark.models
@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_with_a_second_request_behind_the_first_is_dropped(live: Live, stream: bool) -> None:
    engine = live.served.engine.engine
    before = engine.steps
    with dial(live) as client:
        client.sendall(post({**MANY, "stream": stream}) + post(MANY) + post(MANY))
        while not engine.scheduler.running:
            time.sleep(0.002)
    wait_until_idle(live.served)
    assert engine.steps - before < 300


class Wire:
    """A transport that nobody is behind."""

    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None


def test_what_came_in_and_waits_for_its_turn_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        turns, wire = Turns(), Wire()
        for _ in range(AT_ONCE):
            turns.take(lambda: None)  # others were first
        state = SimpleNamespace(connections=set(), tasks=set(), default_headers=[])
        config = configured(app)  # type: ignore[arg-type]
        config.load()
        line = Connection(turns=turns, config=config, server_state=state, app_state={})
        line.connection_made(wire)  # type: ignore[arg-type]
        line.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        came = 0
        while wire.reading:
            line.data_received(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
            came += 1
        assert came <= MOST_PIECES
        while not wire.reading:
            await asyncio.sleep(0)
        line.cycle.disconnected = True

    assert connection.PIECE > 0x1000
    asyncio.run(asyncio.wait_for(main(), 10))
