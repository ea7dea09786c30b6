"""What an operator relies on: limits, keys, queues, deadlines, draining, metrics, the log."""

import json
import logging
import queue
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from membound import LLM
from membound.commands.serve import logging_requests
from membound.server.app import create_app
from membound.server.connection import Line
from membound.server.log import MOST_WAITING, Lines
from membound.server.run import DrainingServer, configured, listen
from membound.server.served import Served
from membound.server.settings import Settings
from tests.server.conftest import Live
from tests.server.live import listening, served_model, wait_until_idle

pytestmark = pytest.mark.models

LONG = {"prompt": "One two three", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def send(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    **headers: str,
) -> tuple[HTTPConnection, HTTPResponse]:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=20)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json", **headers})
    return connection, connection.getresponse()


def ask(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection, response = send(url, method, path, body, **headers)
    text = response.read().decode()
    connection.close()
    is_json = response.headers["content-type"].startswith("application/json")
    return response.status, json.loads(text) if is_json else text


@contextmanager
def small_server(settings: Settings, *, max_running: int = 2) -> Iterator[tuple[str, Served]]:
    served = served_model(LLM("smollm2", context=512, max_running=max_running), "smollm2", settings)
    with listening(served) as url:
        yield url, served


def test_api_key_cors_and_size() -> None:
    settings = Settings(api_key="s3cret", cors_origins=("https://a.example",), max_body_bytes=2000)
    with small_server(settings) as (url, _):
        assert ask(url, "GET", "/v1/models")[0] == 401
        status, refused = ask(url, "GET", "/v1/models", Authorization="Bearer wrong")
        assert (status, refused["error"]["code"]) == (401, "invalid_api_key")
        assert ask(url, "GET", "/v1/models", Authorization="Bearer s3cret")[0] == 200
        assert ask(url, "POST", "/tokenize", {"prompt": "x"})[0] == 401
        assert ask(url, "GET", "/health")[0] == 200
        assert ask(url, "GET", "/metrics")[0] == 200

        key = {"Authorization": "Bearer s3cret"}
        status, refused = ask(url, "POST", "/v1/completions", {"prompt": "x" * 3000}, **key)
        assert (status, refused["error"]["type"]) == (413, "invalid_request_error")
        status, _ = ask(url, "POST", "/v1/completions", b"{" + b" " * 3000, **key)
        assert status == 413

        connection, preflight = send(
            url,
            "OPTIONS",
            "/v1/completions",
            Origin="https://a.example",
            **{"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
        )
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        connection.close()


def test_a_body_without_a_length_is_measured_as_it_comes(live: Live) -> None:
    place = urlsplit(live.url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=10)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    piece = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
    for _ in range(20):
        connection.send(piece)
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_of_more_parts_than_can_be_read_at_once_is_refused(live: Live) -> None:
    nested = {"prompt": "x", "metadata": [[n] for n in range(40_000)]}
    status, refused = ask(live.url, "POST", "/v1/completions", nested)
    assert (status, refused["error"]["type"]) == (413, "invalid_request_error")
    assert "the body holds 40004 arrays, objects and members" in refused["error"]["message"]
    status, refused = ask(live.url, "POST", "/v1/completions", {"prompt": [1] * 100_010})
    assert "the body holds 100009 items; this server takes 65536" in refused["error"]["message"]
    text = "[{" * 40_000  # the same in a text is none
    assert ask(live.url, "POST", "/tokenize", {"prompt": text})[0] == 200
    status, refused = ask(live.url, "POST", "/v1/completions", {"prompt": [1] * 65_000})
    assert "the prompt has 65000 tokens" in refused["error"]["message"]


def test_a_client_that_is_slow_gets_all_in_its_order(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[bool] = []

    def free(line: Line) -> bool:
        ways.append(len(ways) % 3 == 0)
        return ways[-1]

    whole = ask(live.url, "POST", "/v1/completions", {**LONG, "max_tokens": 20})[1]["choices"][0]
    monkeypatch.setattr(Line, "free", property(free))
    text = ask(live.url, "POST", "/v1/completions", {**LONG, "max_tokens": 20, "stream": True})[1]
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert text.endswith("data: [DONE]\n\n")
    assert {True, False} == set(ways), "some went straight, some did not"


def test_a_full_queue_says_when_to_come_again() -> None:
    with small_server(Settings(max_queue=1), max_running=1) as (url, served):
        streams = [send(url, "POST", "/v1/completions", {**LONG, "stream": True}) for _ in range(2)]
        connection, refused = send(url, "POST", "/v1/completions", LONG)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert json.loads(refused.read())["error"]["code"] == "queue_full"
        connection.close()
        assert ask(url, "GET", "/ready")[0] == 429
        assert ask(url, "GET", "/health")[0] == 200
        for stream, response in streams:
            assert response.status == 200
            stream.close()
            response.close()
        wait_until_idle(served)
        assert ask(url, "POST", "/v1/completions", {**LONG, "max_tokens": 2})[0] == 200


def test_a_deadline_ends_bodies_and_streams() -> None:
    with small_server(Settings(deadline_s=0.1)) as (url, served):
        status, late = ask(url, "POST", "/v1/completions", LONG)
        assert (status, late["error"]["code"]) == (504, "deadline_exceeded")
        status, text = ask(url, "POST", "/v1/completions", {**LONG, "stream": True})
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert status == 200
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["error"]["code"] == "deadline_exceeded"
        wait_until_idle(served)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_dropped_within_a_step(live: Live, stream: bool) -> None:
    engine = live.served.engine.engine
    place = urlsplit(live.url)
    connection = HTTPConnection(place.hostname or "", place.port)
    body = json.dumps({**LONG, "max_tokens": 900, "stream": stream}).encode()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    while not engine.scheduler.running:
        time.sleep(0.002)
    before = engine.steps
    connection.sock.close() if connection.sock else None
    connection.close()
    while live.served.ledger.active:
        time.sleep(0.0005)
    noticed = engine.steps
    wait_until_idle(live.served)
    assert engine.steps - noticed <= 2  # the step that ran, and one that may have begun meanwhile
    assert noticed - before < 100


@contextmanager
def draining_server() -> Iterator[tuple[str, DrainingServer]]:
    """Listening, until a signal; afterwards its thread has ended."""
    served = served_model(LLM("smollm2", context=512, max_running=2), "smollm2")
    listener = listen("127.0.0.1", 0)
    server = DrainingServer(configured(create_app(served)), served)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    thread.join(timeout=10)
    assert not thread.is_alive()
    served.engine.close()
    listener.close()


def test_a_signal_lets_requests_finish() -> None:
    with draining_server() as (url, server):
        viewer, page = send(url, "GET", "/page/events")
        connection, response = send(
            url, "POST", "/v1/completions", {**LONG, "max_tokens": 120, "stream": True}
        )
        response.readline()
        server.handle_exit(signal.SIGTERM, None)
        status, refused = ask(url, "POST", "/v1/completions", LONG)
        assert (status, refused["error"]["message"]) == (503, "the server is shutting down")
        assert ask(url, "GET", "/ready")[0] == 503
        assert ask(url, "GET", "/health")[0] == 200
        rest = response.read().decode()
        assert rest.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"length"' in rest
        connection.close()
        assert page.read()  # the page's stream ends too
        viewer.close()


def test_a_second_signal_ends_requests_and_tells_them() -> None:
    with draining_server() as (url, server):
        connection, response = send(url, "POST", "/v1/completions", {**LONG, "stream": True})
        response.readline()
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        rest = response.read().decode()
        assert rest.endswith("data: [DONE]\n\n")
        assert '"error":{"message":"the engine is closed"' in rest
        connection.close()


def metric(text: str, name: str) -> float:
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_metrics_count_what_happened() -> None:
    with small_server(Settings(metrics_prefix="vllm")) as (url, _):
        for _ in range(2):
            ask(url, "POST", "/v1/completions", {"prompt": "word " * 40, "max_tokens": 5, "ignore_eos": True})
        text = ask(url, "GET", "/metrics")[1]
        assert metric(text, "vllm:time_to_first_token_seconds_count") == 2
        assert metric(text, "vllm:inter_token_latency_seconds_count") == 8
        assert metric(text, "vllm:request_time_per_output_token_seconds_count") == 2
        assert metric(text, "vllm:e2e_request_latency_seconds_count") == 2
        assert metric(text, "vllm:request_queue_time_seconds_count") == 2
        assert metric(text, "vllm:generation_tokens_total") == 10
        assert metric(text, "vllm:prefix_cache_hits_total") >= 32
        assert metric(text, "vllm:prefix_cache_queries_total") >= 80
        assert metric(text, "vllm:num_preemptions_total") == 0
        assert metric(text, "vllm:num_requests_running") == metric(text, "vllm:num_requests_waiting") == 0
        assert metric(text, "vllm:kv_cache_usage_perc") == 0
        assert metric(text, "vllm:steps_total") == 10
        assert metric(text, "vllm:step_bytes_total") > 10 * 96e6
        assert (
            metric(text, "vllm:step_flops_total") > 50 * 2 * 100e6
        )  # the second prompt was found for the most part
        assert 0 < metric(text, "vllm:step_share_of_limit") < 2
        assert 'finished_reason="length"' in text


def test_a_line_of_log_per_request(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "membound.requests")
    body = {"prompt": "a secret", "max_tokens": 3, "ignore_eos": True, "user": "u1"}
    ask(live.url, "POST", "/v1/completions", body, **{"X-Request-Id": "mine-1"})
    ask(live.url, "POST", "/v1/completions", {"prompt": "a secret", "n": 3})
    ask(live.url, "GET", "/health")
    for _ in range(100):
        if len(caplog.records) >= 2:
            break
        time.sleep(0.01)
    first, second = (json.loads(record.message) for record in caplog.records)
    assert "secret" not in caplog.text
    assert (first["id"], first["status"], first["path"]) == ("mine-1", 200, "/v1/completions")
    assert (first["output_tokens"], first["finish_reason"], first["user"]) == (3, "length", "u1")
    assert 0 < first["queue_s"] + first["ttft_s"] < first["seconds"] + first["queue_s"]
    assert second["status"] == 400


def test_lines_that_nobody_reads_are_counted_and_not_kept() -> None:
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = Lines(lines)
    for _ in range(MOST_WAITING + 7):
        handler.handle(logging.makeLogRecord({"name": "membound.requests", "msg": "line"}))
    assert lines.qsize() == MOST_WAITING
    for _ in range(2):
        lines.get()
    handler.handle(logging.makeLogRecord({"name": "membound.requests", "msg": "again"}))
    *_, told, last = (lines.get().getMessage() for _ in range(MOST_WAITING))
    assert (json.loads(told)["lines"], last) == (7, "again")


def test_warnings_of_others_are_lines_of_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_requests():
        logging.getLogger("uvicorn.error").warning("Invalid %s", "request")
        try:
            raise ValueError("lost")
        except ValueError:
            logging.getLogger("asyncio").exception("in a callback")
        logging.getLogger("membound.requests").info('{"status": 200}')
    warned, failed, served = map(json.loads, capsys.readouterr().err.splitlines())
    assert warned["warning"] == "Invalid request"
    assert (failed["error"], failed["trace"].splitlines()[-1]) == ("in a callback", "ValueError: lost")
    assert served == {"status": 200}


def test_tokens_and_back(live: Live) -> None:
    status, found = ask(live.url, "POST", "/tokenize", {"prompt": "Hello world", "return_token_strs": True})
    assert status == 200
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert "".join(found["token_strs"]) == "Hello world"
    assert ask(live.url, "POST", "/detokenize", {"tokens": found["tokens"]})[1] == {"prompt": "Hello world"}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    chat = ask(live.url, "POST", "/tokenize", {"messages": messages})[1]
    answer = ask(live.url, "POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 1})[1]
    assert answer["usage"]["prompt_tokens"] == chat["count"]
    assert ask(live.url, "POST", "/tokenize", {})[0] == 400
    assert ask(live.url, "POST", "/detokenize", {"tokens": [10**9]})[0] == 400
    assert ask(live.url, "GET", "/version")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", b"[]", 400),
        ("POST", "/v1/completions", b'{"prompt": "x", "temperature": 1e999}', 400),
        ("POST", "/v1/completions", b"\xff", 400),
        ("POST", "/v1/completions", None, 400),
        ("GET", "/v1/completions", None, 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/chat/completions", {"messages": []}, 400),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 400),
        (
            "POST",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
        ),
    ],
)
def test_faults_have_one_shape(live: Live, method: str, path: str, body: Any, status: int) -> None:
    found, answer = ask(live.url, method, path, body)
    assert found == status
    assert answer["error"].keys() == {"message", "type", "param", "code"}
