"""membound serve: a model behind OpenAI's endpoints, and its page."""

import logging
import logging.handlers
import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from membound.commands.output import parse_bytes
from membound.commands.run import open_model, ruler_of
from membound.errors import InputError
from membound.measuring.step_work import StepWork
from membound.models.names import catalog_entry
from membound.models.packaged import PACKAGED
from membound.server.app import create_app
from membound.server.guidance import Guide
from membound.server.log import OTHERS, Lines, logger
from membound.server.run import listen, serve
from membound.server.served import Served
from membound.server.settings import Settings


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """As given on the command line."""

    model: str
    host: str
    port: int
    served_model_name: str | None
    threads: int | None
    kv_memory: str | None
    context: int | None
    max_num_seqs: int | None
    max_batched_tokens: int | None
    api_key: str | None
    cors: tuple[str, ...]
    max_body: str
    max_queue: int
    deadline: float | None
    drain: float
    metrics_prefix: str
    log_prompts: bool
    structured_outputs: bool

    def settings(self) -> Settings:
        return Settings(
            api_key=self.api_key,
            cors_origins=self.cors,
            max_body_bytes=parse_bytes(self.max_body, "--max-body") or 0,
            max_queue=self.max_queue,
            deadline_s=self.deadline,
            drain_s=self.drain,
            metrics_prefix=self.metrics_prefix,
            log_prompts=self.log_prompts,
        )

    def listen(self) -> socket.socket:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port {self.port}: give a port from 0 to 65535; 0 takes a free one")
        return listen(self.host, self.port)


def serve_command(options: ServeOptions) -> None:
    if described(options.model):
        raise InputError(
            f"{options.model} is described here, but its weights are not: give its file or folder, or --on "
            "HARDWARE for the same server in predicted time"
        )
    settings, listener = options.settings(), options.listen()
    llm = open_model(
        options.model,
        threads=options.threads,
        kv_memory=options.kv_memory,
        context=options.context,
        max_running=options.max_num_seqs or 32,
        max_step_tokens=options.max_batched_tokens or 512,
        quiet=False,
    )
    served = Served.of(
        options.served_model_name or options.model,
        llm.engine,
        llm.tokenizer,
        StepWork(llm.weights.graph, llm.weights.types, llm.executor.kv_bytes),
        ruler_of(llm, options.threads).roof(),
        settings,
        Guide(llm.tokenizer, llm.weights.architecture.vocab) if options.structured_outputs else None,
        idle=llm.executor.ready_ahead,
    )
    run(served, listener)


def run(served: Served, listener: socket.socket) -> None:
    """Say where, and serve until a signal."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{served.name} on http://{shown}:{port} (OpenAI's endpoints under /v1, its page at /)", flush=True)
    with logging_requests():
        serve(create_app(served), served, listener)


def described(model: str) -> bool:
    """Whether a name is known by its dimensions alone."""
    return model not in PACKAGED and not Path(model).exists() and catalog_entry(model) is not None


@contextmanager
def logging_requests() -> Iterator[None]:
    """Lines of requests go to standard error from a thread of their own: a slow reader holds up nobody."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    writer = logging.handlers.QueueListener(lines, logging.StreamHandler())
    handler = Lines(lines)
    loggers = (logger, *map(logging.getLogger, OTHERS))
    for each in loggers:
        each.addHandler(handler)
        each.propagate = False
    logger.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        for each in loggers:
            each.removeHandler(handler)
            each.propagate = True
        writer.stop()
