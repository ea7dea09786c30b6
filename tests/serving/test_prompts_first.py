"""With prompts first, a step computes chunks or decodes, and every request still gets all its tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st

from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome

Lengths = list[tuple[int, int]]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12),
    gap=st.integers(0, 9),
    blocks=st.integers(18, 60),
    budget=st.integers(6, 50),
    window=st.sampled_from([3, 20]),
)
def test_steps_hold_chunks_or_decodes(
    lengths: Lengths, gap: int, blocks: int, budget: int, window: int
) -> None:
    scheduler = Scheduler(
        blocks, max_step_tokens=budget, max_running=6, windows=[window], block_tokens=4, prompts_first=True
    )
    requests = [Request(i, prompt_length=p, max_tokens=o) for i, (p, o) in enumerate(lengths)]
    waiting, ended, steps = list(enumerate(requests)), 0, 0
    while waiting or scheduler.busy:
        while waiting and (not scheduler.busy or steps >= gap * waiting[0][0]):
            scheduler.add(waiting.pop(0)[1])
        step = scheduler.schedule()
        assert step is not None
        scheduler.check()
        assert bool(step.chunks) != bool(step.decodes)
        assert step.tokens <= budget
        cached = [request.computed for request in step.decoding()]
        assert step.context == {None: sum(cached), window: sum(min(c, window) for c in cached)}
        samples = [*step.decoding(), *(r for r, count in step.chunks if r.computed + count == r.length)]
        gone = [r for r in samples if r.output_length + 1 == r.max_tokens]
        ended += len(scheduler.commit(Outcome(float(steps), ended=gone)))
        scheduler.check()
        steps += 1
    assert ended == len(requests)
    assert all(request.output_length == request.max_tokens for request in requests)
    assert scheduler.pool.free == blocks


def test_the_caught_up_stand_still_while_a_prompt_is_computed() -> None:
    scheduler = Scheduler(100, max_step_tokens=8, max_running=4, prompts_first=True)
    first, second = (Request(i, prompt_length=8 + 8 * i, max_tokens=9) for i in range(2))
    scheduler.add(first)
    scheduler.schedule()
    scheduler.commit(Outcome(1.0))
    scheduler.add(second)
    for _ in range(2):
        step = scheduler.schedule()
        assert step is not None
        assert [count for _, count in step.chunks] == [8]
        assert first.output_length == 1
        scheduler.commit(Outcome(2.0))
    step = scheduler.schedule()
    assert step is not None
    assert step.decodes == 2
