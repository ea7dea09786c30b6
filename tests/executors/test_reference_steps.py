"""Whatever steps the scheduler makes, the tokens are those of each request computed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.executors.reference import Floats, ReferenceExecutor, ReferenceModel
from membound.models.weights import open_weights
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.sampling import TokenLogprobs
from membound.serving.scheduler import Scheduler
from tests.small_models import small_architecture, write_safetensors


def greatest(logits: Floats, request: Request) -> tuple[int, TokenLogprobs | None]:
    return int(np.argmax(logits)), None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    architecture = small_architecture("gemma3", hidden=32, heads=2, kv_heads=1, width=32, layers=6)
    return ReferenceModel(open_weights(write_safetensors(tmp_path_factory.mktemp("small"), architecture)))


def alone(model: ReferenceModel, prompt: list[int], count: int) -> list[int]:
    """The prompt at once, then token by token."""
    cache = model.cache(len(prompt) + count)
    tokens, new = list(prompt), prompt
    for _ in range(count):
        logits = model.forward(new, cache, np.arange(len(tokens)), samples=1)
        new = [int(np.argmax(logits))]
        tokens += new
    return tokens


def served(
    model: ReferenceModel, prompts: list[list[int]], count: int, blocks: int, step_tokens: int
) -> tuple[list[list[int]], Scheduler]:
    """All prompts at once; each request ends at its last token, as an engine would have it."""
    scheduler = Scheduler(blocks, max_step_tokens=step_tokens, max_running=min(step_tokens, 8))
    executor = ReferenceExecutor(model, blocks, greatest)
    requests = [Request(index, prompt, max_tokens=count) for index, prompt in enumerate(prompts)]
    for request in requests:
        scheduler.add(request)
    while (step := scheduler.schedule()) is not None:
        outcome = executor.execute(step, now=0.0, until=0.0)
        outcome.ended = [
            r for r, new in (outcome.tokens or {}).items() if r.output_length + len(new) == count
        ]
        scheduler.commit(outcome)
        scheduler.check()
    return [request.tokens for request in requests], scheduler


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 7, 64]), st.integers(5, 12))
def test_any_schedule_gives_the_tokens_of_each_alone(
    model: ReferenceModel, seed: int, step_tokens: int, blocks: int
) -> None:
    random = np.random.default_rng(seed)
    shared = random.integers(0, 300, 2 * BLOCK_TOKENS).tolist()
    prompts = [
        shared[: int(random.integers(1, 33))] + random.integers(0, 300, int(random.integers(1, 20))).tolist()
        for _ in range(4)
    ]
    tokens, _ = served(model, prompts, 12, blocks, step_tokens)
    assert tokens == [alone(model, prompt, 12) for prompt in prompts]


def test_preempted_and_sharing_requests_too(model: ReferenceModel) -> None:
    shared = list(range(40))
    prompts = [[*shared, 100 + index] for index in range(5)]
    expected = [alone(model, prompt, 20) for prompt in prompts]
    tokens, scheduler = served(model, prompts, 20, blocks=7, step_tokens=64)
    assert scheduler.preemptions > 0
    assert scheduler.hit_tokens > 0
    assert tokens == expected
