"""What serving costs: the engine alone, then the same load through HTTP, in one run.

    python benchmarks/serving.py smollm2

Clients and server share the machine with the kernels. Beside tokens per second it says how long steps of the
whole batch take in both, how long the server's event loop was held up, and what the page costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any

from fastapi import FastAPI

from membound import LLM, Sampling
from membound.commands.run import ruler_of
from membound.measuring.step_work import StepWork
from membound.server import feed
from membound.server.app import create_app
from membound.server.log import logger
from membound.server.run import listen, serve
from membound.server.served import Served
from membound.server.settings import Settings

ASKED_WORK_S, ASKED_PAGE = 0.005, 0.01


def whole_steps(llm: LLM, batch: int, since: int) -> float:
    """Median seconds from step to step while all of the batch decode."""
    engine = llm.engine
    log = list(engine.log)[since - engine.steps :] if engine.steps > since else []
    full = [(a, b) for a, b in pairwise(log) if _whole(a, batch) and _whole(b, batch)]
    return statistics.median(b.began - a.began for a, b in full) if full else float("nan")


def _whole(record: Any, batch: int) -> bool:
    return not record.chunks and len(record.decodes) == batch


class Watch:
    """The event loop: by how much it was late, how long its own work took, and the page's part of that."""

    def __init__(self, look_s: float = 0.002) -> None:
        self.look_s = look_s
        self.late_s: list[float] = []
        self.work_s: list[float] = []  # from look to look; more than that nothing waited for it
        self.frames_s = 0.0

    def look(self) -> None:
        """From now on, in the event loop that runs: as a timer, which nothing stands before."""
        loop = asyncio.get_running_loop()
        due, worked = loop.time() + self.look_s, time.thread_time()

        def again() -> None:
            self.late_s.append(loop.time() - due)
            self.work_s.append(time.thread_time() - worked)
            self.look()

        loop.call_later(self.look_s, again)

    def time_frames(self, page: feed.Feed) -> None:
        """From now on."""
        make = page._frame

        def timed(*, after: int, since: float) -> dict[str, Any]:
            began = time.thread_time()
            try:
                return make(after=after, since=since)
            finally:
                self.frames_s += time.thread_time() - began

        page._frame = timed  # type: ignore[method-assign]


def alone(llm: LLM, asked: argparse.Namespace) -> float:
    """Output tokens per second of the engine, with all requests given at once."""
    chance = random.Random(1)
    size = llm.engine.vocabulary or 1000
    prompts = [[chance.randrange(100, size) for _ in range(asked.prompt)] for _ in range(asked.requests)]
    began = time.perf_counter()
    llm.generate(prompts, Sampling(max_tokens=asked.output, ignore_eos=True))
    return float(asked.requests * asked.output / (time.perf_counter() - began))


def load(url: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The same load by `membound bench`, which has a process of its own."""
    shape = ["--prompt", str(asked.prompt), "--output", str(asked.output), "--requests", str(asked.requests)]
    command = [sys.executable, "-m", "membound.cli", "bench", url, "--concurrency", str(asked.batch), *shape]
    done = subprocess.run([*command, "--no-keep", "--json"], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--batch", type=int, default=32, help="requests at once")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    asked = parser.parse_args()
    llm = LLM(asked.model, max_running=asked.batch)
    roof = ruler_of(llm, None).roof()
    tok_per_s = alone(llm, asked)
    step_s = whole_steps(llm, asked.batch, 0)
    print(f"the engine alone: {tok_per_s:,.0f} tokens/s, {step_s * 1e3:.2f} ms from step to step")

    meter = StepWork(llm.weights.graph, llm.weights.types, llm.executor.kv_bytes)
    served = Served.of(asked.model, llm.engine, llm.tokenizer, meter, roof, Settings())
    app, watch = create_app(served), Watch()
    watch.time_frames(app.state.feed)

    def with_and_without_page(port: int) -> None:
        for page in (False, True):
            measure(llm, port, asked, watch, tok_per_s, page=page)

    serve_watched(app, served, watch, with_and_without_page)


def serve_watched(app: FastAPI, served: Served, watch: Watch, work: Callable[[int], None]) -> None:
    """Serve until work(port) is done in a thread of its own; the watch looks at the event loop meanwhile."""
    starting = app.router.lifespan_context

    def started(app: FastAPI) -> Any:
        watch.look()
        return starting(app)

    app.router.lifespan_context = started
    listener = listen("127.0.0.1", 0)

    def client() -> None:
        try:
            time.sleep(1)  # the server starts
            work(listener.getsockname()[1])
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=client, daemon=True).start()
    logger.disabled = True
    serve(app, served, listener)


def measure(
    llm: LLM, port: int, asked: argparse.Namespace, watch: Watch, alone_tok_per_s: float, *, page: bool
) -> None:
    """The load through HTTP, with or without somebody who looks at the page."""
    if page:
        viewer = HTTPConnection("127.0.0.1", port)
        viewer.request("GET", "/page/events")
        threading.Thread(target=viewer.getresponse().read, daemon=True).start()
    watch.late_s.clear()
    watch.work_s.clear()
    steps, cpu, frames_s = llm.engine.steps, time.process_time(), watch.frames_s
    found = load(f"http://127.0.0.1:{port}", asked)
    cpu, frames_s = time.process_time() - cpu, watch.frames_s - frames_s
    step_s, late = whole_steps(llm, asked.batch, steps), sorted(watch.late_s)
    share, most_s = found["output_tok_per_s"] / alone_tok_per_s, max(watch.work_s)
    print(
        f"through HTTP{', the page open' * page}: {found['output_tok_per_s']:,.0f} tokens/s ({share:.0%} of "
        f"the engine alone), {step_s * 1e3:.2f} ms from step to step\n"
        f"  TTFT p50 {found['ttft_s']['p50'] * 1e3:.0f} ms, TPOT p50 {found['tpot_s']['p50'] * 1e3:.1f} ms\n"
        f"  the event loop's own work took {most_s * 1e3:.1f} ms at most at a stretch (asked: 5 ms: "
        f"{said(most_s <= ASKED_WORK_S)}); it was late, processors being taken, by "
        f"{late[len(late) * 99 // 100] * 1e3:.0f} ms (p99)"
    )
    if page:
        print(
            f"  frames of the page: {frames_s / cpu:.2%} of the server's processor time (asked: under 1 %: "
            f"{said(frames_s / cpu < ASKED_PAGE)})"
        )


def said(held: bool) -> str:
    return "yes" if held else "NO"


if __name__ == "__main__":
    main()
