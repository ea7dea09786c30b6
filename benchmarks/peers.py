"""Decode, prefill, load and memory of membound beside llama.cpp, interleaved in one run.

    .venv/bin/python benchmarks/peers.py [--models NAME ...] [--rounds N] [--write]

Both engines load the model in processes of their own and take turns; a ratio is the median over the rounds of
llama.cpp's seconds over membound's, so above 1 membound is faster. A share is the time that the machine's
roofs, probed in the same round, would allow over the time membound took. `--write` puts the table into
docs/speed.md. Run it on a quiet machine: a busy neighbour takes from whichever engine has its turn.
"""

import argparse
import datetime
import os
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import Worker, llama_worker, membound_worker

from membound.hardware.probe import processor_name
from membound.models.pull import pull

MODELS = ("smollm2", "gemma3", "qwen0.5b", "qwen1.5b")
PROMPT, STEPS, PREFILL = 32, 24, 512
BATCHES = (1, 8, 32)
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"


@dataclass(frozen=True)
class Row:
    """One measurement: tokens per second of both, the median ratio, and membound's share of the limit."""

    model: str
    what: str
    ours: float
    theirs: float
    ratio: float
    share: float | None


def ids(count: int, seed: int) -> list[int]:
    """Token ids that every vocabulary holds and none reserves."""
    return [random.Random(f"{seed}/{i}").randrange(1000, 20000) for i in range(count)]


def measure(name: str, rounds: int, threads: int) -> list[Row]:
    path = pull(name).path
    load: dict[str, list[float]] = {"ours": [], "theirs": []}
    ours, theirs = membound_worker(), llama_worker()
    load["ours"].append(ours.call("load", path=str(path), threads=threads)["load_s"])
    load["theirs"].append(theirs.call("load", path=str(path), threads=threads)["load_s"])
    rows = [interleave(name, "prefill 512", ours, theirs, rounds, 0)]
    rows += [interleave(name, f"decode b{batch}", ours, theirs, rounds, batch) for batch in BATCHES]
    memory = [worker.call("memory")["peak_bytes"] / 1e6 for worker in (ours, theirs)]
    ours.close()
    theirs.close()
    for _ in range(rounds - 1):
        for key, start in (("ours", membound_worker), ("theirs", llama_worker)):
            worker = start()
            load[key].append(worker.call("load", path=str(path), threads=threads)["load_s"])
            worker.close()
    seconds = {key: statistics.median(values) for key, values in load.items()}
    ratio = statistics.median(b / a for a, b in zip(load["ours"], load["theirs"], strict=True))
    rows.append(Row(name, "load, s", seconds["ours"], seconds["theirs"], ratio, None))
    rows.append(Row(name, "peak resident, MB", memory[0], memory[1], memory[1] / memory[0], None))
    return rows


def interleave(name: str, what: str, ours: Worker, theirs: Worker, rounds: int, batch: int) -> Row:
    """Time both in turn, once unmeasured to warm up; batch 0 is a prefill."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    shares = []
    for turn in range(rounds + 1):
        answers: dict[str, dict[str, Any]] = {}
        for key, worker in (("ours", ours), ("theirs", theirs)):
            if batch:
                prompts = [ids(PROMPT, turn * 100 + row) for row in range(batch)]
                answers[key] = worker.call("decode", prompts=prompts, steps=STEPS)
                seconds = statistics.median(answers[key]["seconds"])
            else:
                answers[key] = worker.call("prefill", tokens=ids(PREFILL, turn))
                seconds = answers[key]["seconds"]
            if turn:
                rates[key].append((batch or PREFILL) / seconds)
                if key == "ours":
                    shares.append(answers[key]["limit_s"] / seconds)
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True))
    row = Row(
        name,
        what,
        statistics.median(rates["ours"]),
        statistics.median(rates["theirs"]),
        ratio,
        statistics.median(shares),
    )
    print(show(row), flush=True)
    return row


def show(row: Row) -> str:
    share = "" if row.share is None else f"{row.share:.0%}"
    return f"| {row.model} | {row.what} | {row.ours:,.2f} | {row.theirs:,.2f} | {row.ratio:.2f} | {share} |"


HEAD = "| model | measure | membound | llama.cpp | ratio | share of the limit |\n|---|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true")
    wanted = parser.parse_args()
    print(HEAD)
    rows = [row for name in wanted.models for row in measure(name, wanted.rounds, wanted.threads)]
    table = "\n".join([HEAD, *(show(row) for row in rows)])
    if wanted.write:
        PAGE.write_text(
            "# Speed\n\n"
            f"Generated by `benchmarks/peers.py --write` on {datetime.date.today()}, on {processor_name()},"
            f" {wanted.threads} threads. Tokens per second unless said; ratios are membound over llama.cpp"
            " (for load and memory llama.cpp over membound), medians of interleaved rounds, above 1 where"
            " membound leads. The share is of the least time that the roofs, probed beside, allow.\n\n"
            f"{table}\n"
        )
        print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
