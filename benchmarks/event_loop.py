"""How long the server's event loop is held up by heavy requests: nothing else may wait more than 5 ms for it.

    python benchmarks/event_loop.py smollm2

Each kind of request is sent several times; a figure is the most processor time that the loop spent at a
stretch, from one look to the next.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from typing import Any

from serving import ASKED_WORK_S, Watch, said, serve_watched

from membound import LLM
from membound.commands.run import ruler_of
from membound.measuring.step_work import StepWork
from membound.server.app import create_app
from membound.server.guidance import Guide
from membound.server.served import Served
from membound.server.settings import Settings

TIMES = 5
LOOK_S = 0.0  # at every turn of the loop


def properties(count: int) -> dict[str, Any]:
    """A schema of many fields."""
    each = {f"field_{n}": {"type": "string", "description": "one of many fields " * 4} for n in range(count)}
    return {"type": "object", "properties": each, "required": list(each), "additionalProperties": False}


def tools(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": f"tool_{n}", "parameters": properties(20)}}
        for n in range(count)
    ]


def kinds(vocabulary: int) -> dict[str, tuple[str, bytes]]:
    """Heavy requests by name: where they go, and their bodies, of which this process keeps no objects."""
    return {name: (path, json.dumps(body).encode()) for name, (path, body) in _kinds(vocabulary).items()}


def _kinds(vocabulary: int) -> dict[str, tuple[str, dict[str, Any]]]:
    text, chat = "/v1/completions", "/v1/chat/completions"
    few = {"max_tokens": 2, "temperature": 0}
    said = [{"role": "user", "content": "Hi."}]
    schema = {"type": "json_schema", "json_schema": {"name": "many", "schema": properties(300)}}
    return {
        "a short prompt": (text, {"prompt": "Hi.", **few}),
        "16,000 entries of logit_bias": (
            text,
            {"prompt": "Hi.", "logit_bias": {str(n): -1 for n in range(min(16_000, vocabulary))}, **few},
        ),
        "a prompt of 900 KB, too long": (text, {"prompt": "word " * 180_000, **few}),
        "a prompt of 65,000 ids, too long": (text, {"prompt": [*range(1, 45_001), *range(20_000)], **few}),
        "a prompt of 110,000 ids, refused": (text, {"prompt": list(range(1, 55_001)) * 2, **few}),
        "64 prompts": (text, {"prompt": [f"Number {n}" for n in range(64)], **few}),
        "30,000 prompts, refused": (text, {"prompt": ["x"] * 30_000, **few}),
        "a chat of 5,000 messages, too long": (chat, {"messages": said * 5_000, **few}),
        "a schema of 300 fields": (chat, {"messages": said, "response_format": schema, **few}),
        "5,000 choices": (
            text,
            {"prompt": "Hi.", "guided_choice": [str(n) for n in range(5000)], **few},
        ),
        "128 tools": (chat, {"messages": said, "tools": tools(128), "tool_choice": "none", **few}),
        "20 logprobs of 200 tokens": (
            chat,
            {"messages": said, "logprobs": True, "top_logprobs": 20, "max_tokens": 200, "temperature": 0},
        ),
        "20 logprobs of 200 tokens, streamed": (
            chat,
            {"messages": said, "logprobs": True, "top_logprobs": 20, "max_tokens": 200, "stream": True},
        ),
        "60,000 ids to detokenize": ("/detokenize", {"tokens": [5] * 60_000}),
        "900 KB to tokenize": ("/tokenize", {"prompt": "word " * 180_000, "return_token_strs": True}),
        "900 KB of 100,000 lists, refused": (
            text,
            {"prompt": "x", "metadata": [[n] for n in range(100_000)], **few},
        ),
        "65,000 ids of which the last is a text": (text, {"prompt": [*range(1, 65_000), "x"], **few}),
    }


def post(port: int, path: str, body: bytes) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def storm(port: int, count: int) -> None:
    """Streams that begin together and are left together."""
    body = json.dumps({"prompt": "One two", "max_tokens": 900, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for each in sockets:
        each.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    for each in sockets:
        each.recv(1)
        if each is sockets[31]:
            break
    for each in sockets:
        each.close()
    time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    asked = parser.parse_args()
    llm = LLM(asked.model, max_running=32)
    meter = StepWork(llm.weights.graph, llm.weights.types, llm.executor.kv_bytes)
    guide = Guide(llm.tokenizer, llm.weights.architecture.vocab)
    roof = ruler_of(llm, None).roof()
    served = Served.of(asked.model, llm.engine, llm.tokenizer, meter, roof, Settings(), guide)
    watch = Watch(LOOK_S)
    requests = kinds(llm.engine.vocabulary or 1000)

    def heavy(port: int) -> None:
        for name, (path, body) in requests.items():
            measure(watch, name, partial(post, port, path, body))
        for count in (32, 200):
            measure(watch, f"{count} streams that leave together", partial(storm, port, count))

    serve_watched(create_app(served), served, watch, heavy)


def measure(watch: Watch, name: str, send: Callable[[], int | None]) -> None:
    """The most of several times, and the median of each one's most."""
    most = []
    for _ in range(TIMES):
        watch.work_s.clear()
        status = send()
        time.sleep(0.05)
        most.append(max(watch.work_s, default=0.0))
    worst = max(most)
    print(
        f"  {name:42} {status or '':>4} {worst * 1e3:6.2f} ms at most, "
        f"{sorted(most)[TIMES // 2] * 1e3:.2f} ms as a rule: {said(worst <= ASKED_WORK_S)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
