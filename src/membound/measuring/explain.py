"""Where the time of an engine's step goes: kernels by operator, waiting at barriers, the Python side."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from membound import _core
from membound.costs.roof import Roof
from membound.executors.native import NativeExecutor
from membound.measuring.ruler import Ruler, chunks_of, higher
from membound.measuring.speed import SpeedTest
from membound.measuring.watch import Timed, Watch
from membound.models.operators import Work
from membound.serving.engine import StepRecord
from membound.serving.request import GREEDY
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.serving.text import Codec

Side = Literal["kernels", "waiting", "python"]

# The core's phases, and the operators of the cost model whose roof bounds each.
OPERATORS: dict[str, tuple[str, ...]] = {
    "norms": (),
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "rotation": (),
    "attention": ("attn",),
    "output": ("attn_output",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
    "head": ("output",),
    "sampling": (),
    "planning": (),
    "waiting": (),
}
PYTHON = ("scheduling", "rows", "binding", "text", "engine")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a step: seconds of wall time, and the least that the roof allows for its operators.

    A kernel's seconds are the mean over threads, so that kernels and waiting add up to the time in the core.
    """

    name: str
    side: Side
    seconds: float
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """The mean step of those that were timed; the parts add up to its seconds."""

    steps: int
    seconds: float
    parts: list[Part]

    def seconds_of(self, side: Side) -> float:
        return sum(part.seconds for part in self.parts if part.side == side)


def explain(
    test: SpeedTest, codec: Codec, prompts: Sequence[Sequence[int]], steps: int, sampling: Sampling = GREEDY
) -> Explained:
    """Serve the prompts, detokenizing too, and take the steps that decode apart; if 0, those that prefill.

    The slower half of the steps is left out: what a neighbour took from them belongs to no part.
    """
    timed: list[tuple[StepRecord, dict[str, float]]] = []
    watch, engine, core = Watch(), test.engine, test.executor.core
    roof = test.ruler.roof()
    with watched(test, codec, watch):
        for prompt in prompts:
            engine.add(prompt, replace(sampling, max_tokens=steps + 1, ignore_eos=True))
        while engine.busy:
            core.explain(True)
            watch.seconds.clear()
            watch.call("engine", engine.step)
            timed.append((engine.log[-1], parts_of(core, watch)))
    wanted = [(record, parts) for record, parts in timed if bool(record.chunks) != bool(steps)]
    wanted.sort(key=lambda one: sum(one[1].values()))
    return mean_step(test.ruler, higher(roof, test.ruler.roof()), wanted[: (len(wanted) + 1) // 2])


@contextmanager
def watched(test: SpeedTest, codec: Codec, watch: Watch) -> Iterator[None]:
    """The engine detokenizes, and its parts are timed, while the block runs."""
    engine, executor = test.engine, test.executor
    scheduler, core = engine.scheduler, executor.core
    engine.scheduler = cast(
        Scheduler, Timed(watch, scheduler, {"schedule": "scheduling", "commit": "scheduling"})
    )
    engine.executor = cast(NativeExecutor, Timed(watch, executor, {"execute": "rows"}))
    engine.codec = cast(Codec, _TimedCodec(codec, watch))
    executor.core = cast(_core.Model, Timed(watch, core, {"step": "binding", "decode": "binding"}))
    try:
        yield
    finally:
        core.explain(False)
        engine.scheduler, engine.executor, engine.codec, executor.core = scheduler, executor, None, core


class _TimedCodec:
    """A tokenizer whose detokenizers are timed."""

    def __init__(self, codec: Codec, watch: Watch) -> None:
        self._codec, self._watch = codec, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def detokenizer(self, prompt: Sequence[int]) -> Any:
        return Timed(self._watch, self._codec.detokenizer(prompt), {"push": "text", "finish": "text"})


def parts_of(core: _core.Model, watch: Watch) -> dict[str, float]:
    """Seconds of one step by part; the time outside the core is Python's."""
    phases = core.phase_seconds()
    del phases["outside"]
    within = {phase: statistics.fmean(threads) for phase, threads in phases.items()}
    binding = watch.seconds["binding"] - sum(within.values())  # the call of the core, less what passed in it
    return {**within, **watch.seconds, "binding": binding}


def mean_step(ruler: Ruler, roof: Roof, timed: Sequence[tuple[StepRecord, dict[str, float]]]) -> Explained:
    works: dict[str, Work] = {}
    for record, _ in timed:
        step = ruler.graph.works(chunks_of(record), ruler.types, ruler.kv_bytes)
        for name, work in step.items():
            works[name] = works.get(name, Work()) + work

    def mean(name: str) -> float:
        return statistics.fmean(parts.get(name, 0.0) for _, parts in timed)

    def limit(operators: Sequence[str]) -> float | None:
        work = sum((works[name] for name in operators), Work())
        return roof.limit_s(work) / len(timed) if operators else None

    parts = [
        Part(name, "waiting" if name == "waiting" else "kernels", mean(name), limit(operators))
        for name, operators in OPERATORS.items()
    ]
    parts += [Part(name, "python", mean(name)) for name in PYTHON]
    return Explained(len(timed), sum(part.seconds for part in parts), parts)
