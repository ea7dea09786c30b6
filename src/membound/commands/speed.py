"""membound speed: prefill and decode, as rates and as shares of the limit."""

import resource
from typing import Any

from membound.commands.output import parse_bytes, parse_counts, print_json, print_table, size, status
from membound.serving.sampling import Sampling

DECODE_PROMPT = 32


def speed_command(
    model: str,
    prefill: str,
    batch: str,
    sampling: Sampling,
    *,
    threads: int | None,
    kv_memory: str | None,
    json: bool,
) -> None:
    steps = sampling.max_tokens or 48
    lengths, batches = parse_counts(prefill, "--prefill"), parse_counts(batch, "--batch")

    most = parse_bytes(kv_memory, "--kv-memory")
    from membound.measuring.speed import SpeedTest, made_up
    from membound.models.pull import resolve_model

    with status("loading", quiet=json) as say:
        test = SpeedTest(
            resolve_model(model),
            threads=threads,
            rows=max(batches),
            row_tokens=DECODE_PROMPT + steps + 1,
            tokens=max(lengths) + 1,
            kv_memory=most,
        )
        answer: dict[str, Any] = {"prefill": [], "decode": []}
        for length in lengths:
            say(f"prefill of {length}")
            test.prefill(made_up(length, test.vocabulary))  # first touch of buffers is not what is asked
            timing = test.prefill(made_up(length, test.vocabulary, 1))
            answer["prefill"].append(
                {
                    "tokens": length,
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
                    "tok_per_s": rows * steps / timing.seconds,
                    "bytes_per_s": timing.placed.work.bytes / timing.seconds,
                    "share_of_limit": timing.share_of_limit,
                }
            )
    answer["load_s"] = test.load_s
    answer["resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if json:
        print_json(answer)
    else:
        _show(model, answer)


def _show(model: str, answer: dict[str, Any]) -> None:
    rows = [
        (
            f"prefill {row['tokens']}",
            f"{row['tok_per_s']:,.0f}",
            f"{row['flops_per_s'] / 1e9:,.0f} GFLOP/s",
            f"{row['share_of_limit']:.0%}",
        )
        for row in answer["prefill"]
    ]
    rows += [
        (
            f"decode, batch {row['batch']}",
            f"{row['tok_per_s']:,.0f}",
            f"{row['bytes_per_s'] / 1e9:.1f} GB/s",
            f"{row['share_of_limit']:.0%}",
        )
        for row in answer["decode"]
    ]
    print_table((model, "token/s", "", "of the limit"), rows)
    print(f"loaded in {answer['load_s']:.2f} s, {size(answer['resident_bytes'])} resident at most")
