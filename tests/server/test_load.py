"""Many streams at once, of which some leave: nothing is left of them, the others get what they would alone.

A few seconds here; `make load` runs it for five minutes.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from membound import LLM, Sampling
from tests.server.test_operation import ask

pytestmark = pytest.mark.models

SECONDS = float(os.environ.get("MEMBOUND_LOAD_SECONDS", "4"))
STREAMS = 64
TOKENS = 16
PROMPTS = [
    f"{word} and then" * (1 + place % 3) for place, word in enumerate(["One", "The sea", "A", "def", "Iron"])
]
MOST_GROWTH = 24 << 20  # bytes that a server may gain between the first second and the last
STATE = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "event_loop_tasks")


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """`membound serve` in a process of its own; afterwards it has ended by itself, and said nothing bad."""
    command = [sys.executable, "-m", "membound.cli", "serve", "smollm2", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, process.stderr and process.stderr.read()
            yield found[0]
        finally:
            process.terminate()
            errors = process.communicate(timeout=20)[1]
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@dataclass
class Tally:
    completed: int = 0
    left: int = 0
    tokens: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)


async def one(url: str, prompt: str, expected: str, leave_after: int | None, tally: Tally) -> None:
    """A greedy stream, read to its end or left in the middle."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    fields = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    text, events = "", 0
    try:
        while leave_after is None or events < leave_after:
            line = await reader.readline()
            if line.startswith(b"data: [DONE]"):
                tally.completed += 1
                if text != expected:
                    tally.wrong.append((text, expected))
                return
            if line.startswith(b"data: "):
                choice = json.loads(line[6:])["choices"][0]
                text += choice["text"]
                events += 1
            assert line, "the server closed a stream"
        tally.left += 1
    finally:
        tally.tokens += events
        writer.close()


async def stress(url: str, expected: dict[str, str]) -> Tally:
    tally = Tally()
    chance = random.Random(7)
    until = time.monotonic() + SECONDS

    async def client() -> None:
        while time.monotonic() < until:
            prompt = chance.choice(PROMPTS)
            leave_after = chance.randrange(TOKENS) if chance.random() < 0.3 else None
            await one(url, prompt, expected[prompt], leave_after, tally)

    await asyncio.gather(*(client() for _ in range(STREAMS)))
    return tally


def gauges(url: str) -> dict[str, float]:
    text = ask(url, "GET", "/metrics")[1]
    return {
        name: float(value)
        for name, value in re.findall(r"^(?:membound:)?(\w+)(?:{[^}]*})? (\S+)$", text, re.M)
    }


def rest(url: str, calm: dict[str, float]) -> dict[str, float]:
    """The gauges once all is over."""
    for _ in range(100):
        now = gauges(url)
        if all(now[name] <= calm[name] for name in STATE):
            return now
        time.sleep(0.05)
    raise AssertionError({name: (now[name], calm[name]) for name in STATE})


def test_streams_that_leave_take_nothing_with_them() -> None:
    llm = LLM("smollm2", context=512, max_running=8)
    sampling = Sampling(max_tokens=TOKENS, ignore_eos=True)
    expected = {prompt: llm.generate([prompt], sampling)[0].text for prompt in PROMPTS}
    del llm
    with serving("--context", "512", "--kv-memory", "48MB", "--no-structured-outputs") as url:
        calm = gauges(url)
        asyncio.run(one(url, PROMPTS[0], expected[PROMPTS[0]], None, Tally()))
        asyncio.run(warm(url, expected))
        before = rest(url, calm)
        began = time.monotonic()
        tally = asyncio.run(stress(url, expected))
        seconds = time.monotonic() - began
        after = rest(url, calm)
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    print(
        f"\n{tally.completed} completed, {tally.left} left, {tally.tokens / seconds:.0f} tokens/s of"
        f" {STREAMS} streams for {seconds:.0f} s; memory grew by {grown / 1e6:.1f} MB"
    )
    assert tally.wrong == []
    assert tally.completed > 0
    assert tally.left > 0
    assert after["process_open_fds"] <= before["process_open_fds"] + 1
    assert grown < MOST_GROWTH


async def warm(url: str, expected: dict[str, str]) -> None:
    """As many streams as there will be: what they take first, the KV cache above all, is no leak."""
    tally = Tally()
    await asyncio.gather(*(one(url, PROMPTS[0], expected[PROMPTS[0]], None, tally) for _ in range(STREAMS)))
