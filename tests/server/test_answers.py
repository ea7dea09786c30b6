"""Events and histograms that are made the quick way equal those made the plain one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.registry import Collector

from membound.server.metrics import FAST, LABELS, Gaps
from membound.server.streams import TextEvent, sse


@given(st.text())
def test_an_event_around_a_text(text: str) -> None:
    def event(shown: str) -> dict[str, Any]:
        return {"id": 'a"\\n', "choices": [{"index": 0, "text": shown, "logprobs": None}], "model": "mödel"}

    if text.isprintable():  # no lone surrogates, which no detokenizer makes
        assert TextEvent(event).of(text) == sse(event(text))


def test_an_event_escapes_what_json_must() -> None:
    assert TextEvent(lambda text: [text]).of('"\n\0é') == 'data: ["\\"\\n\\u0000é"]\n\n'.encode()


@pytest.mark.parametrize("seconds", [[], [0.0005, 0.0006, 0.0099999, 0.01, 5.0, 5.1]])
def test_gaps_count_as_a_histogram_does(seconds: list[float]) -> None:
    plain, quick = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("x:gap", "Between tokens of a request.", LABELS, buckets=FAST, registry=plain)
    gaps = Gaps(FAST)

    class Quick(Collector):
        def collect(self) -> Any:
            yield gaps.family("x:gap", ("m", "0"))

    quick.register(Quick())
    child = histogram.labels("m", "0")
    for value in seconds:
        child.observe(value)
        gaps.add(2, value)
    told = [line for line in generate_latest(plain).decode().splitlines() if "_created" not in line]
    assert generate_latest(quick).decode().splitlines() == told
    assert gaps.tokens == 2 * len(seconds)
