"""A row of measurements as the steps that its deployment ran."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from membound.costs.calibration import IDEAL, Calibration
from membound.costs.features import Vector
from membound.costs.memory import rank_memories
from membound.costs.precisions import precisions
from membound.costs.roofline import StepCost
from membound.errors import InputError
from membound.hardware.accelerator import Cluster
from membound.hardware.lookup import find
from membound.models.names import dimensions_of
from membound.scoreboard.closed_loop import Loop, Recording, record
from membound.scoreboard.rows import Deployment, Row
from membound.serving.request import BLOCK_TOKENS

MEMORY_FRACTION = 0.9  # of the capacity, or of what the weights leave, which the engines take unasked
OF_REST = {"trtllm"}
WAVES = 10  # requests for each of concurrency: what the load testers of these engines send by default
STEP_TOKENS = {"vllm": 8192, "sglang": 8192, "trtllm": 8192}
MAX_RUNNING = 1024
PROMPTS_FIRST = {"sglang"}
# By (prompt, output) tokens, as TensorRT-LLM's performance overview states for its runs; else OFFLINE.
OFFLINE_REQUESTS = {
    (128, 128): 30_000, (128, 2048): 3000, (500, 2000): 3000, (1000, 1000): 3000, (2048, 128): 3000,
    (20_000, 2000): 1000,
}  # fmt: skip
OFFLINE = 1500
PLENTY = 1 << 40


def cost_of(deployment: Deployment, calibration: Calibration = IDEAL) -> StepCost:
    """What its steps cost."""
    model = dimensions_of(deployment.model)
    layout = deployment.layout
    return StepCost(
        model,
        Cluster(find(deployment.part).accelerator),
        precisions(model, deployment.weights, deployment.kv),
        layout,
        calibration,
        deployment.engine if calibration is not IDEAL else "none",
    )


@cache
def ideal(deployment: Deployment) -> StepCost:
    return cost_of(deployment)


def loop_of(row: Row) -> Loop:
    """The requests that the row's load tester sent to one data-parallel rank."""
    ranks = row.deployment.layout.data
    concurrency = max(1, round(row.concurrency / ranks))
    count = concurrency * WAVES
    if row.load == "static batch":
        count = concurrency
    if row.load == "offline":
        concurrency = count = OFFLINE_REQUESTS.get((round(row.prompt), round(row.output)), OFFLINE)
    return Loop.uniform(concurrency, round(row.prompt), round(row.output), count, row.spread)


def blocks_of(cost: StepCost, loop: Loop, engine: str) -> int:
    """KV blocks that fit, as few as make no difference; InputError where a request never fits."""
    memories = rank_memories(cost, MEMORY_FRACTION, engine in OF_REST)
    held = [memory.tokens(min(loop.concurrency, MAX_RUNNING)) for memory in memories]
    tokens = min((t for t in held if t is not None), default=PLENTY)
    longest = max(prompt + output for prompt, output in loop.lengths)
    if tokens < longest:
        raise InputError(
            f"{tokens} tokens of KV cache fit, a request has {longest}: it cannot have run like this"
        )
    needed = min(loop.concurrency, MAX_RUNNING) * (-(-longest // BLOCK_TOKENS) + 1)
    return needed if tokens >= needed * BLOCK_TOKENS else tokens // BLOCK_TOKENS


@dataclass(frozen=True)
class Condensed:
    """A recording's steps gathered into a few kinds: features of a typical one, and the weights of each
    kind's seconds in the mean TTFT, in the mean TPOT and in the whole run.
    """

    features: Vector  # (kinds, features)
    ttft: Vector
    tpot: Vector
    run: Vector
    tokens: float  # output tokens of the run


class Recorder:
    """Recordings of rows; rows whose schedules are alike share one."""

    def __init__(self) -> None:
        self._known: dict[object, Recording] = {}
        self._condensed: dict[int, Condensed] = {}

    def __call__(self, row: Row) -> Recording:
        cost = ideal(row.deployment)
        loop = loop_of(row)
        blocks = blocks_of(cost, loop, row.deployment.engine)
        budget = max(STEP_TOKENS[row.deployment.engine], min(loop.concurrency, MAX_RUNNING))
        features = cost.features
        key = (
            loop.concurrency, tuple(loop.lengths), blocks, budget,
            features.windows, features.experts, features.copies, row.deployment.engine in PROMPTS_FIRST,
        )  # fmt: skip
        if key not in self._known:
            mixed = row.deployment.engine not in PROMPTS_FIRST
            self._known[key] = record(loop, features, blocks, budget, MAX_RUNNING, mixed)
        return self._known[key]

    def condensed(self, row: Row) -> Condensed:
        """The row's recording in a few kinds of steps."""
        recording, place = self(row), ideal(row.deployment).features.place
        if id(recording) not in self._condensed:
            self._condensed[id(recording)] = condensed(recording, place("rows"), place("rows_many"))
        return self._condensed[id(recording)]


def condensed(recording: Recording, features_of_rows: int, prompt_rows: int) -> Condensed:
    """Steps of like numbers of sequences and prompt tokens become one; columns given say where these are."""
    ttft, tpot = recording.weights()
    rows = recording.features[:, features_of_rows]
    prompts = recording.features[:, prompt_rows]
    kinds = np.stack([np.round(2 * np.log2(1 + rows - prompts)), np.ceil(np.log2(1 + prompts))], axis=1)
    _, place = np.unique(kinds, axis=0, return_inverse=True)
    place = place.ravel()
    count = int(place.max()) + 1

    def gathered(weight: Vector) -> Vector:
        return np.bincount(place, weight, count).astype(np.float64)

    share = (
        ttft / max(ttft.sum(), 1e-9) + tpot / max(tpot.sum(), 1e-9) + recording.times / recording.times.sum()
    )
    total = gathered(share)
    features = np.stack([gathered(share * column) / total for column in recording.features.T], axis=1)
    return Condensed(
        features,
        gathered(ttft),
        gathered(tpot),
        gathered(recording.times),
        float(recording.outputs.sum()),
    )
