"""Serve a workload in virtual time: `simulate` puts scheduler, predicted seconds and traffic together."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from membound.costs.deployment import Deployment
from membound.costs.folded_plain import fold
from membound.costs.memory import RankMemory
from membound.costs.shared_experts import shared_experts
from membound.errors import InputError
from membound.executors.predicted import PredictedExecutor, StepSeconds
from membound.serving.request import BLOCK_TOKENS
from membound.serving.scheduler import Scheduler
from membound.simulation.admission import Run
from membound.simulation.cluster import Cluster
from membound.simulation.disaggregation import Handover, sent_bytes_per_token, transfer_link
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.replica import Engine, Lockstep, Replica
from membound.simulation.result import SimulationResult, Slo
from membound.simulation.routing import router
from membound.simulation.slowed import Slowed
from membound.simulation.speculation import DraftedCost, Speculation, windows_of
from membound.simulation.speculation import beside as with_drafter
from membound.workloads.arrivals import Workload

SPEED_BATCH, SPEED_CONTEXT = 32, 1024  # the step by which engines are told apart for routing
LEAST_CONTEXT = 256  # tokens of cache that a running request is thought to need when sequences are counted


@dataclass(frozen=True)
class Group:
    """Equal replicas of a deployment, each an engine with these settings."""

    deployment: Deployment
    settings: EngineSettings
    replicas: int = 1
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"there must be at least 1 replica, not {self.replicas}")

    @property
    def accelerators(self) -> int:
        return self.replicas * self.deployment.layout.ranks


def simulate(
    deployment: Deployment,
    workload: Workload,
    *,
    settings: EngineSettings | None = None,
    slo: Slo | None = None,
    replicas: int = 1,
    routing: str = "round-robin",
    kv_tokens: int | None = None,
    block_tokens: int | None = None,
    beside: Sequence[Group] = (),
    prefill: Group | None = None,
    transfer_bytes_per_s: float | None = None,
    speculation: Speculation | None = None,
    pace: float = 1.0,
) -> SimulationResult:
    """The workload as the deployment would serve it.

    `settings` default to the engine's own on that part; `kv_tokens` is the cache of a replica, else what
    fits; blocks are of 16 tokens, or of as many as a prefix key of the workload stands for. `beside` are
    further replicas that requests are routed to. With `prefill` prompts are computed there, and sent on over
    a link of `transfer_bytes_per_s` for each rank (default: the parts' network). Every step takes `pace`
    times what is predicted. DoesNotFitError where a model does not fit.
    """
    began = time.perf_counter()
    settings = settings or engine_settings(deployment.engine, deployment.cluster.accelerator)
    block = block_tokens or max(BLOCK_TOKENS, workload.key_tokens)
    if workload.key_tokens != block:
        raise InputError(
            f"the workload names its prefixes by {workload.key_tokens} tokens: blocks cannot be of {block}"
        )
    groups = [Group(deployment, settings, replicas, speculation), *beside]
    if prefill is not None:
        groups.insert(0, prefill)
    pools = [build_engines(group, kv_tokens, block, pace) for group in groups]
    engines = [engine for pool in pools for engine in pool]
    handover = None
    if prefill is not None:
        handover = Handover(
            len(pools[0]),
            transfer_link(prefill.deployment, deployment, transfer_bytes_per_s),
            sent_bytes_per_token(prefill.deployment, deployment),
            router(routing),
        )
    each = [replica for engine in engines for replica in engine.replicas]
    run = Run(min(replica.scheduler.pool.blocks * block - replica.scheduler.drafts for replica in each))
    cluster = Cluster(engines, router(routing), handover)
    with _uncollected():
        cluster.run(workload.begin(), run.admit, run.log.add, settings.server_s)
    return SimulationResult(
        requests=run.sent,
        rejected=run.rejected,
        log=run.log,
        watched=[
            (group.deployment.cost, replica.watch)
            for group, pool in zip(groups, pools, strict=True)
            for engine in pool
            for replica in engine.replicas
        ],
        slo=slo or Slo(),
        accelerators=sum(group.accelerators for group in groups),
        preemptions=sum(replica.scheduler.preemptions for replica in each),
        prompt_tokens=sum(replica.scheduler.prompt_tokens for replica in each),
        hit_tokens=sum(replica.scheduler.hit_tokens for replica in each),
        began_s=run.first,
        simulated_s=cluster.now - run.first,
        wall_s=time.perf_counter() - began,
        max_running=each[-1].scheduler.max_running,
        kv_tokens=each[-1].scheduler.pool.blocks * block,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for rings of objects: a run makes none, and would be searched again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def build_engines(group: Group, kv_tokens: int | None, block_tokens: int, pace: float = 1.0) -> list[Engine]:
    """Engines with the cache that fits, and seconds from the deployment's cost, times `pace`.

    Data-parallel copies are engines of their own, but where they share experts: then they are ranks in
    lockstep.
    """
    deployment, settings, speculation = group.deployment, group.settings, group.speculation
    drafter = speculation.drafter if speculation else None
    blocks, running = cache_size(deployment, settings, kv_tokens, block_tokens, drafter)
    drafts = 0
    if speculation is not None:
        drafts = speculation.drafts
        running = max(1, min(running, settings.max_step_tokens // (1 + drafts)))
    folded = fold(deployment.cost)
    windows = windows_of(folded)
    speed = 1 / folded.seconds(SPEED_BATCH, dict.fromkeys(windows, SPEED_BATCH * SPEED_CONTEXT))
    cost: StepSeconds = folded if drafter is None else DraftedCost(folded, fold(drafter.cost))
    if pace != 1:
        cost = Slowed(cost, pace)

    def scheduler() -> Scheduler:
        return Scheduler(
            blocks,
            max_step_tokens=settings.max_step_tokens,
            max_running=running,
            windows=[window for window in windows if window is not None],
            prefix_reuse=settings.prefix_reuse,
            block_tokens=block_tokens,
            prompts_first=not settings.mixed,
            drafts=drafts,
            tables=False,
        )

    copies = deployment.layout.data
    if deployment.layout.shares_experts:
        if speculation is not None:
            raise InputError("ranks that share experts are not simulated with --speculate: leave it out")
        experts = shared_experts(deployment.cost)
        return [
            Lockstep(
                [scheduler() for _ in range(copies)], cost, lambda rows: pace * experts(rows), speed * copies
            )
            for _ in range(group.replicas)
        ]
    return [
        Replica(
            scheduler(),
            PredictedExecutor(cost, accepted=speculation.accepted() if speculation else None),
            speed,
        )
        for _ in range(group.replicas * copies)
    ]


def cache_size(
    deployment: Deployment,
    settings: EngineSettings,
    kv_tokens: int | None,
    block_tokens: int,
    drafter: Deployment | None = None,
) -> tuple[int, int]:
    """Blocks of cache that fit on the fullest rank, and how many requests may run beside each other.

    A `drafter` takes its part of every rank.
    """
    if kv_tokens is not None:
        if kv_tokens < 1:
            raise InputError(f"--kv-tokens must be at least 1, it is {kv_tokens}")
        return max(1, kv_tokens // block_tokens), settings.max_running
    part = deployment.cluster.accelerator
    blocks, running = 1 << 40, settings.max_running
    for memory in deployment.memories(settings.memory_fraction, settings.of_rest):
        if drafter is not None:
            memory = with_drafter(memory, drafter.memories()[0])
        if memory.fits is None:
            raise InputError(
                f"{part.id}: memory_bytes is not published: give the cache with --kv-tokens, or the memory"
                f" in a hardware TOML file with base = '{part.id}'"
            )
        if not memory.fits:
            raise DoesNotFitError(
                f"{deployment.name} does not fit: a rank holds {memory.weight_bytes / 1e9:.1f} GB of weights,"
                f" and {part.id} lends {settings.memory_fraction:.0%} of its memory: use more ranks"
                " or fewer bits"
            )
        stage_blocks, stage_running = _of_a_stage(memory, settings.max_running, block_tokens)
        blocks, running = min(blocks, stage_blocks), min(running, stage_running)
    if blocks < 1:
        raise DoesNotFitError(f"{deployment.name} leaves no room for a block of KV cache on {part.id}")
    return blocks, running


class DoesNotFitError(InputError):
    """The weights and a block of cache exceed the memory."""


def _of_a_stage(memory: RankMemory, running: int, block_tokens: int) -> tuple[int, int]:
    """Blocks and running requests; what does not grow with a sequence is set aside for each that may run."""
    if not memory.growing_bytes_per_token:
        room = memory.room() or 0.0
        most = (
            int(room // memory.bounded_bytes_per_sequence) if memory.bounded_bytes_per_sequence else running
        )
        return (1 << 32) // block_tokens, max(1, min(running, most))
    while running > 1 and (memory.tokens(running) or 0) < running * LEAST_CONTEXT:
        running //= 2
    return (memory.tokens(running) or 0) // block_tokens, running
