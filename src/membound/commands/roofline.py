"""membound roofline: what a step of a model costs on described hardware, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.commands.output import print_json, print_table, rate, size
from membound.costs.calibration import IDEAL
from membound.costs.deployment import deployment
from membound.costs.memory import RankMemory, rank_memories
from membound.costs.parallel import Layout, layout
from membound.costs.precisions import Precisions
from membound.costs.roofline import Estimate, Operation, StepCost
from membound.errors import InputError
from membound.models.families import build

if TYPE_CHECKING:
    from membound.hardware.accelerator import Cluster
    from membound.reports.roofline import Picture

Chunks = list[tuple[int, int]]


@dataclass(frozen=True)
class Question:
    """What is asked: the options of the command."""

    model: str
    hardware: str
    tp: int | None = None
    pp: int = 1
    ep: int = 1
    dp: int = 1
    weights: str | None = None
    kv: str | None = None
    activations: str | None = None
    batch: int = 1
    context: int = 4096
    prompt: int | None = None  # None: as long as the context
    skew: float = 0.0
    engine: str = "vllm"
    ideal: bool = False
    memory_fraction: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A step of one kind: the whole model's work, and a rank's operations."""

    work: Estimate  # of the whole model on one imaginary part: FLOPs and bytes
    rank: Estimate

    @property
    def intensity(self) -> float:
        """FLOP per byte of the whole model."""
        return self.work.flops / self.work.bytes


@dataclass(frozen=True)
class Answer:
    """All that the command prints."""

    question: Question
    cluster: Cluster
    layout: Layout
    precisions: Precisions
    parameters: int
    active_parameters: float
    weight_bytes: float
    kv_bytes_per_token: float
    growing_bytes_per_token: float
    bounded_bytes_per_sequence: float
    ridge: float
    memories: Sequence[RankMemory]
    prefill: Phase
    decode: Phase
    notes: list[str]

    @property
    def sequences_per_copy(self) -> int:
        """Sequences that one data-parallel copy decodes at once."""
        return -(-self.question.batch // self.layout.data)

    @property
    def fits(self) -> bool | None:
        """Whether the weights leave room for the cache on every rank; None where the capacity is unknown."""
        answers = [memory.fits for memory in self.memories]
        return None if None in answers else all(answers)

    @property
    def max_kv_tokens(self) -> int | None:
        """Tokens of KV cache that fit, all data-parallel copies together."""
        tokens = [memory.tokens(self.sequences_per_copy) for memory in self.memories]
        known = [count for count in tokens if count is not None]
        return min(known) * self.layout.data if len(known) == len(tokens) else None


def answer(question: Question) -> Answer:
    """Costs a prompt and a decoding step; raises InputError for what cannot be."""
    _check(question)
    asked = deployment(
        question.model,
        question.hardware,
        tp=question.tp,
        pp=question.pp,
        ep=question.ep,
        dp=question.dp,
        weights=question.weights,
        kv=question.kv,
        activations=question.activations,
        engine=question.engine,
        skew=question.skew,
        ideal=question.ideal,
    )
    model, cluster, shape, formats, cost = (
        asked.model, asked.cluster, asked.layout, asked.precisions, asked.cost,
    )  # fmt: skip
    whole = StepCost(model, cluster, formats, layout(), IDEAL, "none", question.skew)
    graph, kv_bytes = build(model), formats.kv.bits / 8
    part = cluster.accelerator
    prompt = question.context if question.prompt is None else question.prompt
    per_copy = -(-question.batch // shape.data)
    notes = formats.notes(part)
    if question.kv is None and formats.weights is not None and formats.weights.kv is not None:
        notes.append(f"the checkpoint is prepared for a KV cache in {formats.weights.kv}: --kv")
    if cluster.count is not None and shape.ranks < cluster.count:
        notes.append(f"{shape.ranks} of {cluster.count} accelerators are used")
    matrices = formats.weights.main if formats.weights else formats.weight_format("output", (1, 1))
    return Answer(
        question=question,
        cluster=cluster,
        layout=shape,
        precisions=formats,
        parameters=graph.parameters(),
        active_parameters=graph.active_parameters(),
        weight_bytes=rank_memories(whole)[0].weight_bytes,
        kv_bytes_per_token=graph.kv_bytes_per_token(kv_bytes),
        growing_bytes_per_token=graph.growing_bytes_per_token(kv_bytes),
        bounded_bytes_per_sequence=graph.bounded_bytes_per_sequence(kv_bytes),
        ridge=part.ridge(formats.rate(matrices, part)),
        memories=rank_memories(cost, question.memory_fraction),
        prefill=_phase(whole, cost, [(prompt, 0)], [(prompt, 0)]),
        decode=_phase(
            whole, cost, [(1, question.context - 1)] * question.batch, [(1, question.context - 1)] * per_copy
        ),
        notes=notes,
    )


def _phase(whole: StepCost, cost: StepCost, all_chunks: Chunks, chunks_of_a_copy: Chunks) -> Phase:
    return Phase(whole.estimate(all_chunks), cost.estimate(chunks_of_a_copy))


def _check(question: Question) -> None:
    for option, value in (
        ("batch", question.batch),
        ("context", question.context),
        ("prompt", question.context if question.prompt is None else question.prompt),
    ):
        if value < 1:
            raise InputError(f"--{option} must be at least 1, it is {value}")
    if not 0 < question.memory_fraction <= 1:
        raise InputError(f"--memory-fraction must be above 0 and at most 1, it is {question.memory_fraction}")


def roofline_command(question: Question, *, png: Path | None, html: Path | None, json: bool) -> None:
    names = question.hardware.split(",")
    if len(names) > 1:
        _compare([answer(replace(question, hardware=name.strip())) for name in names], json=json)
        return
    found = answer(question)
    if png is not None or html is not None:
        from membound.reports.roofline import write_html, write_png

        drawn = picture(found)
        if png is not None:
            write_png(drawn, png)
        if html is not None:
            write_html(drawn, html)
    if json:
        print_json(as_json(found))
    else:
        _print(found)


def _compare(answers: Sequence[Answer], *, json: bool) -> None:
    """The same model and load on several machines, side by side."""
    if json:
        print_json({"compared": [as_json(found) for found in answers]})
        return
    question = answers[0].question
    print_table(
        ("hardware", "fits", "prefill", "decode", "tokens/s", "decode bound"),
        [
            (
                found.cluster.name,
                {True: "yes", False: "no", None: "unknown"}[found.fits],
                f"{found.prefill.rank.seconds * 1e3:.2f} ms",
                f"{found.decode.rank.seconds * 1e3:.2f} ms",
                f"{question.batch / found.decode.rank.seconds:,.0f}",
                found.decode.rank.bound,
            )
            for found in answers
        ],
        title=f"{question.model}, batch {question.batch} at a context of {question.context}",
    )


def picture(found: Answer) -> Picture:
    """The part's roofs, and both steps' operations below them, of one rank."""
    from membound.reports.roofline import Picture, Point

    part = found.cluster.accelerator
    points = []
    for phase, step in (("prefill", found.prefill.rank), ("decode", found.decode.rank)):
        worth = [op for op in step.operations if op.flops and op.bytes]
        points += [Point(f"{phase} {op.name}", phase, op.flops, op.bytes, op.seconds) for op in worth]
    used = {found.precisions.rate(found.precisions.weight_format("output", (1, 1)), part)}
    if found.precisions.weights is not None:
        used.add(found.precisions.rate(found.precisions.weights.main, part))
    return Picture(
        title=f"{found.question.model} on {part.name}, a rank of {found.layout.ranks}",
        bandwidth_bytes_per_s=part.bandwidth_bytes_per_s,
        peak_flops_per_s={rate: part.peak(rate) for rate in sorted(used)},
        points=points,
    )


def as_json(found: Answer) -> dict[str, Any]:
    """Top-level figures are of the whole model, `per_rank` and operators of one rank."""
    question, fullest = found.question, max(found.memories, key=lambda m: m.weight_bytes)
    return {
        "model": question.model,
        "hardware": found.cluster.name,
        "engine": "ideal" if question.ideal else question.engine,
        "parallel": {
            "tp": found.layout.tensor,
            "pp": found.layout.pipeline,
            "ep": found.layout.experts,
            "dp": found.layout.data,
        },
        "parameters": found.parameters,
        "active_parameters": round(found.active_parameters),
        "weight_bytes": round(found.weight_bytes),
        "kv_bytes_per_token": _whole(found.kv_bytes_per_token),
        "growing_bytes_per_token": _whole(found.growing_bytes_per_token),
        "bounded_bytes_per_sequence": _whole(found.bounded_bytes_per_sequence),
        "ridge_flops_per_byte": found.ridge,
        "prefill": _phase_json(found.prefill),
        "decode": _phase_json(found.decode),
        "fits": found.fits,
        "max_kv_tokens": found.max_kv_tokens,
        "operators": [_operation_json(op, found.decode.rank) for op in found.decode.rank.operations],
        "prefill_operators": [
            _operation_json(op, found.prefill.rank) for op in found.prefill.rank.operations
        ],
        "per_rank": {
            "weight_bytes": round(fullest.weight_bytes),
            "growing_bytes_per_token": _whole(fullest.growing_bytes_per_token),
            "bounded_bytes_per_sequence": _whole(fullest.bounded_bytes_per_sequence),
            "capacity_bytes": fullest.capacity_bytes,
        },
        "notes": found.notes,
    }


def _whole(value: float) -> float:
    """A whole number without its .0: only entries shared by several tokens have a fraction."""
    return int(value) if value == int(value) else value


def _phase_json(phase: Phase) -> dict[str, Any]:
    return {
        "flops": phase.work.flops,
        "bytes": phase.work.bytes,
        "intensity": phase.intensity,
        "seconds": phase.rank.seconds,
        "limit_seconds": phase.rank.limit_seconds,
        "bound": phase.rank.bound,
    }


def _operation_json(op: Operation, step: Estimate) -> dict[str, Any]:
    return {
        "name": op.name,
        "flops": op.flops,
        "bytes": op.bytes,
        "seconds": op.seconds,
        "limit_seconds": op.limit_seconds,
        "bound": op.bound,
        "share_of_time": op.seconds / step.seconds,
        "share_of_roof": op.limit_seconds / op.seconds if op.seconds else 0.0,
        "source": op.source,
    }


def _print(found: Answer) -> None:
    question, part = found.question, found.cluster.accelerator
    shape = found.layout
    print(
        f"{question.model} on {found.cluster.name} ({part.name}): "
        f"tp {shape.tensor}, pp {shape.pipeline}, ep {shape.experts}, dp {shape.data}; "
        + ("the datasheet's roof alone" if question.ideal else f"predicted for {question.engine}")
    )
    active = (
        ""
        if found.active_parameters == found.parameters
        else f", {found.active_parameters / 1e9:.2f} B active"
    )
    print(f"  parameters   {found.parameters / 1e9:.2f} B{active}; weights {size(found.weight_bytes)}")
    bounded = found.bounded_bytes_per_sequence
    print(
        f"  KV cache     {found.kv_bytes_per_token / 1024:.1f} KiB per token"
        + (f", of which {found.growing_bytes_per_token / 1024:.1f} KiB grow for ever" if bounded else "")
        + (f"; {size(bounded)} per sequence do not grow" if bounded else "")
    )
    print(f"  memory       {_memory_line(found)}")
    print(f"  ridge        {found.ridge:.1f} FLOP/byte at {rate(part.bandwidth_bytes_per_s)}")
    rows = []
    prompt = question.context if question.prompt is None else question.prompt
    for name, phase in (
        (f"prefill, {prompt} tokens", found.prefill),
        (f"decode, {question.batch} x {question.context}", found.decode),
    ):
        rows.append(
            (
                name,
                f"{phase.work.flops / 1e12:.3g} T",
                f"{phase.work.bytes / 1e9:.1f} GB",
                f"{phase.intensity:.1f}",
                f"{phase.rank.seconds * 1e3:.2f} ms",
                f"{phase.rank.limit_seconds * 1e3:.2f} ms",
                phase.rank.bound,
            )
        )
    print_table(("step", "FLOPs", "bytes", "FLOP/byte", "seconds", "limit", "bound"), rows)
    decode = found.decode.rank
    print(f"  {question.batch / decode.seconds:,.0f} tokens/s in all, {1 / decode.seconds:.1f} per sequence")
    for title, step in (("prefill", found.prefill.rank), ("decode", decode)):
        print_table(
            (f"{title}, one rank", "time", "share", "of the roof", "bound", "source"),
            [
                (
                    op.name,
                    f"{op.seconds * 1e3:.3f} ms",
                    f"{op.seconds / step.seconds:.0%}",
                    f"{op.limit_seconds / op.seconds:.0%}" if op.seconds else "",
                    op.bound,
                    op.source,
                )
                for op in step.operations
            ],
        )
    from membound.reports.terminal import roofline

    print(roofline(picture(found)))
    for note in found.notes:
        print(f"note: {note}")


def _memory_line(found: Answer) -> str:
    fullest = max(found.memories, key=lambda m: m.weight_bytes)
    if found.fits is None:
        return f"{size(fullest.weight_bytes)} of weights per rank; the part's memory_bytes is not published"
    capacity = fullest.weight_capacity_bytes or fullest.capacity_bytes or 0.0
    held = f"{size(fullest.weight_bytes)} of weights per rank in {size(capacity)}"
    if not found.fits:
        return f"{held}: does not fit"
    return f"{held}: fits, with room for {found.max_kv_tokens:,} tokens of KV cache"
