"""A page of docs/ and its picture, from all that `peers.py` has kept.

.venv/bin/python benchmarks/speed_page.py [--page speed]
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compared import (
    OURS,
    SERVING_LEAST,
    TARGETS,
    TOKENS,
    attained,
    best_peer,
    lead,
    measured,
    median,
    rate,
    refusals,
    share_of_roof,
)
from peer_models import LABELS, MODELS
from peers import BATCHES, PROMPT, STEPS
from results import ENGINES, Column, columns
from speed_picture import draw

from membound.commands.speed import PARTS

DOCS = Path(__file__).parent.parent / "docs"
NAMES = {"membound": "membound", "llama.cpp": "llama.cpp", "openvino": "OpenVINO GenAI", "vllm": "vLLM CPU"}
TITLES = {"prefill": "prefill 512", "b1": "decode b1", "b8": "decode b8", "b32": "decode b32"}
Kept = dict[str, dict[str, Column]]

STEPS_TIMED = ", ".join(f"{STEPS[rows]} for {name}" for name, rows in BATCHES.items())
INTRODUCTION = f"""\
# Speed

membound beside llama.cpp, OpenVINO GenAI and vLLM on one machine: the same files, the same token ids, the
same number of threads, greedy, in turns within each run. `make bench` measures and writes this page;
`benchmarks/peers.py` measures parts of it. All times are of whole engine steps. Of decoding it is the median
step: of {STEPS_TIMED} after a prompt of {PROMPT} tokens. vLLM has no kernels for
these files and runs the same weights in bf16. A ratio is the median over the rounds of the peer's seconds
over membound's, so above 1 membound leads; *best peer* is the quickest of that row. A share is that of the
least time that the roofs allow for all rows in all layers (of a prompt's last one membound computes less),
and they are probed right after each timing because they move. Decode b1 is timed on the engine that
`membound run` has, all else on that of `membound serve`: with AMX the kernels differ (`docs/design.md`).
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def asked(kept: Kept) -> Iterator[str]:
    rows = []
    for model, targets in TARGETS.items():
        for target in targets:
            column = kept.get(model, {}).get(target.column)
            value = attained(target, column) if column else None
            of = "share of the roof" if target.of == "roof" else f"against {NAMES.get(target.of, target.of)}"
            got = "not measured" if value is None else f"{value:.2f}"
            met = "" if value is None else "met" if value >= target.least else "**missed**"
            rows.append((LABELS[model], f"{TITLES[target.column]}, {of}", f"≥ {target.least}", got, met))
    yield "## Targets\n"
    yield table(("model", "figure", "target", "measured", ""), rows) + "\n"


def cell(column: Column, name: str, engine: str) -> str:
    if engine not in column["engines"]:
        return "not run"
    if "refused" in column["engines"][engine]:
        return "refused"
    return f"{rate(column, name, engine):,.0f}" if name in TOKENS else other(column, name, engine)


def other(column: Column, name: str, engine: str) -> str:
    if name == "load":
        return f"{median(column, engine, 'seconds'):.2f}"
    return f"{column['engines'][engine]['peak_bytes'] / 1e6:,.0f}"


def against(column: Column, peer: str | None) -> str:
    return f"{lead(column, peer):.2f}" if peer in measured(column) and OURS in measured(column) else ""


def timings(kept: Kept) -> Iterator[str]:
    yield "## Every model\n"
    yield "Tokens per second; load in seconds with the file in the page cache and memory that is free; the"
    yield "most memory resident in MB.\n"
    for model, found in kept.items():
        rows = []
        for name in ("prefill", "b1", "b8", "b32", "load", "memory"):
            if name not in found:
                continue
            column = found[name]
            timed = name in TOKENS
            best = best_peer(column, "seconds") if timed else None
            rows.append(
                (
                    TITLES.get(name, "peak memory, MB" if name == "memory" else "load, s"),
                    *(cell(column, name, engine) for engine in ENGINES),
                    against(column, "llama.cpp") if timed else "",
                    f"{against(column, best)} ({NAMES[best]})" if best else "",
                    f"{share_of_roof(column):.0%}" if timed and OURS in measured(column) else "",
                    column["when"],
                )
            )
        head = (
            "",
            *(NAMES[engine] for engine in ENGINES),
            "/ llama.cpp",
            "/ best peer",
            "of the roof",
            "taken",
        )
        yield f"### {LABELS[model]}\n\n{table(head, rows)}\n"


def serving(kept: Kept) -> Iterator[str]:
    rows = []
    for model, found in kept.items():
        for engine in ENGINES:
            column = found.get("serving")
            if column is None or engine not in column["engines"]:
                continue
            if engine not in measured(column):
                rows.append((LABELS[model], NAMES[engine], "refused", "", "", ""))
                continue
            figures = [
                median(column, engine, name) for name in ("output_tok_per_s", "ttft_p50_s", "tpot_p50_s")
            ]
            rows.append(
                (
                    LABELS[model],
                    NAMES[engine],
                    f"{figures[0]:,.0f}",
                    f"{figures[1]:.2f}",
                    f"{figures[2] * 1e3:.1f}",
                    verdict(column) if engine == OURS else "",
                )
            )
    if rows:
        yield "## 32 clients over HTTP\n"
        yield (
            "Each engine's own server, loaded by `membound bench`: 32 clients at once, 128 tokens of prompt,"
            " 128 of answer. Server and client share the cores, whichever engine it is. OpenVINO GenAI brings"
            " no server: it runs in a plain HTTP loop around its continuous batching"
            " (`benchmarks/openvino_server.py`).\n"
        )
        head = (
            "model",
            "engine",
            "output tokens/s",
            "TTFT p50, s",
            "TPOT p50, ms",
            f"asked: ≥ {SERVING_LEAST}",
        )
        yield table(head, rows) + "\n"


def verdict(column: Column) -> str:
    """Against the peer with the most tokens per second, and the least of the peers' medians."""
    best = best_peer(column, "output_tok_per_s", max)
    if best is None:
        return ""
    times = 1 / lead(column, best, "output_tok_per_s")
    sooner = all(
        median(column, OURS, name)
        < min(median(column, peer, name) for peer in measured(column) if peer != OURS)
        for name in ("ttft_p50_s", "tpot_p50_s")
    )
    met = "met" if times >= SERVING_LEAST and sooner else "**missed**"
    return f"{times:.2f} × {NAMES[best]}, TTFT and TPOT {'lower' if sooner else 'not both lower'}: {met}"


def limits(kept: Kept) -> Iterator[str]:
    rows = []
    for model, found in kept.items():
        for step in found["explain"]["engines"][OURS]["steps"] if "explain" in found else ():
            shares = [
                f"{sum(p['seconds'] for p in step['parts'] if p['side'] == side) / step['seconds']:.0%}"
                for side in ("kernels", "waiting", "python")
            ]
            over = sorted(
                step["parts"], key=lambda part: part["seconds"] - (part["limit_s"] or 0), reverse=True
            )
            rows.append(
                (
                    LABELS[model],
                    step["step"],
                    f"{step['seconds'] * 1e6:,.0f}",
                    *shares,
                    "; ".join(loss(part) for part in over[:3]),
                )
            )
    if rows:
        yield "## What limits membound\n"
        yield (
            "`membound speed --explain`: the mean step of the quicker half, and the parts that take the most"
            " time beyond what the roof allows them.\n"
        )
        yield table(("model", "step", "µs", "kernels", "waiting", "Python", "most lost in"), rows) + "\n"


def loss(part: dict[str, Any]) -> str:
    lost = f"{PARTS[part['name']]} {(part['seconds'] - (part['limit_s'] or 0)) * 1e6:,.0f} µs"
    return (
        lost if part["limit_s"] is None else f"{lost} ({part['limit_s'] / part['seconds']:.0%} of its roof)"
    )


def notes(kept: Kept) -> Iterator[str]:
    every = [column for found in kept.values() for column in found.values()]
    machines = sorted({f"{column['machine']}, {column['threads']} threads" for column in every})
    versions = sorted(
        {
            f"{NAMES[engine]} {figures['version']}"
            for column in every
            for engine, figures in measured(column).items()
            if "version" in figures
        }
    )
    refused = sorted(
        {
            f"- {NAMES[engine]} and {LABELS[model]}: {why}"
            for model, found in kept.items()
            for column in found.values()
            for engine, why in refusals(column).items()
        }
    )
    yield f"## Machine and versions\n\n{'; '.join(machines)}. {', '.join(versions)}.\n"
    if refused:
        yield "What an engine refused, in its own words:\n\n" + "\n".join(refused) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", default="speed", help="its name: another for each machine")
    page = parser.parse_args().page
    kept = {model: found for model in MODELS if (found := columns(model))}
    if not kept:
        raise SystemExit("nothing is measured yet: run benchmarks/peers.py")
    parts = [INTRODUCTION, *asked(kept), *timings(kept), *serving(kept), *limits(kept)]
    if any(OURS in measured(found[name]) for found in kept.values() for name in TOKENS if name in found):
        draw(kept, DOCS / f"{page}.png", len(os.sched_getaffinity(0)))
        parts.append(f"## Below the roof\n\n![Every engine's steps on the roofline]({page}.png)\n")
    parts += notes(kept)
    (DOCS / f"{page}.md").write_text("\n".join(parts))
    print(f"written to {DOCS / page}.md")


if __name__ == "__main__":
    main()
