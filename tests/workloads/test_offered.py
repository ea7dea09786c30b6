"""Workloads from options, and their division among senders."""

import pickle
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import pytest

from membound.errors import InputError
from membound.workloads.arrivals import Arrival, Workload
from membound.workloads.offered import Offered
from membound.workloads.shares import share


def arrivals(workload: Workload, most: int = 1000) -> list[Arrival]:
    return list(islice(workload.begin(), most))


def test_one_kind_of_arrivals_must_be_chosen() -> None:
    with pytest.raises(InputError, match="not none"):
        Offered()
    with pytest.raises(InputError, match="not --rate and --trace"):
        Offered(rate=1.0, trace="azure-conv")


@pytest.mark.parametrize("name", ["requests", "prompt", "output", "turns", "prefixes"])
def test_counts_start_at_one(name: str) -> None:
    changed: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"--{name}"):
        replace(Offered(rate=1.0), **changed)


def test_what_is_offered_can_be_sent_to_another_process() -> None:
    offered = Offered(rate=2.0, requests=5, lengths="uniform", seed=3)
    assert arrivals(pickle.loads(pickle.dumps(offered)).workload()) == arrivals(offered.workload())


def test_another_rate_brings_the_same_requests() -> None:
    slow, fast = (
        arrivals(Offered(rate=rate, requests=50, lengths="sharegpt").workload()) for rate in (1.0, 8.0)
    )
    assert [a.prompt_tokens for a in slow] == [a.prompt_tokens for a in fast]
    assert slow[-1].time_s == pytest.approx(8 * fast[-1].time_s)


def test_sizes_of_a_file_come_in_order() -> None:
    sizes = ((3, 4), (5, 6))
    found = arrivals(Offered(rate=1.0, requests=3, sizes=sizes).workload())
    assert [(a.prompt_tokens, a.output_tokens) for a in found] == [(3, 4), (5, 6), (3, 4)]


def test_turns_follow_and_repeat_what_was_said() -> None:
    traffic = Offered(rate=1.0, requests=1, prompt=32, output=8, turns=2).workload().begin()
    (first,) = traffic
    second = traffic.after(first, 7.0)
    assert second is not None
    assert (second.prompt_tokens, second.turn) == (32 + 8 + 32, 1)
    assert traffic.after(second, 9.0) is None
    with pytest.raises(InputError, match="--turns"):
        Offered(concurrency=1, turns=2).workload()


def test_a_shared_prefix_makes_prompts_longer() -> None:
    (only,) = arrivals(Offered(rate=1.0, requests=1, prompt=10, prefix=64).workload())
    assert only.prompt_tokens == 74
    assert len(only.keys) == 4


def test_unknown_lengths_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="sharegpt"):
        Offered(rate=1.0, lengths="short").workload()


@pytest.mark.parametrize(
    "offered",
    [
        Offered(rate=5.0, requests=20, lengths="lognormal"),
        Offered(ramp=(1.0, 5.0, 4.0), requests=20),
        Offered(trace="azure-code", requests=20),
    ],
)
@pytest.mark.parametrize("of", [1, 2, 3])
def test_shares_make_up_the_whole(offered: Offered, of: int) -> None:
    parts = [arrivals(share(offered.workload(), index, of)) for index in range(of)]
    assert sorted(chain(*parts)) == arrivals(offered.workload())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_closed_loops_shares_send_the_same_sizes() -> None:
    offered = Offered(concurrency=3, requests=11, lengths="uniform")

    def sent(workload: Workload) -> list[tuple[int, int]]:
        traffic = workload.begin()
        under_way, sizes = list(traffic), []
        for arrival in under_way:  # grows while it is gone through
            sizes.append((arrival.prompt_tokens, arrival.output_tokens))
            if (following := traffic.after(arrival, 1.0)) is not None:
                under_way.append(following)
        return sizes

    parts = [sent(share(offered.workload(), index, 2)) for index in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(sent(offered.workload()))


def test_more_clients_than_users_leave_some_idle() -> None:
    offered = Offered(concurrency=1, requests=4)
    assert [len(arrivals(share(offered.workload(), index, 2))) for index in range(2)] == [1, 0]
