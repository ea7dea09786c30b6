"""Serve a workload in virtual time: `simulate` puts scheduler, predicted seconds and traffic together."""

from __future__ import annotations

import time

from membound.costs.deployment import Deployment
from membound.costs.folded import FoldedCost
from membound.costs.memory import RankMemory
from membound.errors import InputError
from membound.executors.predicted import PredictedExecutor
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.scheduler import Scheduler
from membound.simulation.cluster import Cluster
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.replica import Replica
from membound.simulation.result import Log, SimulationResult, Slo
from membound.simulation.routing import router
from membound.workloads.arrivals import Arrival, Workload

LEAST_CONTEXT = 256  # tokens of cache that a running request is thought to need when sequences are counted


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
) -> SimulationResult:
    """The workload as the deployment would serve it.

    `settings` default to the engine's own on that part; `kv_tokens` is the cache of a replica, else what
    fits; blocks are of 16 tokens, or of as many as a prefix key of the workload stands for. DoesNotFitError
    where nothing does.
    """
    began = time.perf_counter()
    part = deployment.cluster.accelerator
    settings = settings or engine_settings(deployment.engine, part)
    block = block_tokens or max(BLOCK_TOKENS, workload.key_tokens)
    if workload.key_tokens != block:
        raise InputError(
            f"the workload names its prefixes by {workload.key_tokens} tokens: blocks cannot be of {block}"
        )
    if replicas < 1:
        raise InputError(f"--replicas must be at least 1, it is {replicas}")
    copies = replicas * deployment.layout.data
    engines = [build_replica(deployment, settings, kv_tokens, block) for _ in range(copies)]
    run = Run(engines, block)
    cluster = Cluster(engines, router(routing))
    cluster.run(workload.begin(), run.admit, run.log.add, settings.server_s)
    return SimulationResult(
        requests=run.sent,
        rejected=run.rejected,
        log=run.log,
        watches=[engine.watch for engine in engines],
        slo=slo or Slo(),
        accelerators=replicas * deployment.layout.ranks,
        preemptions=sum(engine.scheduler.preemptions for engine in engines),
        prompt_tokens=sum(engine.scheduler.prompt_tokens for engine in engines),
        hit_tokens=sum(engine.scheduler.hit_tokens for engine in engines),
        began_s=run.first,
        simulated_s=cluster.now - run.first,
        wall_s=time.perf_counter() - began,
        max_running=engines[0].scheduler.max_running,
        kv_tokens=engines[0].scheduler.pool.blocks * block,
    )


class Run:
    """Makes requests of arrivals, refuses those that never fit, and keeps the books."""

    def __init__(self, engines: list[Replica], block_tokens: int) -> None:
        self.room = min(engine.scheduler.pool.blocks for engine in engines) * block_tokens
        self.log = Log()
        self.sent = 0
        self.rejected = 0
        self.first = 0.0

    def admit(self, arrival: Arrival, now: float) -> Request | None:
        """Its request; None where prompt and output exceed the cache. The scheduler learns no length."""
        if not self.sent:
            self.first = arrival.time_s
        self.sent += 1
        prompt = arrival.prompt_tokens
        if prompt + arrival.output_tokens - 1 > self.room:
            self.rejected += 1
            return None
        return Request(
            self.sent - 1,
            max_tokens=self.room - prompt + 1,
            arrival=arrival.time_s,
            prompt_length=prompt,
            keys=arrival.keys,
        )


def build_replica(
    deployment: Deployment, settings: EngineSettings, kv_tokens: int | None, block_tokens: int
) -> Replica:
    """An engine of its own: a scheduler with the cache that fits, and seconds from the deployment's cost."""
    blocks, running = cache_size(deployment, settings, kv_tokens, block_tokens)
    cost = FoldedCost(deployment.cost)
    scheduler = Scheduler(
        blocks,
        max_step_tokens=settings.max_step_tokens,
        max_running=running,
        windows=[window for window in cost.windows if window is not None],
        prefix_reuse=settings.prefix_reuse,
        block_tokens=block_tokens,
        prompts_first=not settings.mixed,
    )
    return Replica(scheduler, PredictedExecutor(cost))


def cache_size(
    deployment: Deployment, settings: EngineSettings, kv_tokens: int | None, block_tokens: int
) -> tuple[int, int]:
    """Blocks of cache that fit on the fullest rank, and how many requests may run beside each other."""
    if kv_tokens is not None:
        return max(1, kv_tokens // block_tokens), settings.max_running
    part = deployment.cluster.accelerator
    blocks, running = 1 << 40, settings.max_running
    for memory in deployment.memories(settings.memory_fraction):
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
