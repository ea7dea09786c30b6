"""The native executor under the scheduler: any schedule gives the tokens of one request at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.executors.native import NativeExecutor
from membound.executors.reference import ReferenceExecutor, ReferenceModel
from membound.executors.sampling import sample
from membound.models.weights import Weights, open_weights
from membound.serving.clock import Wall
from membound.serving.engine import Engine
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from tests.real_models import real_model
from tests.small_models import small_architecture, write_gguf

BLOCKS = 24


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("native") / "m.gguf"
    return open_weights(write_gguf(path, small_architecture("gemma3", window=24, layers=3), Type.Q8_0))


@pytest.fixture(scope="module")
def executors(weights: Weights) -> list[NativeExecutor]:
    """One per number of threads."""
    return [NativeExecutor(weights, blocks=BLOCKS, threads=threads) for threads in (1, 2, 3)]


SAMPLINGS = (
    Sampling(max_tokens=20),
    Sampling(max_tokens=33, temperature=1.0, seed=7),
    Sampling(max_tokens=9, temperature=0.8, top_k=40, top_p=0.9, seed=3, logprobs=2),
    Sampling(max_tokens=24, repetition_penalty=1.3, frequency_penalty=0.2),
)


def prompt(length: int, seed: int) -> list[int]:
    """Those of one seed share their beginning."""
    return list(map(int, np.random.default_rng(seed).integers(0, 300, length)))


@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 100), st.integers(0, 3), st.sampled_from(SAMPLINGS)), min_size=1, max_size=8
    ),
    step_tokens=st.sampled_from([1, 7, 64, 512]),
    running=st.sampled_from([1, 3, 32]),
    blocks=st.integers(9, BLOCKS),
    reuse=st.booleans(),
    threads=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_the_same_tokens(
    executors: list[NativeExecutor],
    jobs: list[tuple[int, int, Sampling]],
    step_tokens: int,
    running: int,
    blocks: int,
    reuse: bool,
    threads: int,
) -> None:
    expected = []
    for length, seed, sampling in jobs:
        alone = Engine(Scheduler(BLOCKS, prefix_reuse=False), executors[0], Wall())
        (completion,) = alone.generate([prompt(length, seed)], sampling)
        expected.append((completion.token_ids, completion.logprobs))

    scheduler = Scheduler(
        blocks,
        max_step_tokens=max(step_tokens, running),
        max_running=running,
        windows=[24],
        prefix_reuse=reuse,
    )
    engine = Engine(scheduler, executors[threads], Wall())
    requests = [engine.add(prompt(length, seed), sampling) for length, seed, sampling in jobs]
    tokens: dict[object, list[int]] = {request: [] for request in requests}
    logprobs: dict[object, list[object]] = {request: [] for request in requests}
    while engine.busy:
        for event in engine.step():
            assert event.error is None
            tokens[event.request] += event.token_ids
            logprobs[event.request] += event.logprobs or ()
    for request, (ids, reports) in zip(requests, expected, strict=True):
        assert tokens[request] == ids
        assert logprobs[request] == (reports or [])


def test_thirty_two_at_once_are_as_each_alone(weights: Weights) -> None:
    executor = NativeExecutor(weights, blocks=128, threads=2)
    prompts = [prompt(1 + 3 * index % 40, index) for index in range(32)]
    sampling = Sampling(max_tokens=16, temperature=0.9, seed=5)
    together = Engine(Scheduler(128, max_running=32), executor, Wall()).generate(prompts, sampling)
    for ids, completion in zip(prompts, together, strict=True):
        (alone,) = Engine(Scheduler(128), executor, Wall()).generate([ids], sampling)
        assert completion.token_ids == alone.token_ids


def test_greedy_requests_may_come_and_go(tmp_path: Path) -> None:
    """What decodes again as it did in the step before is not looked at anew; what changes has to be."""
    weights = open_weights(write_gguf(tmp_path / "m.gguf", small_architecture("qwen3")))
    executor = NativeExecutor(weights, blocks=9, threads=2)  # some must give way
    engine = Engine(Scheduler(9, max_step_tokens=48, max_running=4, prefix_reuse=False), executor, Wall())
    arrivals = {0: (5, 60), 2: (40, 30), 19: (17, 45), 20: (1, 50), 41: (33, 20)}
    requests = []
    step = 0
    while engine.busy or step == 0:
        if step in arrivals:
            length, most = arrivals[step]
            requests.append(engine.add(prompt(length, step), Sampling(max_tokens=most)))
        if step == 30:
            engine.abort(requests[2])
        engine.step()
        step += 1
    assert len(requests) == len(arrivals)
    assert engine.scheduler.preemptions
    alone = NativeExecutor(weights, blocks=12, threads=1)
    for request in requests:
        known = request.tokens
        logits = alone.logits(known[:-1])[request.prompt_length - 1 :]
        assert [int(np.argmax(row)) for row in logits] == known[request.prompt_length :]


def test_memory_of_the_cache_is_readied_ahead(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = NativeExecutor(weights, blocks=1000, threads=1)
    block_bytes = executor.core.kv_bytes // executor.core.blocks
    monkeypatch.setattr("membound.executors.native.READY_BYTES", 300 * block_bytes)

    def turns() -> int:
        return sum(1 for _ in iter(executor.ready_ahead, False))

    assert turns() == 3 * executor.core.layers  # 128 blocks at a time
    assert turns() == 0
    engine = Engine(Scheduler(1000), executor, Wall())
    (completion,) = engine.generate([prompt(2000, 1)], Sampling(max_tokens=3))
    assert turns() == executor.core.layers  # 126 blocks of it were used
    (alone,) = Engine(Scheduler(200), NativeExecutor(weights, blocks=200, threads=1), Wall()).generate(
        [prompt(2000, 1)], Sampling(max_tokens=3)
    )
    assert completion.token_ids == alone.token_ids
    for layer, first, count in (
        (-1, 0, 1),
        (executor.core.layers, 0, 1),
        (0, -1, 1),
        (0, 999, 2),
        (0, 0, -1),
    ):
        with pytest.raises(ValueError, match=r"there (is|are) no such"):
            executor.core.ready_blocks(layer, first, count)


def test_two_engines_on_one_cache_take_turns(weights: Weights) -> None:
    """Each with blocks of its own, step by step; and logits are the same on both."""
    sampling = Sampling(max_tokens=20, temperature=0.9, seed=5)
    alone = NativeExecutor(weights, blocks=BLOCKS, threads=2)
    expected = [
        Engine(Scheduler(BLOCKS), alone, Wall()).generate([prompt(30, seed)], sampling)[0].token_ids
        for seed in range(4)
    ]
    whole = NativeExecutor(weights, blocks=2 * BLOCKS, threads=2)
    executors = whole, whole.on_blocks(BLOCKS, BLOCKS)
    engines = [Engine(Scheduler(BLOCKS), executor, Wall()) for executor in executors]
    requests = [engines[seed % 2].add(prompt(30, seed), sampling) for seed in range(4)]
    tokens: dict[object, list[int]] = {request: [] for request in requests}
    while any(engine.busy for engine in engines):
        for event in (event for engine in engines if engine.busy for event in engine.step()):
            tokens[event.request] += event.token_ids
    assert [tokens[request] for request in requests] == expected
    one, other = (executor.logits(prompt(30, 0)) for executor in executors)
    assert np.array_equal(one, other)


def test_packing_reports_within_large_tensors() -> None:
    """Of SmolLM2's head, 30 MB, too: so that a bar moves, and the file's pages can be given back."""
    weights = open_weights(real_model("smollm2"))
    done = [0]
    NativeExecutor(weights, blocks=1, progress=done.append)
    gaps = np.diff(done)
    assert done[-1] == sum(part.stored.nbytes for part in weights.tensors.values() if part.stored.ndim > 1)
    assert gaps.min() > 0
    assert gaps.max() <= 8 << 20


def test_greedy_tokens_are_the_reference_s(tmp_path: Path) -> None:
    """Where the reference's two best logits differ by more than float32's noise, so throughout a sequence."""
    weights = open_weights(write_gguf(tmp_path / "m.gguf", small_architecture("qwen3")))
    model = ReferenceModel(weights)
    reference = ReferenceExecutor(
        model, 40, lambda logits, r: sample(logits, r.sampling, r.tokens, r.prompt_length)
    )
    prompts = [prompt(length, length) for length in (1, 5, 16, 40)]
    native = NativeExecutor(weights, blocks=40)
    one, other = (
        Engine(Scheduler(40), executor, Wall()).generate(prompts, Sampling(max_tokens=30))
        for executor in (native, reference)
    )
    assert [c.token_ids for c in one] == [c.token_ids for c in other]


def test_requests_that_ended_are_let_go(executors: list[NativeExecutor]) -> None:
    engine = Engine(Scheduler(BLOCKS), executors[1], Wall())
    for seed in range(50):
        engine.generate([prompt(5, seed)], Sampling(max_tokens=1))
    assert len(executors[1]._slots) <= 2 * 1 + 16 + 1  # what is swept at the latest, and the one that ran
