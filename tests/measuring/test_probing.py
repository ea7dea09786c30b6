"""What a batch that decodes together tells about its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from membound.measuring.probing import step_of
from tests.measuring.made_runs import done, failed


def test_the_step_is_that_of_the_window_in_which_all_decode() -> None:
    """Prompts are read one after another; while others start, tokens come slowly."""
    starts = [done(n, 0.0, ttft=0.5 + 0.2 * n, gap=0.05, tokens=40) for n in range(3)]
    slow = [0.5 + 0.2 * n for n in range(3)]
    first = replace(starts[0], events_s=[*slow, *(0.95 + 0.05 * k for k in range(37))])
    step = step_of([first, *starts[1:]])
    assert step is not None
    assert step.batch == 3
    assert step.seconds == pytest.approx(0.05)
    assert 8 < step.tokens < 8 + 40


def test_several_tokens_an_event_are_several_steps() -> None:
    record = replace(done(0, 0.0, gap=0.1, tokens=20), output_tokens=40)
    step = step_of([record])
    assert step is not None
    assert step.seconds == pytest.approx(0.05)


def test_what_did_not_decode_together_tells_nothing() -> None:
    assert step_of([done(0, 0.0, tokens=20), done(1, 0.0, ttft=9.0, tokens=20)]) is None
    assert step_of([done(0, 0.0, tokens=20), failed(1, 0.0)]) is None
    assert step_of([]) is None
