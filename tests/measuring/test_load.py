"""The load tester in virtual time, against an endpoint whose times are known exactly."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from membound.measuring.clients import Job, Run, drive
from membound.measuring.http import endpoint
from membound.measuring.load import Share
from membound.measuring.prompts import Given, Vocabulary
from membound.measuring.sender import Asking
from membound.workloads.arrivals import ClosedLoop, Conversations, Workload, open_loop
from membound.workloads.lengths import Fixed
from tests.measuring.scripted_endpoint import (
    HEAD,
    LAST,
    Asked,
    Piece,
    Script,
    ScriptedEndpoint,
    answer,
    chunk,
    event,
    refusal,
    steady,
    token,
    usage,
)
from tests.measuring.virtual_loop import run_virtually

BEGIN = 0.05  # virtual seconds from driving to the run's time zero
WORDS = Vocabulary([f" w{index}" for index in range(40)], added=3)


def job(workload: Workload, **options: Any) -> Job:
    asking = {key: options.pop(key) for key in ("chat", "timeout_s", "ignore_eos", "extra") if key in options}
    options = {"prompts": WORDS, **options}
    return Job(endpoint("http://fake:1/v1"), Asking("m", **asking), lambda: workload, salt="s", **options)


def load(script: Script, workload: Workload, **options: Any) -> tuple[Run, ScriptedEndpoint]:
    fake = ScriptedEndpoint(script)
    return run_virtually(drive(job(workload, **options), connect=fake.connect)), fake


def evenly(rate: float, requests: int, prompt: int = 8, output: int = 5) -> Workload:
    return open_loop(rate, Fixed(prompt, output), requests, burstiness=math.inf)


def tokens_asked(asked: Asked) -> int:
    return int(asked.body["max_tokens"])


def test_measured_times_are_the_scripts() -> None:
    run, _ = load(lambda asked: steady(0.25, 0.03125, 5), evenly(4.0, 10))
    assert len(run.records) == 10
    for number, record in enumerate(run.records):
        assert record.intended_s == (number + 1) * 0.25
        assert record.dispatch_delay_s == pytest.approx(0, abs=1e-12)
        assert record.timing.ttft_s == pytest.approx(0.25)
        assert record.timing.tpot_s == pytest.approx(0.03125)
        assert record.timing.itl_s == pytest.approx([0.03125] * 4)
        assert record.scheduled_latency_s == pytest.approx(0.375)
        assert (record.output_tokens, record.counted_by, record.error) == (5, "usage", None)


def test_requests_are_sent_whatever_becomes_of_earlier_ones() -> None:
    run, fake = load(lambda asked: steady(10.0, 1.0, 5), evenly(2.0, 6))
    assert [asked.at - BEGIN for asked in fake.asked] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert fake.connections == 6
    assert run.wall_s == pytest.approx(3.0 + 14.0)


def test_a_slow_dispatch_shows_as_delay_and_in_scheduled_latency() -> None:
    """A connection takes a second to open: sent on time, since a user waits for it as well."""

    async def main() -> Run:
        fake = ScriptedEndpoint(lambda asked: steady(0.5, 0.25, 3))

        async def slow(*arguments: Any) -> Any:
            await asyncio.sleep(1.0)
            return await fake.connect(*arguments)

        return await drive(job(evenly(0.1, 2)), connect=slow)

    first, second = run_virtually(main()).records
    assert first.timing.ttft_s == pytest.approx(1.5)
    assert second.timing.ttft_s == pytest.approx(0.5)  # on the connection that is there


def test_a_load_that_begins_late_tells_its_delay() -> None:
    """Intended times are never moved: the run's time zero lies two seconds back."""

    async def main() -> Run:
        fake = ScriptedEndpoint(lambda asked: steady(0.5, 0.25, 3))
        return await drive(job(evenly(1.0, 4)), begin=-2.0, connect=fake.connect)

    run = run_virtually(main())
    records = sorted(run.records, key=lambda record: record.number)
    assert [record.dispatch_delay_s for record in records] == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert records[0].scheduled_latency_s == pytest.approx(2.0)


def test_a_closed_loop_sends_when_the_last_has_ended() -> None:
    run, fake = load(lambda asked: steady(0.5, 0.125, 5), ClosedLoop(2, Fixed(8, 5), 6))
    assert [asked.at - BEGIN for asked in fake.asked] == pytest.approx([0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    assert fake.connections == 2
    assert run.wall_s == pytest.approx(3.0)


def test_empty_text_and_roles_are_no_tokens() -> None:
    def script(asked: Asked) -> Iterator[Piece]:
        yield 0.1, HEAD + event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        yield 0.5, token("a", chat=True)
        yield 0.6, token("", chat=True)
        yield 0.7, token("b", chat=True)
        yield 0.8, event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        yield 0.9, usage(8, 4, cached=6) + event("[DONE]") + LAST

    run, fake = load(script, evenly(1.0, 1), chat=True)
    (record,) = run.records
    assert list(record.events_s) == pytest.approx([1.5, 1.7])
    assert record.timing.tpot_s == pytest.approx(0.2 / 3)  # the server's count, not the events
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (8, 6, 4)
    assert fake.asked[0].path == "/v1/chat/completions"
    assert fake.asked[0].body["messages"][0]["role"] == "user"


def test_reasoning_and_tool_calls_are_tokens() -> None:
    def script(asked: Asked) -> Iterator[Piece]:
        yield 0.5, HEAD + event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
        call = {"function": {"name": "f", "arguments": "{}"}}
        yield 0.6, event({"choices": [{"delta": {"tool_calls": [call]}}]})
        yield 0.7, event("[DONE]") + LAST

    run, _ = load(script, evenly(1.0, 1), chat=True)
    assert list(run.records[0].events_s) == pytest.approx([1.5, 1.6])
    assert run.records[0].counted_by == "events"  # no usage came


def test_pieces_may_break_anywhere() -> None:
    """A whole answer, one byte at a time: the same events, each at the time of its last byte."""
    whole = HEAD + token("x") + b"5\r\n: hi\n\r\n" + token("y") + usage(8, 2) + event("[DONE]") + LAST

    def script(asked: Asked) -> Iterator[Piece]:
        for index in range(len(whole)):
            yield index * 0.001, whole[index : index + 1]

    run, _ = load(script, evenly(1.0, 1))
    (record,) = run.records
    assert record.error is None
    assert record.output_tokens == 2
    ends = [(whole.index(b'"}]}\n\n', start) + 5) * 0.001 for start in (0, whole.index(b'"y"') - 20)]
    assert list(record.events_s) == pytest.approx([1 + end for end in ends])


def test_line_ends_may_be_those_of_windows() -> None:
    body = b'data: {"choices": [{"text": "a"}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    run, _ = load(lambda asked: iter([(0.5, HEAD + chunk(body) + LAST)]), evenly(1.0, 1))
    assert run.records[0].error is None
    assert list(run.records[0].events_s) == pytest.approx([1.5])


def test_a_body_without_length_ends_with_the_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    body = b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n'
    run, fake = load(lambda asked: iter([(0.5, head + body), (0.6, b"")]), evenly(1.0, 2))
    assert [record.error for record in run.records] == [None, None]
    assert fake.connections == 2


FAILURES = {
    "status 429": [(0.1, refusal(429, "too many"))],
    "status 500": [(0.1, b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops")],
    "stream": [(0.1, HEAD + token()), (0.2, event({"error": {"message": "broke"}}) + LAST)],
    "incomplete": [(0.1, HEAD + token() + LAST)],
    "no stream": [(0.1, answer({"choices": [{"text": "a"}]}))],
    "empty": [(0.1, HEAD + event("[DONE]") + LAST)],
    "disconnected": [(0.1, HEAD + token()), (0.2, b"")],
    "protocol": [(0.1, b"SSH-2.0-OpenSSH\r\n")],
    "protocol, length": [(0.1, b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")],
    "protocol, chunk": [(0.1, HEAD + b"long\r\nx")],
    "timeout": [(0.1, HEAD + token()), (99.0, token())],
}


@pytest.mark.parametrize("kind", FAILURES)
def test_each_failure_has_its_name(kind: str) -> None:
    run, _ = load(lambda asked: iter(FAILURES[kind]), evenly(1.0, 1), timeout_s=5.0)
    assert run.records[0].error == kind.split(",")[0]
    assert run.records[0].message


def test_what_a_refusal_says_is_kept() -> None:
    run, _ = load(lambda asked: iter(FAILURES["status 429"]), evenly(1.0, 1))
    assert run.records[0].message == "too many"


def test_an_endpoint_that_cannot_be_reached_fails_every_request() -> None:
    async def refuse(*_: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    run = run_virtually(drive(job(evenly(1.0, 3)), connect=refuse))
    assert [record.error for record in run.records] == ["connect"] * 3


def test_a_connection_that_died_while_idle_is_no_failure() -> None:
    answers = iter([True, False, True])

    def script(asked: Asked) -> Iterator[Piece]:
        if next(answers):
            yield from steady(0.1, 0.1, 2)
        else:
            yield 0.0, b""

    run, fake = load(script, evenly(1.0, 2))
    assert [record.error for record in run.records] == [None, None]
    assert fake.connections == 2


def test_a_timeout_hangs_up() -> None:
    _, fake = load(lambda asked: iter(FAILURES["timeout"]), evenly(1.0, 1), timeout_s=5.0)
    assert fake.aborted == 1


def test_prompts_have_the_length_that_was_asked() -> None:
    _, fake = load(lambda asked: steady(0.1, 0.1, 2), evenly(1.0, 3, prompt=11))
    texts = [asked.body["prompt"] for asked in fake.asked]
    assert [text.count(" w") for text in texts] == [8, 8, 8]  # the endpoint adds three
    assert len(set(texts)) == 3


def test_what_is_asked_of_the_endpoint() -> None:
    _, fake = load(lambda asked: steady(0.1, 0.1, 2), evenly(1.0, 1), extra={"top_k": 5}, headers={"A": "b"})
    body = fake.asked[0].body
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert (body["ignore_eos"], body["max_tokens"], body["top_k"], body["model"]) == (True, 5, 5, "m")
    assert fake.asked[0].headers["a"] == "b"
    assert fake.asked[0].path == "/v1/completions"


def test_a_files_prompts_come_in_their_order() -> None:
    _, fake = load(lambda asked: steady(0.1, 0.1, 2), evenly(1.0, 3), prompts=Given(["one", "two"]))
    assert [asked.body["prompt"] for asked in fake.asked] == ["one", "two", "one"]


def test_conversations_repeat_what_was_really_said() -> None:
    workload = Conversations(evenly(1.0, 1, prompt=10, output=4), Fixed(6, 4), turns=3, think_s=0.0)

    def script(asked: Asked) -> Iterator[Piece]:
        length = sum(message["content"].count(" ") for message in asked.body["messages"]) + 3
        return steady(0.25, 0.25, tokens_asked(asked), length, chat=True)

    run, fake = load(script, workload, chat=True)
    roles = [[message["role"] for message in asked.body["messages"]] for asked in fake.asked]
    assert roles == [
        ["user"],
        ["user", "assistant", "user"],
        ["user", "assistant", "user", "assistant", "user"],
    ]
    assert fake.asked[2].body["messages"][:3] == fake.asked[1].body["messages"]
    assert fake.asked[1].body["messages"][1]["content"] == "aaaa"
    assert [asked.at - BEGIN for asked in fake.asked] == pytest.approx([1.0, 2.0, 3.0])
    assert [record.turn for record in run.records] == [0, 1, 2]


def test_a_conversation_ends_with_its_first_failure() -> None:
    workload = Conversations(evenly(1.0, 1), Fixed(6, 4), turns=3, think_s=0.0)
    run, _ = load(lambda asked: iter(FAILURES["status 500"]), workload, chat=True)
    assert len(run.records) == 1


def test_equal_keys_are_equal_texts_and_another_salt_is_another_text() -> None:
    from membound.workloads.arrivals import SharedPrefix

    def texts(salt: str) -> list[str]:
        fake = ScriptedEndpoint(lambda asked: steady(0.1, 0.1, 2))
        workload = SharedPrefix(evenly(1.0, 2), prefix_tokens=32)
        spoken = Job(endpoint("fake"), Asking("m"), lambda: workload, WORDS, salt)
        run_virtually(drive(spoken, connect=fake.connect))
        return [asked.body["prompt"] for asked in fake.asked]

    first, second = (text.split() for text in texts("s"))
    assert len(first) == 32 + 8 - 3
    assert first[:32] == second[:32]
    assert first[32:] != second[32:]
    assert texts("other")[0].split()[:32] != first[:32]


def test_the_duration_ends_the_sending_not_what_is_under_way() -> None:
    run, fake = load(lambda asked: steady(1.0, 1.0, 3), evenly(2.0, 100), duration_s=2.1)
    assert len(fake.asked) == 4
    assert all(record.succeeded for record in run.records)


def test_an_interrupt_keeps_what_has_ended() -> None:
    async def main() -> Run:
        fake = ScriptedEndpoint(lambda asked: steady(0.5, 0.25, 3))
        driving = asyncio.get_running_loop().create_task(drive(job(evenly(1.0, 100)), connect=fake.connect))
        await asyncio.sleep(5.6)
        driving.cancel()
        return await driving

    run = run_virtually(main())
    assert run.interrupted
    assert [record.number for record in run.records] == [0, 1, 2, 3]


def test_two_clients_send_what_one_would() -> None:
    def asked(share: Share) -> list[tuple[float, int]]:
        fake = ScriptedEndpoint(lambda asked: steady(0.5, 0.25, 3))
        workload = open_loop(3.0, _Growing(), 9, seed=4)
        run_virtually(drive(job(workload), share, connect=fake.connect))
        return [(round(one.at, 9), len(one.body["prompt"])) for one in fake.asked]

    assert sorted(asked(Share(0, 2)) + asked(Share(1, 2))) == asked(Share())


class _Growing:
    """Each prompt longer than the last."""

    def draw(self, random: object) -> Iterator[tuple[int, int]]:
        return ((8 + index, 5) for index in range(1000))


def test_a_closed_loops_users_are_divided() -> None:
    workload = ClosedLoop(3, _Growing(), 7)
    counts = []
    for index in range(2):
        fake = ScriptedEndpoint(lambda asked: steady(0.5, 0.25, 3))
        run_virtually(drive(job(workload), Share(index, 2), connect=fake.connect))
        counts.append(len(fake.asked))
    assert counts == [4, 3]


def test_long_prompts_have_their_length_and_share_no_beginning() -> None:
    _, fake = load(lambda asked: steady(0.1, 0.1, 2), evenly(1.0, 2, prompt=1003))
    first, second = (asked.body["prompt"].split() for asked in fake.asked)
    assert len(first) == len(second) == 1000
    assert first[:16] != second[:16]
