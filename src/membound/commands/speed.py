"""membound speed: prefill and decode, as rates and as shares of the limit."""

import gc
import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.commands.output import (
    parse_bytes,
    parse_counts,
    print_json,
    print_notes,
    print_table,
    size,
    status,
)
from membound.serving.sampling import Sampling

if TYPE_CHECKING:
    from membound.measuring.explain import Explained
    from membound.measuring.speed import SpeedTest

DECODE_PROMPT = 32
PARTS = {
    "norms": "norms, sums, quantization",
    "qkv": "queries, keys, values",
    "rotation": "rotation, cache write",
    "attention": "attention",
    "output": "attention's output",
    "gate_up": "gate and up",
    "down": "down",
    "head": "head",
    "sampling": "sampling",
    "planning": "checks, attention's plan",
    "waiting": "waiting at barriers",
    "scheduling": "Python: scheduling",
    "rows": "Python: the step's arrays",
    "binding": "Python: into the core and out",
    "text": "Python: detokenizing",
    "engine": "Python: engine, events",
}


def speed_command(
    model: str,
    prefill: str,
    batch: str,
    sampling: Sampling,
    *,
    threads: int | None,
    kv_memory: str | None,
    explained: bool,
    json: bool,
) -> None:
    steps = sampling.max_tokens or 48
    lengths, batches = parse_counts(prefill, "--prefill"), parse_counts(batch, "--batch")

    most = parse_bytes(kv_memory, "--kv-memory")
    from membound.measuring.speed import SpeedTest
    from membound.models.pull import resolve_model

    answer: dict[str, Any] = {"prefill": [], "decode": []}
    apart: dict[str, Explained] = {}
    path = resolve_model(model)
    for some, rows in _by_engine(path, lengths, batches):
        with status("loading", quiet=json) as say:
            test = SpeedTest(
                path,
                threads=threads,
                rows=max(rows),
                row_tokens=DECODE_PROMPT + steps + 1,
                # All prompts of a batch go in one step: its sequences decode together from first to last.
                tokens=max([length + 1 for length in some] + [max(rows) * DECODE_PROMPT]),
                kv_memory=most,
            )
            if "load_s" not in answer:
                print_notes(test.weights.notes)
                answer["load_s"] = test.load_s
            _measure(test, some, rows, steps, sampling, answer, say)
            if explained:
                apart |= _take_apart(test, some, rows, steps, sampling, say)
            del test
            gc.collect()  # an engine is a cycle, and the next one loads the weights anew
    answer["decode"].sort(key=lambda row: batches.index(row["batch"]))  # as asked, whatever was timed first
    asked = [f"prefill {length}" for length in lengths] + [f"decode, batch {rows}" for rows in batches]
    apart = {name: apart[name] for name in asked if name in apart}
    answer["resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if json:
        if explained:
            answer["explain"] = [{"step": name, **asdict(step)} for name, step in apart.items()]
        print_json(answer)
    else:
        _show(model, answer)
        for name, step in apart.items():
            _show_parts(name, step)


def _by_engine(path: Path, lengths: list[int], batches: list[int]) -> list[tuple[list[int], list[int]]]:
    """Prompts and batches that one engine is timed with: one for few sequences may have other kernels."""
    from membound.executors.native import FEW_SEQUENCES, default_isa
    from membound.models.weights import open_weights

    weights = open_weights(path)
    few = [rows for rows in batches if rows <= FEW_SEQUENCES]
    many = [rows for rows in batches if rows > FEW_SEQUENCES]
    if not few or not many or default_isa(weights, max(few)) == default_isa(weights, max(many)):
        return [(lengths, batches)]
    return [(lengths, many), ([], few)]


def _measure(
    test: "SpeedTest",
    lengths: list[int],
    batches: list[int],
    steps: int,
    sampling: Sampling,
    answer: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    from membound.measuring.speed import made_up

    for length in lengths:
        say(f"prefill of {length}")
        test.prefill(made_up(length, test.vocabulary))  # first touch of buffers is not what is asked
        timing = test.prefill(made_up(length, test.vocabulary, 1))
        answer["prefill"].append(
            {
                "tokens": length,
                "instruction_set": test.isa,
                "tok_per_s": length / timing.seconds,
                "flops_per_s": timing.placed.work.flops / timing.seconds,
                "share_of_limit": timing.share_of_limit,
            }
        )
    for rows in batches:
        say(f"decode of {rows}")
        prompts = [made_up(DECODE_PROMPT, test.vocabulary, row) for row in range(rows)]
        timing = test.decode(prompts, steps, sampling)
        answer["decode"].append(
            {
                "batch": rows,
                "instruction_set": test.isa,
                "tok_per_s": rows * steps / timing.seconds,
                "bytes_per_s": timing.placed.work.bytes / timing.seconds,
                "share_of_limit": timing.share_of_limit,
            }
        )


def _take_apart(
    test: "SpeedTest",
    lengths: list[int],
    batches: list[int],
    steps: int,
    sampling: Sampling,
    say: Callable[[str], None],
) -> "dict[str, Explained]":
    """The same steps once more, each with where its time goes."""
    from membound.measuring.explain import explain
    from membound.measuring.speed import made_up
    from membound.models.tokenizer import Tokenizer

    codec = Tokenizer.of(test.weights)
    apart = {}
    for length in lengths:
        say(f"a prefill of {length}, taken apart")
        prompt = made_up(length, test.vocabulary, 2)
        apart[f"prefill {length}"] = explain(test, codec, [prompt], 0, sampling)
    for rows in batches:
        say(f"a decode of {rows}, taken apart")
        prompts = [made_up(DECODE_PROMPT, test.vocabulary, row) for row in range(rows)]
        apart[f"decode, batch {rows}"] = explain(test, codec, prompts, steps, sampling)
    return apart


def _show_parts(name: str, step: "Explained") -> None:
    """The parts of one step, in microseconds and as shares; kernels also beside what their roof allows."""
    rows = [
        (
            PARTS[part.name],
            f"{part.seconds * 1e6:,.0f}",
            f"{part.seconds / step.seconds:.1%}",
            "" if part.limit_s is None else f"{part.limit_s / part.seconds:.0%}",
        )
        for part in step.parts
    ]
    sums = ", ".join(
        f"{side} {step.seconds_of(side) * 1e6:,.0f}" for side in ("kernels", "waiting", "python")
    )
    print_table((name, "µs a step", "share", "of its limit"), rows)
    print(f"{step.seconds * 1e6:,.0f} µs a step, mean of the quicker half: {sums}\n")


def _show(model: str, answer: dict[str, Any]) -> None:
    rows = [
        (
            f"prefill {row['tokens']}",
            f"{row['tok_per_s']:,.0f}",
            f"{row['flops_per_s'] / 1e9:,.0f} GFLOP/s",
            f"{row['share_of_limit']:.0%}",
            row["instruction_set"],
        )
        for row in answer["prefill"]
    ]
    rows += [
        (
            f"decode, batch {row['batch']}",
            f"{row['tok_per_s']:,.0f}",
            f"{row['bytes_per_s'] / 1e9:.1f} GB/s",
            f"{row['share_of_limit']:.0%}",
            row["instruction_set"],
        )
        for row in answer["decode"]
    ]
    print_table((model, "token/s", "", "of the limit", "kernels"), rows)
    print(f"loaded in {answer['load_s']:.2f} s, {size(answer['resident_bytes'])} resident at most")
