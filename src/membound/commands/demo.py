"""membound demo: the memory wall, told by the reader's own machine."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.commands.output import print_json, print_table, progress, rate, size, status
from membound.commands.run import Told, expected_cost, milliseconds, open_model, ruler_of, stream
from membound.errors import RunError
from membound.serving.engine import Completion, StepRecord
from membound.serving.sampling import Sampling
from membound.workloads.metrics import summarize

if TYPE_CHECKING:
    from membound.costs.roof import Roof
    from membound.costs.roofline import StepCost
    from membound.measuring.ruler import Placed, Ruler
    from membound.reports.roofline import Point

MODEL = "smollm2"
QUESTION = "Why is a large language model's decoding limited by memory bandwidth rather than by arithmetic?"
TOPICS = (
    "the tides",
    "how bread rises",
    "a lighthouse keeper",
    "prime numbers",
    "the printing press",
    "why the sky is blue",
    "a rainy day in Lisbon",
    "photosynthesis",
    "the silk road",
    "how to sharpen a knife",
    "a chess game",
    "volcanoes",
    "the moon",
    "bees",
    "an old library",
    "glass",
)
BACKGROUND = "Consider what a curious reader already knows, and what would surprise them most. "


def demo_command(output: Path, *, threads: int | None, json: bool) -> None:
    from membound.hardware.probe import probe
    from membound.measuring.ruler import chunks_of, higher
    from membound.models.pull import pull

    say = (lambda text: None) if json else print
    with progress(f"pulling {MODEL}", quiet=json) as show:
        pulled = pull(MODEL, progress=show)
    say(f"{MODEL}: {size(pulled.bytes)}\n")
    with status("probing this machine", quiet=json) as next_probe:
        roofs = probe(threads=threads, progress=next_probe)
    say(
        f"this machine: {roofs.processor}, {roofs.cores} threads, {roofs.instruction_set}; reads"
        f" {rate(roofs.read_bandwidth_bytes_per_s)} beyond its caches\n"
    )
    llm = open_model(str(pulled.path), threads=threads, kv_memory=None, context=None, quiet=json)
    ruler = ruler_of(llm, threads)
    expected = expected_cost(str(pulled.path), threads, quiet=json)

    say(f"> {QUESTION}\n")
    ids = llm.chat_ids([{"role": "user", "content": QUESTION}])
    before = ruler.roof()
    completion, alone = stream(llm, ids, Sampling(max_tokens=128), echo=not json)
    told = Told.of(completion, alone, ruler, expected, before)

    say(f"\n\nserving {len(TOPICS)} requests of different lengths at once …")
    prompts = [
        llm.chat_ids([{"role": "user", "content": f"{BACKGROUND * (2 * index)}Tell me about {topic}."}])
        for index, topic in enumerate(TOPICS)
    ]
    llm.engine.log.clear()
    before = ruler.roof()
    completions = llm.engine.generate(prompts, Sampling(max_tokens=64, ignore_eos=True))
    failed = [one.error for one in completions if one.finish_reason == "error"]
    if failed:
        raise RunError(f"{len(failed)} of {len(completions)} requests failed: {failed[0]}")
    together = list(llm.engine.log)
    roof = higher(before, ruler.roof())
    phases = [
        Phase.of("prefill, 16 requests", [r for r in together if r.chunks], ruler, roof, expected),
        Phase.of("decode, 1 request", [r for r in alone if not r.chunks], ruler, told.roof, expected),
        Phase.of("decode, 16 requests", [r for r in together if not r.chunks], ruler, roof, expected),
    ]
    ttft = summarize(one.ttft_s for one in completions if one.ttft_s is not None)
    tpot = summarize(one.tpot_s for one in completions if one.tpot_s is not None)
    chunks = [chunks_of(record) for record in together]
    predicted_s = _median_tpot(completions, together, map(expected.step_seconds, chunks))
    limit_s = _median_tpot(completions, together, (roof.limit_s(ruler.work(step)) for step in chunks))
    assert ttft is not None, "each of them has 64 tokens"
    assert tpot is not None
    pictures = _draw(output, phases, roof, roofs.peaks, roofs.processor)
    if json:
        print_json(
            {
                "single": told.as_json(completion, ruler),
                "concurrent": {
                    "requests": len(completions),
                    "ttft_s": asdict(ttft),
                    "tpot_s": asdict(tpot),
                    "predicted_tpot_s": predicted_s,
                    "limit_tpot_s": limit_s,
                },
                "phases": [phase.as_json() for phase in phases],
                "pictures": [str(path) for path in pictures],
            }
        )
        return
    print_table(
        ("", "FLOP/byte", "GFLOP/s", "weights/step", "KV/step", "step", "predicted", "limit", "share"),
        [phase.row() for phase in phases],
        title=f"against {rate(roof.bandwidth_bytes_per_s)} read from a working set of this model's size",
    )
    print_table(
        ("", "TTFT", "TPOT", "TPOT predicted", "TPOT limit", "share of the limit"),
        [
            (
                "1 request",
                milliseconds(told.ttft_s),
                milliseconds(told.tpot_s),
                milliseconds(told.predicted_tpot_s),
                milliseconds(told.limit_tpot_s),
                "-" if told.share_of_limit is None else f"{told.share_of_limit:.0%}",
            ),
            (
                "16 requests, median",
                milliseconds(ttft.p50),
                milliseconds(tpot.p50),
                milliseconds(predicted_s),
                milliseconds(limit_s),
                f"{limit_s / tpot.p50:.0%}",
            ),
        ],
    )
    print(f"picture: {pictures[0]} and {pictures[1]}")


def _median_tpot(
    completions: Sequence[Completion], records: Sequence[StepRecord], seconds: Iterable[float]
) -> float:
    """What the TPOT of the median request would be if each step took its `seconds`.

    A request's later tokens come of the steps after its first, others' prompts among them.
    """
    steps = list(zip(records, seconds, strict=True))
    return statistics.median(
        sum(cost for step, cost in steps if one.token_times[0] <= step.began < one.token_times[-1])
        / (len(one.token_times) - 1)
        for one in completions
    )


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps of one kind: where they stand, and what was predicted."""

    label: str
    kind: str
    placed: "Placed"
    predicted_s: float  # per step

    @classmethod
    def of(
        cls,
        label: str,
        records: list[StepRecord],
        ruler: "Ruler",
        roof: "Roof",
        expected: "StepCost",
    ) -> "Phase":
        from membound.measuring.ruler import chunks_of

        predicted = [expected.step_seconds(chunks_of(record)) for record in records]
        kind = "prefill" if records[0].chunks else "decode"
        return cls(label, kind, ruler.place(records, roof), sum(predicted) / len(predicted))

    @property
    def limit_s(self) -> float:
        return self.placed.limit_s / self.placed.steps

    def point(self) -> "Point":
        """Its place in the picture."""
        from membound.reports.roofline import Point

        work, share = self.placed.work, f"{self.placed.share_of_limit:.0%} of the limit"
        return Point(f"{self.label}: {share}", self.kind, work.flops, work.bytes, self.placed.seconds)

    def as_json(self) -> dict[str, Any]:
        placed = self.placed
        return {
            "label": self.label,
            "steps": placed.steps,
            "tokens": placed.tokens,
            "flops": placed.work.flops,
            "weight_bytes_per_step": placed.work.weight_bytes / placed.steps,
            "kv_bytes_per_step": _kv_bytes(placed) / placed.steps,
            "intensity": placed.work.flops / placed.work.bytes,
            "bytes_per_s": placed.work.bytes / placed.seconds,
            "flops_per_s": placed.work.flops / placed.seconds,
            "step_s": placed.seconds / placed.steps,
            "predicted_step_s": self.predicted_s,
            "limit_step_s": self.limit_s,
            "share_of_limit": placed.share_of_limit,
        }

    def row(self) -> tuple[str, ...]:
        placed = self.placed
        return (
            self.label,
            f"{placed.work.flops / placed.work.bytes:.1f}",
            f"{placed.work.flops / placed.seconds / 1e9:,.0f}",
            size(placed.work.weight_bytes / placed.steps),
            size(_kv_bytes(placed) / placed.steps),
            milliseconds(placed.seconds / placed.steps),
            milliseconds(self.predicted_s),
            milliseconds(self.limit_s),
            f"{placed.share_of_limit:.0%}",
        )


def _kv_bytes(placed: "Placed") -> float:
    return placed.work.kv_read_bytes + placed.work.kv_write_bytes


def _draw(
    output: Path, phases: list[Phase], roof: "Roof", peaks: dict[str, float], processor: str
) -> tuple[Path, Path]:
    from membound.reports.roofline import Picture, write_html, write_png

    picture = Picture(
        f"{MODEL} on {processor}",
        roof.bandwidth_bytes_per_s,
        peaks,
        [phase.point() for phase in phases],
    )
    png, html = output / "roofline.png", output / "roofline.html"
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_png(picture, png)
        write_html(picture, html)
    except OSError as error:
        raise RunError(f"cannot write the picture to {output}: {error.strerror or error}") from None
    return png, html
