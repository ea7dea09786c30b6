"""Whole engine steps, timed: scheduling, kernels and sampling, with roofs probed beside them."""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from membound.costs.roof import Roof
from membound.errors import InputError
from membound.executors.native import NativeExecutor, default_isa
from membound.measuring.ruler import Placed, Ruler
from membound.models.weights import open_weights
from membound.serving.clock import Wall
from membound.serving.engine import Engine, StepRecord
from membound.serving.request import BLOCK_TOKENS, GREEDY
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Timing:
    """What was timed: wall seconds of each step, scheduling and sampling included, and where it stands."""

    step_seconds: list[float]
    placed: Placed
    roof: Roof  # probed right after

    @property
    def seconds(self) -> float:
        """Median step times the number of steps: a stolen core does not count."""
        return statistics.median(self.step_seconds) * len(self.step_seconds)

    @property
    def limit_s(self) -> float:
        return self.placed.limit_s

    @property
    def share_of_limit(self) -> float:
        return self.limit_s / self.seconds


class SpeedTest:
    """One loaded model, and an engine without a tokenizer: requests are token ids."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        rows: int = 32,
        row_tokens: int = 128,
        tokens: int = 2048,
        kv_memory: int | None = None,
        engines: int = 1,
    ) -> None:
        """`rows` decode together at most, up to `row_tokens` each; one prompt alone may have `tokens`.
        `engines` take turns, each with that much of the cache; what is timed here uses the first.

        InputError if the KV cache for that takes more than `kv_memory` bytes.
        """
        began = time.perf_counter()
        weights = open_weights(path)
        blocks = max(-(-tokens // BLOCK_TOKENS), rows * -(-row_tokens // BLOCK_TOKENS))
        self.isa = default_isa(weights, rows)
        self.executor = NativeExecutor(weights, blocks=engines * blocks, threads=threads, isa=self.isa)
        self.load_s = time.perf_counter() - began
        self.ruler = Ruler(weights, self.executor.kv_bytes, threads=threads)
        cache = engines * blocks * BLOCK_TOKENS * self.ruler.kv_bytes_per_token
        if kv_memory is not None and cache > kv_memory:
            raise InputError(
                f"timing {rows} rows and prompts of {tokens} tokens needs {cache / 1e6:.0f} MB of KV cache:"
                " raise --kv-memory, or time fewer"
            )
        self.weights = weights
        self.vocabulary = weights.architecture.vocab
        others = [self.executor.on_blocks(number * blocks, blocks) for number in range(1, engines)]
        self.executors = [self.executor, *others]  # of each engine
        self.engines = [
            Engine(
                Scheduler(blocks, max_step_tokens=max(tokens, rows), max_running=rows, prefix_reuse=False),
                executor,
                Wall(),
                context=min(max(tokens, row_tokens), weights.architecture.context_length),
                vocabulary=self.vocabulary,
            )
            for executor in self.executors
        ]
        self.engine = self.engines[0]

    def prefill(self, tokens: Sequence[int]) -> Timing:
        """One prompt, in one step, to its first token."""
        return self._time([tokens], 1)

    def decode(self, prompts: Sequence[Sequence[int]], steps: int, sampling: Sampling = GREEDY) -> Timing:
        """`steps` steps in which every prompt's sequence grows by a token, after all prompts are computed."""
        return self._time(prompts, steps + 1, sampling)

    def negative_log_likelihoods(self, tokens: Sequence[int]) -> list[float]:
        """In nats, of each token after the first, given those before it in one window."""
        logits = self.executor.logits(tokens)[:-1].astype(np.float64)
        top = logits.max(axis=1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return list(total - logits[np.arange(len(logits)), tokens[1:]])

    def staggered(
        self, groups: Sequence[Sequence[int]], every: int, tokens: int
    ) -> Iterator[tuple[float, StepRecord]]:
        """Prompts by their lengths: a group of them comes every so many steps, and each sequence ends with so
        many tokens. Each step as it is done, with its seconds, until the last has ended; no roof is probed.
        """
        self._ready()
        waiting = deque(groups)
        for step in count():
            if waiting and (step % every == 0 or not self.engine.busy):
                for row, length in enumerate(waiting.popleft()):
                    prompt = made_up(length, self.vocabulary, row)
                    self.engine.add(prompt, replace(GREEDY, max_tokens=tokens, ignore_eos=True))
            if not self.engine.busy:
                return
            began = time.perf_counter()
            self.engine.step()
            yield time.perf_counter() - began, self.engine.log[-1]

    def _ready(self) -> None:
        """As a server does while it is idle: no step waits for the system's memory."""
        for executor in self.executors:
            while executor.ready_ahead():
                pass

    def _time(self, prompts: Sequence[Sequence[int]], tokens: int, sampling: Sampling = GREEDY) -> Timing:
        seconds, timed = self._run(prompts, tokens, sampling)
        records = [self.engine.log[index] for index in timed]
        roof = self.ruler.roof()
        return Timing([seconds[index] for index in timed], self.ruler.place(records, roof), roof)

    def _run(
        self, prompts: Sequence[Sequence[int]], tokens: int, sampling: Sampling
    ) -> tuple[list[float], Sequence[int]]:
        """Seconds of all steps, and which of them are timed: those without prompts, if there are any."""
        self._ready()
        for prompt in prompts:
            self.engine.add(prompt, replace(sampling, max_tokens=tokens, ignore_eos=True))
        self.engine.log.clear()
        seconds = []
        while self.engine.busy:
            began = time.perf_counter()
            self.engine.step()
            seconds.append(time.perf_counter() - began)
        decoding = [index for index, record in enumerate(self.engine.log) if not record.chunks]
        return seconds, decoding or range(len(seconds))


def made_up(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    """Token ids without meaning, the same each time."""
    if vocabulary < 3:
        raise InputError(f"a vocabulary of {vocabulary} tokens is too small to time")
    return [2 + (index * 7919 + seed * 104_729) % (vocabulary - 2) for index in range(count)]
