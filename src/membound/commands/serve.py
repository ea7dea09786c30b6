"""membound serve: a model behind OpenAI's endpoints, and its page."""

from dataclasses import dataclass

from membound.commands.output import parse_bytes
from membound.commands.run import open_model, ruler_of
from membound.errors import InputError


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
    max_num_seqs: int
    max_batched_tokens: int
    api_key: str | None
    cors: tuple[str, ...]
    max_body: str
    max_queue: int
    deadline: float | None
    drain: float
    metrics_prefix: str
    log_prompts: bool
    structured_outputs: bool


def serve_command(options: ServeOptions) -> None:
    from membound.measuring.step_work import StepWork
    from membound.server.app import create_app
    from membound.server.guidance import Guide
    from membound.server.run import listen, serve
    from membound.server.served import Served
    from membound.server.settings import Settings

    if not 0 <= options.port <= 65535:
        raise InputError(f"--port {options.port}: give a port from 0 to 65535; 0 takes a free one")
    settings = Settings(
        api_key=options.api_key,
        cors_origins=options.cors,
        max_body_bytes=parse_bytes(options.max_body, "--max-body") or 0,
        max_queue=options.max_queue,
        deadline_s=options.deadline,
        drain_s=options.drain,
        metrics_prefix=options.metrics_prefix,
        log_prompts=options.log_prompts,
    )
    listener = listen(options.host, options.port)
    llm = open_model(
        options.model,
        threads=options.threads,
        kv_memory=options.kv_memory,
        context=options.context,
        max_running=options.max_num_seqs,
        max_step_tokens=options.max_batched_tokens,
        quiet=False,
    )
    ruler = ruler_of(llm, options.threads)
    served = Served.of(
        options.served_model_name or options.model,
        llm.engine,
        llm.tokenizer,
        StepWork(llm.weights.graph, llm.weights.types, llm.executor.kv_bytes),
        ruler.roof(),
        settings,
        Guide(llm.tokenizer, llm.weights.architecture.vocab) if options.structured_outputs else None,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{served.name} on http://{shown}:{port} (OpenAI's endpoints under /v1, its page at /)", flush=True)
    serve(create_app(served), served, listener)
