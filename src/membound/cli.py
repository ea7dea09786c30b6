"""The commands, thin: options in, one function of `membound.commands` called, one line on failure.

Exit codes: 0 done, 1 failed while running, 2 usage or input that cannot be used.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.errors import InputError, MemboundError
from membound.hardware.cores import no_more_than_cores

if TYPE_CHECKING:
    from membound.serving.sampling import Sampling

app = typer.Typer(
    name="membound",
    help="Run, measure and predict LLM inference against the memory wall.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A GGUF file, a safetensors folder, a catalog name, or hf:org/name."
    ),
]


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        callback=no_more_than_cores,
        help="Threads; by default all cores this process may use.",
    ),
]
KvMemory = Annotated[
    str | None,
    typer.Option("--kv-memory", help="Memory for the KV cache, such as 512MB or 2GiB; default: what fits."),
]
Context = Annotated[
    int | None, typer.Option("--context", min=1, help="Longest sequence in tokens; default: the model's.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens that hold this probability.")]
MinP = Annotated[
    float,
    typer.Option("--min-p", help="Keep tokens with at least this share of the likeliest one's probability."),
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same text.")]
LoadSeed = Annotated[int, typer.Option("--seed", help="Same seed, same arrivals and lengths.")]
On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Hardware: a catalog name, 8xh100-sxm for eight, or a TOML file; several, comma-separated.",
    ),
]
Trace = Annotated[
    str | None,
    typer.Option("--trace", help="azure-conv, azure-code, mooncake, or a file of arrivals and lengths."),
]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="What `membound calibrate URL --write` has left.")
]
RateScale = Annotated[float, typer.Option("--rate-scale", help="Play a trace so many times as fast.")]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Whose settings and overheads: vllm, sglang, trtllm, membound or none;"
        " default: vllm, and membound on `this`.",
    ),
]
Png = Annotated[Path | None, typer.Option("--png", help="Write the picture here.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write an interactive picture here.")]


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A catalog name such as smollm2, or hf:org/name[:file.gguf].")],
    json: Json = False,
) -> None:
    """Bring a model to the local cache, checked by SHA-256."""
    from membound.commands.pull import pull_command

    pull_command(name, json=json)


@app.command()
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    stop: Stop = None,
    seed: Seed = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")
    ] = False,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Generate text, and say how far from the memory wall it ran."""
    from membound.commands.run import run_command

    sampling = _sampling(max_tokens, temperature, top_k, top_p, min_p, stop, seed)
    run_command(
        model, prompt, sampling, raw=raw, threads=threads, kv_memory=kv_memory, context=context, json=json
    )


@app.command()
def chat(
    model: Model = "smollm2",
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    stop: Stop = None,
    seed: Seed = 0,
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    context: Context = None,
) -> None:
    """Talk to a model in the terminal; an empty line or Ctrl-D ends."""
    from membound.commands.chat import chat_command

    sampling = _sampling(max_tokens, temperature, top_k, top_p, min_p, stop, seed)
    chat_command(model, sampling, system=system, threads=threads, kv_memory=kv_memory, context=context)


@app.command()
def serve(
    model: Model = "smollm2",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", help="Its name for clients; default: MODEL.")
    ] = None,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    context: Context = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option("--max-num-seqs", min=1, help="Requests that run at once; default 32, or the engine's."),
    ] = None,
    max_batched_tokens: Annotated[
        int | None,
        typer.Option("--max-batched-tokens", min=1, help="Tokens of a step; default 512, or the engine's."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Predict this hardware instead of running a model, such as 4xh100-sxm."),
    ] = None,
    tp: Annotated[
        int | None, typer.Option("--tp", help="With --on: tensor-parallel ranks; default: all of a node.")
    ] = None,
    pp: Annotated[int, typer.Option("--pp", help="With --on: pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option("--ep", help="With --on: expert-parallel ranks.")] = 1,
    weights: Annotated[
        str | None, typer.Option("--weights", help="With --on: format of the weights, such as fp8.")
    ] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="With --on: format of the KV cache.")] = None,
    activations: Annotated[
        str | None, typer.Option("--activations", help="With --on: format of the activations.")
    ] = None,
    engine: EngineName = None,
    memory_fraction: Annotated[
        float | None, typer.Option("--memory-fraction", help="With --on: share of the memory that is used.")
    ] = None,
    output_tokens: Annotated[
        int, typer.Option("--output-tokens", min=1, help="With --on: tokens after which an answer ends.")
    ] = 256,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="MEMBOUND_API_KEY", help="Clients must send this as bearer token."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option("--cors", help="Origin whose pages may call; may be repeated; * is all."),
    ] = None,
    max_body: Annotated[str, typer.Option("--max-body", help="Largest request body.")] = "1MiB",
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Requests that may wait; more are told to come later.")
    ] = 256,
    deadline: Annotated[
        float | None, typer.Option("--deadline", help="Longest that a request may take, in seconds.")
    ] = None,
    drain: Annotated[
        float, typer.Option("--drain", help="Seconds that requests may go on after a signal to stop.")
    ] = 30.0,
    metrics_prefix: Annotated[
        str, typer.Option("--metrics-prefix", help="membound, or vllm for dashboards made for it.")
    ] = "membound",
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    structured_outputs: Annotated[
        bool,
        typer.Option(
            "--structured-outputs/--no-structured-outputs",
            help="JSON schemas, grammars and forced tool calls; preparing them takes a second or so.",
        ),
    ] = True,
) -> None:
    """Serve a model through OpenAI's endpoints, with a page that shows it against the memory wall."""
    from membound.commands.serve import ServeOptions, serve_command

    options = ServeOptions(
        model, host, port, served_model_name, threads, kv_memory, context, max_num_seqs, max_batched_tokens,
        api_key, tuple(cors or ()), max_body, max_queue, deadline, drain, metrics_prefix, log_prompts,
        structured_outputs,
    )  # fmt: skip
    if on is None:
        _refuse(
            {"--tp": tp, "--weights": weights, "--kv": kv, "--activations": activations}
            | {"--memory-fraction": memory_fraction, "--pp": pp != 1, "--ep": ep != 1},
            "goes with --on: what runs here is as the file has it",
        )
        serve_command(options)
        return
    _refuse(
        {"--threads": threads, "--kv-memory": kv_memory}, "does not go with --on: nothing is computed here"
    )
    from membound.commands.serve_predicted import PredictedOptions, serve_predicted_command
    from membound.costs.deployment import default_engine

    predicted = PredictedOptions(
        on, tp, pp, ep, weights, kv, activations, engine or default_engine(on), memory_fraction, output_tokens
    )
    serve_predicted_command(options, predicted)


@app.command()
def speed(
    model: Model,
    prefill: Annotated[str, typer.Option("--prefill", help="Prompt lengths, comma-separated.")] = "128,512",
    batch: Annotated[str, typer.Option("--batch", help="Decode batch sizes, comma-separated.")] = "1,8,32",
    max_tokens: MaxTokens = 48,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="Take a step apart: kernels, waiting, and the Python side.")
    ] = False,
    json: Json = False,
) -> None:
    """Prefill and decode speed at several batch sizes, with the share of the machine's limit."""
    from membound.commands.speed import speed_command

    sampling = _sampling(max_tokens, temperature, top_k, top_p, min_p, None, seed)
    speed_command(
        model,
        prefill,
        batch,
        sampling,
        threads=threads,
        kv_memory=kv_memory,
        explained=explained,
        json=json,
    )


@app.command()
def probe(threads: Threads = None, json: Json = False) -> None:
    """Measure this machine's roofs: read bandwidth by working set, and FLOP/s by precision."""
    from membound.commands.probe import probe_command

    probe_command(threads=threads, json=json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder of the picture.")] = Path("demo"),
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Answer, serve sixteen requests at once, and place it all on this machine's roofline."""
    from membound.commands.demo import demo_command

    demo_command(output, threads=threads, json=json)


@app.command()
def roofline(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A catalog name, a config.json, a folder, a GGUF file, or hf:org/name."
        ),
    ],
    on: On,
    tp: Annotated[
        int | None, typer.Option("--tp", help="Tensor-parallel ranks; default: all of a node.")
    ] = None,
    pp: Annotated[int, typer.Option("--pp", help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option("--ep", help="Expert-parallel ranks, of tp x dp.")] = 1,
    dp: Annotated[int, typer.Option("--dp", help="Data-parallel copies.")] = 1,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Format of the weights, such as fp8.")
    ] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="Format of the KV cache.")] = None,
    activations: Annotated[
        str | None, typer.Option("--activations", help="Format of the activations.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Sequences that decode at once.")] = 1,
    context: Annotated[int, typer.Option("--context", help="Tokens of each sequence while decoding.")] = 4096,
    prompt: Annotated[
        int | None, typer.Option("--prompt", help="Tokens of the prompt; default: the context.")
    ] = None,
    skew: Annotated[
        float, typer.Option("--skew", help="Of expert routing: popularity falls as rank^-skew; 0: uniform.")
    ] = 0.0,
    engine: EngineName = None,
    ideal: Annotated[bool, typer.Option("--ideal", help="The datasheet's roof alone.")] = False,
    memory_fraction: Annotated[
        float, typer.Option("--memory-fraction", help="Share of the memory for weights and cache.")
    ] = 1.0,
    png: Png = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """What a step costs on described hardware, operator by operator."""
    from membound.commands.roofline import Question, roofline_command
    from membound.costs.deployment import default_engine

    question = Question(
        model, on, tp, pp, ep, dp, weights, kv, activations, batch, context, prompt, skew,
        engine or default_engine(on), ideal, memory_fraction,
    )  # fmt: skip
    roofline_command(question, png=png, html=html, json=json)


@app.command()
def simulate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A catalog name, a config.json, a folder, a GGUF file, or hf:org/name."
        ),
    ],
    on: Annotated[
        str,
        typer.Option("--on", help="Hardware: 4xh100-sxm for four; several, with commas: replicas of each."),
    ],
    tp: Annotated[
        int | None, typer.Option("--tp", help="Tensor-parallel ranks; default: all of a node.")
    ] = None,
    pp: Annotated[int, typer.Option("--pp", help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option("--ep", help="Expert-parallel ranks, of tp x dp.")] = 1,
    dp: Annotated[int, typer.Option("--dp", help="Data-parallel copies.")] = 1,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Format of the weights, such as fp8.")
    ] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="Format of the KV cache.")] = None,
    activations: Annotated[
        str | None, typer.Option("--activations", help="Format of the activations.")
    ] = None,
    trace: Trace = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests per second; of a trace, its mean.")
    ] = None,
    rate_scale: RateScale = 1.0,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Users who wait for each answer.")
    ] = None,
    ramp: Annotated[
        str | None, typer.Option("--ramp", help="FIRST,LAST,SECONDS: a rate that rises, then stays.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", help="Default: all of a trace, 200, or 10 for each user.")
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", help="Tokens of each prompt.")] = 512,
    output: Annotated[int, typer.Option("--output", help="Tokens of each answer.")] = 128,
    lengths: Annotated[
        str, typer.Option("--lengths", help="fixed, uniform, lognormal, sharegpt or alpaca.")
    ] = "fixed",
    burstiness: Annotated[
        float, typer.Option("--burstiness", help="1: Poisson; less: bursts; more: steadier; inf: even.")
    ] = 1.0,
    jitter: Annotated[
        float, typer.Option("--jitter", help="Spread a trace's arrivals over bins of so many seconds.")
    ] = 0.0,
    prefix: Annotated[int, typer.Option("--prefix", help="Tokens that all prompts begin with.")] = 0,
    prefixes: Annotated[int, typer.Option("--prefixes", help="Of that many different beginnings.")] = 1,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each conversation.")] = 1,
    think: Annotated[float, typer.Option("--think", help="Seconds from an answer to the next turn.")] = 0.0,
    calibration: CalibrationFile = None,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Limits in seconds: ttft=0.5,tpot=0.05,e2e=10.")
    ] = None,
    engine: EngineName = None,
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", help="Requests that run at once; default: the engine's.")
    ] = None,
    max_batched_tokens: Annotated[
        int | None, typer.Option("--max-batched-tokens", help="Tokens of one step; default: the engine's.")
    ] = None,
    memory_fraction: Annotated[
        float | None, typer.Option("--memory-fraction", help="Of the memory; default: the engine's.")
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option("--kv-tokens", help="Tokens of KV cache; default: what fits.")
    ] = None,
    prefix_caching: Annotated[
        bool, typer.Option("--prefix-caching/--no-prefix-caching", help="Reuse cached prefixes.")
    ] = True,
    skew: Annotated[
        float | None,
        typer.Option(
            "--skew",
            help="Of expert routing: popularity falls as rank^-skew; default: as fitted, 0: uniform.",
        ),
    ] = None,
    ideal: Annotated[bool, typer.Option("--ideal", help="The datasheet's roof alone.")] = False,
    replicas: Annotated[int, typer.Option("--replicas", help="Equal deployments side by side.")] = 1,
    routing: Annotated[
        str, typer.Option("--routing", help="round-robin, least-loaded or prefix.")
    ] = "round-robin",
    prefill_replicas: Annotated[
        int, typer.Option("--prefill-replicas", min=0, help="Engines beside, which compute prompts only.")
    ] = 0,
    prefill_on: Annotated[
        str | None, typer.Option("--prefill-on", help="Their hardware; default: the same.")
    ] = None,
    prefill_tp: Annotated[
        int | None, typer.Option("--prefill-tp", help="Their tensor-parallel ranks.")
    ] = None,
    transfer_gbs: Annotated[
        float | None,
        typer.Option("--transfer-gbs", help="GB/s of each rank for their KV cache; default: the network's."),
    ] = None,
    speculate: Annotated[
        int, typer.Option("--speculate", min=0, help="Tokens guessed ahead, verified as rows of a step.")
    ] = 0,
    acceptance: Annotated[
        str, typer.Option("--acceptance", help="Chance that a guess is right; by position, with commas.")
    ] = "0.7",
    draft: Annotated[
        str, typer.Option("--draft", help="Who guesses: ngram (free), mtp (a prediction head), or a model.")
    ] = "ngram",
    explain: Annotated[
        bool, typer.Option("--explain", help="Simulate again without each switch: what it changed.")
    ] = False,
    seed: LoadSeed = 0,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a row for each request here.")] = None,
    png: Png = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """Serve a workload in virtual time: latencies, throughput, and what bounds them."""
    from membound.commands.bench_options import parse_ramp
    from membound.commands.simulate import Question as SimulateQuestion
    from membound.commands.simulate import simulate_command
    from membound.costs.deployment import default_engine
    from membound.workloads.offered import Offered
    from membound.workloads.slo import Slo, parse_slo

    offered = Offered(
        None if trace is not None else rate, parse_ramp(ramp) if ramp else None, concurrency, trace,
        requests=requests, prompt=prompt, output=output, lengths=lengths, burstiness=burstiness,
        rate_scale=rate_scale, jitter_s=jitter, prefix=prefix, prefixes=prefixes, turns=turns, think_s=think,
        seed=seed,
    )  # fmt: skip
    question = SimulateQuestion(
        model, on, tp, pp, ep, dp, weights, kv, activations, engine or default_engine(on), skew, ideal,
        max_num_seqs, max_batched_tokens, memory_fraction, kv_tokens, prefix_caching, replicas, routing,
        prefill_replicas, prefill_on, prefill_tp, transfer_gbs, speculate, acceptance, draft,
        parse_slo(slo) if slo else Slo(), calibration,
    )  # fmt: skip
    simulate_command(question, offered, rate, explain=explain, png=png, html=html, csv=csv, json=json)


@app.command()
def wall(
    start: Annotated[str | None, typer.Option("--from", help="A part of the history, such as K20X.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Another part.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="What compute means: fp64, fp64-vector, fp32, 16-bit or llm.")
    ] = "llm",
    png: Png = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """The memory wall over the years: compute against bandwidth."""
    from membound.commands.wall import wall_command

    wall_command(start=start, end=end, kind=kind, png=png, html=html, json=json)


@app.command()
def validate(
    data: Annotated[
        Path | None, typer.Option("--data", help="A CSV with columns as end_to_end.csv; default: packaged.")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Only one row in so many.")] = 1,
    write: Annotated[Path | None, typer.Option("--write", help="Write the page here, as Markdown.")] = None,
    json: Json = False,
) -> None:
    """Predictions against measurements: a scoreboard."""
    from membound.commands.validate import validate_command

    validate_command(data, every=every, write=write, json=json)


@app.command()
def models(json: Json = False) -> None:
    """The catalog of models."""
    from membound.commands.models import models_command

    models_command(json=json)


@app.command()
def hardware(
    name: Annotated[str | None, typer.Argument(help="One part, with its sources; default: all.")] = None,
    json: Json = False,
) -> None:
    """The catalog of accelerators."""
    from membound.commands.hardware import hardware_command

    hardware_command(name=name, json=json)


@app.command()
def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the server, such as http://127.0.0.1:8000.")],
    rate: Annotated[
        str | None, typer.Option("--rate", help="Requests per second; several, comma-separated: a sweep.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", help="Users who wait for each answer; several: a sweep.")
    ] = None,
    ramp: Annotated[
        str | None, typer.Option("--ramp", help="FIRST,LAST,SECONDS: a rate that rises, then stays.")
    ] = None,
    trace: Trace = None,
    rate_scale: RateScale = 1.0,
    requests: Annotated[
        int | None,
        typer.Option("--requests", help="Default: all of a trace, 200, or 10 for each user."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Send nothing after so many seconds.")
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", help="Tokens of each prompt.")] = 512,
    output: Annotated[int, typer.Option("--output", help="Tokens of each answer.")] = 128,
    lengths: Annotated[
        str, typer.Option("--lengths", help="fixed, uniform, lognormal, sharegpt or alpaca.")
    ] = "fixed",
    burstiness: Annotated[
        float, typer.Option("--burstiness", help="1: Poisson; less: bursts; more: steadier; inf: even.")
    ] = 1.0,
    jitter: Annotated[
        float, typer.Option("--jitter", help="Spread a trace's arrivals over bins of so many seconds.")
    ] = 0.0,
    prefix: Annotated[int, typer.Option("--prefix", help="Tokens that all prompts begin with.")] = 0,
    prefixes: Annotated[int, typer.Option("--prefixes", help="Of that many different beginnings.")] = 1,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each conversation.")] = 1,
    think: Annotated[float, typer.Option("--think", help="Seconds from an answer to the next turn.")] = 0.0,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="A file: ShareGPT .json, .jsonl, or text, one prompt a line."),
    ] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Limits in seconds: ttft=0.5,tpot=0.05,e2e=10.")
    ] = None,
    find_goodput: Annotated[
        bool,
        typer.Option("--find-goodput", help="From --rate on, bisect to the highest rate that holds the SLO."),
    ] = False,
    precision: Annotated[
        float, typer.Option("--precision", help="Of --find-goodput: where bisection ends.")
    ] = 0.05,
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Leave out what is sent in the first seconds.")
    ] = 0.0,
    cool_down: Annotated[
        float, typer.Option("--cool-down", help="Leave out what is sent in the last seconds.")
    ] = 0.0,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit 1 if so, as 'ttft.p99>1.5'; may be repeated."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask /v1/chat/completions.")] = False,
    served_model: Annotated[
        str, typer.Option("--served-model", help="As the server names it; default: the only one.")
    ] = "",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Make answers as long as asked.")
    ] = True,
    temperature: Temperature = 0.0,
    extra_body: Annotated[
        str | None, typer.Option("--extra-body", help="Further fields of each request, a JSON object.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one request.")] = 600.0,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Sent as a bearer token.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", help="'Name: value'; may be repeated.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="A GGUF file or folder; default: the server's own counts."),
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--clients", help="Client processes; default: as the rate needs.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --on: what is served, to predict the same load.")
    ] = None,
    on: Annotated[str | None, typer.Option("--on", help="With --model: the hardware below it.")] = None,
    tp: Annotated[int | None, typer.Option("--tp", help="Its tensor-parallel ranks.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="Its engine: vllm, sglang, trtllm, none.")] = "vllm",
    weights: Annotated[str | None, typer.Option("--weights", help="Format of its weights.")] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="Format of its KV cache.")] = None,
    calibration: CalibrationFile = None,
    name: Annotated[str, typer.Option("--name", help="Under which the run is kept.")] = "",
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the run for `membound runs`.")] = True,
    text_seed: Annotated[
        str | None,
        typer.Option("--text-seed", help="Same seed, same texts; default: texts no server has cached."),
    ] = None,
    seed: LoadSeed = 0,
    html: Html = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a row for each request here.")] = None,
    json: Json = False,
) -> None:
    """Load an OpenAI-compatible endpoint, and say what its users would feel."""
    from membound.commands.bench import Question as BenchQuestion
    from membound.commands.bench import bench_command
    from membound.commands.bench_options import asking, loads, question_target
    from membound.workloads.slo import Slo, parse_slo

    offered = loads(
        rate, concurrency, ramp, trace,
        requests=requests, prompt=prompt, output=output, lengths=lengths, burstiness=burstiness,
        rate_scale=rate_scale, jitter_s=jitter, prefix=prefix, prefixes=prefixes, turns=turns, think_s=think,
        seed=seed,
    )  # fmt: skip
    bench_command(
        BenchQuestion(
            url,
            offered,
            asking(served_model, chat, ignore_eos, temperature, timeout, extra_body),
            parse_slo(slo) if slo is not None else Slo(),
            name=name,
            api_key=api_key,
            headers=header or (),
            tokenizer=tokenizer,
            prompts=prompts,
            duration_s=duration,
            warm_up_s=warm_up,
            cool_down_s=cool_down,
            clients=clients,
            find_goodput=find_goodput,
            precision=precision,
            fail_if=fail_if or (),
            target=question_target(model, on, tp, engine, weights, kv, calibration),
            keep=keep,
            text_seed=text_seed,
        ),
        html=html,
        csv_path=csv,
        json=json,
    )


@app.command()
def runs(
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only the newest so many.")] = None,
    remove: Annotated[int | None, typer.Option("--remove", help="Forget this run.")] = None,
    json: Json = False,
) -> None:
    """The runs of `membound bench` that are kept."""
    from membound.commands.runs import runs_command

    runs_command(last=last, remove=remove, json=json)


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A run's number or name, or `last`; several: 3,4,5.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit 1 if B is so much of A, beyond noise: 'ttft.p99>1.1'."),
    ] = None,
    json: Json = False,
) -> None:
    """Two runs side by side: each difference, and whether it exceeds the noise."""
    from membound.commands.compare import compare_command

    compare_command(first, second, fail_if=fail_if or (), json=json)


@app.command()
def calibrate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL|FILE|this",
            help="A server, a CSV of measured rows (columns of end_to_end.csv), or this machine's engine.",
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", help="What a server serves, or what to time here (a GGUF file).")
    ] = "",
    on: Annotated[str, typer.Option("--on", help="The hardware below a server.")] = "",
    tp: Annotated[int | None, typer.Option("--tp", help="Its tensor-parallel ranks.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="Its engine: vllm, sglang, trtllm, none.")] = "vllm",
    weights: Annotated[str | None, typer.Option("--weights", help="Format of its weights.")] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="Format of its KV cache.")] = None,
    max_prompt: Annotated[int, typer.Option("--max-prompt", min=32, help="Longest prompt to probe.")] = 4096,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Most requests to probe at once.")
    ] = 64,
    requests: Annotated[
        int, typer.Option("--requests", min=2, help="Of the traffic that tests the fit.")
    ] = 60,
    chat: Annotated[bool, typer.Option("--chat", help="Ask /v1/chat/completions.")] = False,
    served_model: Annotated[
        str, typer.Option("--served-model", help="As the server names it; default: the only one.")
    ] = "",
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Sent as a bearer token.")
    ] = None,
    write: Annotated[Path | None, typer.Option("--write", help="Write the result here, as JSON.")] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit the prediction to an endpoint, to measured rows, or to this machine: error before and after."""
    if target == "this":
        from membound.commands.calibrate_this import calibrate_this

        calibrate_this(model or "smollm2", threads=threads, json=json)
        return
    if not target.startswith(("http://", "https://")):
        from membound.commands.calibrate_rows import calibrate_rows

        calibrate_rows(Path(target), json=json)
        return
    if not model or not on:
        raise InputError("to calibrate a server, say what it serves and where: --model MODEL --on HARDWARE")
    from membound.commands.bench_options import asking
    from membound.commands.calibrate_url import Question as CalibrateQuestion
    from membound.commands.calibrate_url import calibrate_url

    question = CalibrateQuestion(
        target, model, on, tp, engine, weights, kv, asking(served_model, chat, True, 0.0, 600.0, None),
        {"Authorization": f"Bearer {api_key}"} if api_key else {}, max_prompt, max_batch, requests,
    )  # fmt: skip
    calibrate_url(question, write=write, json=json)


def _refuse(options: Mapping[str, object], why: str) -> None:
    """InputError for the first of these that was given."""
    for name, value in options.items():
        if value:
            raise InputError(f"{name} {why}")


def _sampling(
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    stop: list[str] | None,
    seed: int,
) -> "Sampling":
    from membound.serving.sampling import Sampling

    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=tuple(stop or ()),
        seed=seed,
    )


def main() -> None:
    """The entry point: whatever goes wrong is one line on standard error and an exit code."""
    try:
        status = app(standalone_mode=False)
    except MemboundError as error:
        status = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        status = _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:
        usage = getattr(
            error, "format_message", None
        )  # typer's own usage errors, whatever its version calls them
        if usage:
            status = _fail(f"{usage()} (membound --help lists the commands)", 2)
        else:
            if os.environ.get("MEMBOUND_TRACEBACK"):
                traceback.print_exc()
            name = type(error).__name__
            status = _fail(f"unexpected {name}: {error} (MEMBOUND_TRACEBACK=1 shows where)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"membound: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
