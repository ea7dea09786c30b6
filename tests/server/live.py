"""Servers for tests: a model behind the endpoints, listening on a free port of the loopback."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from membound import LLM
from membound.measuring.ruler import Ruler
from membound.measuring.step_work import StepWork
from membound.server.app import create_app
from membound.server.guidance import Guide
from membound.server.run import configured, listen
from membound.server.served import Served
from membound.server.settings import Settings


def served_model(llm: LLM, name: str, settings: Settings | None = None, *, guided: bool = False) -> Served:
    """`llm` as `membound serve` would have it."""
    ruler = Ruler(llm.weights, llm.executor.kv_bytes)
    return Served.of(
        name,
        llm.engine,
        llm.tokenizer,
        StepWork(llm.weights.graph, llm.weights.types, llm.executor.kv_bytes),
        ruler.roof(seconds=0.05),
        settings or Settings(),
        Guide(llm.tokenizer, llm.weights.architecture.vocab) if guided else None,
    )


@contextmanager
def listening(served: Served) -> Iterator[str]:
    """The address of a server in a thread of its own; afterwards nothing of it is left."""
    listener = listen("127.0.0.1", 0)
    app = create_app(served)
    server = uvicorn.Server(configured(app))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        served.engine.close()


def wait_until_idle(served: Served, seconds: float = 5.0) -> None:
    """No request, no block in use."""
    scheduler = served.engine.engine.scheduler
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not scheduler.busy and scheduler.pool.free == scheduler.pool.blocks and not served.ledger.active:
            return
        time.sleep(0.005)
    raise AssertionError(f"still busy: {scheduler.running} {scheduler.waiting}, {scheduler.pool.free} free")
