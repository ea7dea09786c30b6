"""The engine over a fake paged cache: any schedule gives the same tokens, and every way to end works."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.errors import InputError
from membound.serving.clock import Virtual
from membound.serving.engine import Completion, Engine, Event
from membound.serving.request import Request
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from tests.serving.fakes import VOCABULARY, Letters, PagedFake, continuation

FREE = Sampling(max_tokens=8, ignore_eos=True)


def engine(
    blocks: int = 64,
    *,
    step_tokens: int = 64,
    running: int = 8,
    codec: Letters | None = None,
    reuse: bool = True,
) -> Engine:
    scheduler = Scheduler(blocks, max_step_tokens=step_tokens, max_running=running, prefix_reuse=reuse)
    return Engine(scheduler, PagedFake(), Virtual(), codec, vocabulary=VOCABULARY)


class Job:
    """One prompt of the property test: when it comes, when it is given up."""

    def __init__(self, at: int, family: int, shared: int, own: list[int], output: int, abort: int | None):
        self.at, self.output, self.abort = at, output, abort
        self.prompt = [family] * shared + own
        self.seed = family

    def __repr__(self) -> str:
        return f"Job(at={self.at}, prompt={self.prompt}, output={self.output}, abort={self.abort})"


jobs = st.builds(
    Job,
    at=st.integers(0, 40),
    family=st.integers(1, 3),
    shared=st.integers(0, 70),
    own=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    output=st.integers(1, 40),
    abort=st.none() | st.none() | st.integers(0, 50),
)


@settings(max_examples=80, deadline=None)
@given(
    work=st.lists(jobs, min_size=1, max_size=12),
    step_tokens=st.sampled_from([1, 7, 64, 512]),
    running=st.sampled_from([1, 4, 32]),
    blocks=st.integers(9, 40),
    reuse=st.booleans(),
)
def test_any_schedule_gives_the_same_tokens(
    work: list[Job], step_tokens: int, running: int, blocks: int, reuse: bool
) -> None:
    machine = engine(blocks, step_tokens=max(step_tokens, running), running=running, reuse=reuse)
    pending = sorted(work, key=lambda job: job.at)
    serving: dict[Request, Job] = {}
    outputs: dict[Request, Completion] = {}
    steps, moment = 0, 0.0
    while pending or machine.busy:
        while pending and pending[0].at <= steps:
            job = pending.pop(0)
            sampling = Sampling(max_tokens=job.output, ignore_eos=True, seed=job.seed)
            request = machine.add(job.prompt, sampling)
            serving[request] = job
            outputs[request] = Completion(len(job.prompt))
        for request, job in serving.items():
            if job.abort is not None and job.at + job.abort <= steps:
                event = machine.abort(request)
                if event is not None:
                    outputs[request].take(event)
        for event in machine.step():
            outputs[event.request].take(event)
        machine.scheduler.check()
        assert machine.clock.now() >= moment, "T1"
        moment = machine.clock.now()
        steps += 1
    for request, job in serving.items():
        completion = outputs[request]
        expected = continuation(job.prompt, job.output, job.seed)
        if completion.finish_reason == "abort":
            assert completion.token_ids == expected[: len(completion.token_ids)]
        else:
            assert completion.finish_reason == "length"
            assert completion.token_ids == expected
    assert machine.scheduler.pool.free == blocks


def test_the_property_meets_preemption_and_hits() -> None:
    """Tight enough to preempt, repeated enough to hit: so the property above speaks of both."""
    machine = engine(12, running=4)
    prompts = [[family] * 40 for family in (1, 2, 3)]
    sampling = Sampling(max_tokens=40, ignore_eos=True)
    for _ in range(2):
        for prompt, completion in zip(prompts, machine.generate(prompts, sampling), strict=True):
            assert completion.token_ids == continuation(prompt, 40)
    assert machine.scheduler.preemptions > 0
    assert machine.scheduler.hit_tokens > 0


def test_a_prompt_seen_before_is_found_but_for_its_last_token() -> None:
    machine = engine()
    first, second = (machine.generate([[5] * 64], FREE)[0] for _ in range(2))
    assert (first.hit_tokens, second.hit_tokens) == (0, 48)
    assert first.token_ids == second.token_ids


def test_a_conversation_finds_its_own_answer() -> None:
    machine = engine()
    turn = machine.generate([[5] * 20], Sampling(max_tokens=30, ignore_eos=True))[0]
    following = machine.generate([[5] * 20 + turn.token_ids + [9]], FREE)[0]
    assert following.hit_tokens == 48


def test_how_a_request_ends() -> None:
    prompt = "once upon"
    text = "".join(map(chr, continuation(Letters().encode(prompt), 8)))
    machine = engine(codec=Letters())

    def run(sampling: Sampling) -> Completion:
        return machine.generate([prompt], sampling)[0]

    assert run(FREE).finish_reason == "length"
    assert run(FREE).text == text
    by_id = run(dataclasses.replace(FREE, stop_ids=frozenset({ord(text[3])})))
    assert (by_id.finish_reason, by_id.text, len(by_id.token_ids)) == ("stop", text[:3], 4)
    by_text = run(dataclasses.replace(FREE, stop=(text[4:6],)))
    assert (by_text.finish_reason, by_text.text, len(by_text.token_ids)) == ("stop", text[:4], 6)
    by_last = run(dataclasses.replace(FREE, stop=(text[7],)))
    assert (by_last.finish_reason, by_last.text) == ("stop", text[:7])


def test_end_ids_end_unless_ignored() -> None:
    class Ends(Letters):
        end_ids = frozenset(range(VOCABULARY))

    machine = engine(codec=Ends())
    assert [len(c.token_ids) for c in machine.generate(["a"], Sampling(max_tokens=5))] == [1]
    assert [len(c.token_ids) for c in machine.generate(["a"], FREE)] == [8]


def test_without_a_limit_it_fills_the_context() -> None:
    completion = engine(2).generate([[1] * 10], Sampling(ignore_eos=True))[0]
    assert len(completion.token_ids) == 2 * 16 - 10
    assert completion.finish_reason == "length"


def test_whoever_wants_no_token_ends_before_the_next_step() -> None:
    machine = engine(codec=Letters())
    other = machine.add("other", FREE)
    none, left = (machine.add("once", Sampling(max_tokens=0)) for _ in range(2))
    assert machine.abort(left) is not None
    assert [(event.request, event.finish_reason) for event in machine.step()] == [(none, "length")]
    assert (machine.steps, machine.scheduler.pool.free) == (0, machine.scheduler.pool.blocks)
    assert [event.request for event in machine.step()] == [other]
    completion = machine.generate(["once"], Sampling(max_tokens=0))[0]
    assert (completion.finish_reason, completion.text, completion.token_ids) == ("length", "", [])


def test_times_are_those_of_the_clock() -> None:
    machine = engine(step_tokens=8)
    completion = machine.generate([[1] * 20], FREE)[0]
    assert completion.ttft_s == pytest.approx(0.03)  # three chunks of 10 ms
    assert completion.tpot_s == pytest.approx(0.01)
    assert [record.tokens for record in machine.log] == [8, 8, 4] + [1] * 7
    assert machine.log[2].chunks == ((4, 16),)
    assert [record.decodes for record in list(machine.log)[3:]] == [(20 + n,) for n in range(7)]
    assert sum(record.seconds for record in machine.log) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("prompt", "sampling", "words"),
    [
        ([], FREE, "empty"),
        ([1] * 40, FREE, "the context 32"),
        ([1] * 30, FREE, "lower max_tokens to 2"),
        ([1] * 40, Sampling(max_tokens=0), "the context 32"),
        ([VOCABULARY], FREE, "between 0 and 255"),
        ([-1], FREE, "between 0 and 255"),
        ("text", FREE, "no tokenizer"),
        ([1], Sampling(max_tokens=1, stop=("a",)), "stop_ids"),
    ],
)
def test_what_cannot_be_served_is_refused(prompt: str | list[int], sampling: Sampling, words: str) -> None:
    machine = engine(2)
    with pytest.raises(InputError, match=words):
        machine.generate([[7], prompt], sampling)
    machine.step()
    assert not machine.busy


def test_what_never_fits_in_the_cache_is_refused_by_the_scheduler() -> None:
    scheduler = Scheduler(2)
    scheduler.add(Request(0, [1] * 32, max_tokens=1))
    with pytest.raises(InputError, match="never fit"):
        scheduler.add(Request(0, [1] * 32, max_tokens=2))


def test_a_failing_step_fails_its_requests_alone() -> None:
    machine = engine(running=1, step_tokens=8)
    assert isinstance(machine.executor, PagedFake)
    machine.executor.fail_at = 2
    first, second = machine.generate([[1] * 20, [2] * 20], FREE)
    assert first.finish_reason == "error"
    assert "the kernel tripped" in str(first.error)
    assert second.token_ids == continuation([2] * 20, 8)
    assert machine.scheduler.pool.free == 64


def test_an_interrupt_leaves_the_engine_usable() -> None:
    class Interrupted(PagedFake):
        def write(self, request: Request, begin: int, end: int) -> None:
            if begin == 22:
                raise KeyboardInterrupt
            super().write(request, begin, end)

    machine = engine()
    machine.executor = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        machine.generate([[1] * 20], FREE)
    assert not machine.busy
    assert machine.generate([[1] * 10], FREE)[0].token_ids == continuation([1] * 10, 8)


def test_an_aborted_request_is_gone_within_one_step() -> None:
    machine = engine()
    request = machine.add([1] * 20, FREE)
    machine.step()
    event = machine.abort(request)
    assert isinstance(event, Event)
    assert event.finish_reason == "abort"
    assert machine.abort(request) is None
    assert machine.step() == []
    assert machine.scheduler.pool.free == 64
