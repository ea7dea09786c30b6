"""Workloads: the rates and shapes that were asked for, and the same for the same seed."""

import statistics
import tracemalloc
from itertools import islice, pairwise
from random import Random

import pytest

from membound.errors import InputError
from membound.workloads.arrivals import (
    Arrival,
    ClosedLoop,
    Conversations,
    Open,
    SharedPrefix,
    open_loop,
    ramped,
    scaled,
)
from membound.workloads.lengths import NAMED, Fixed, LogNormal, Sampled, Uniform


def gaps(workload: Open) -> list[float]:
    times = [0.0, *(arrival.time_s for arrival in workload.begin())]
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize(("burstiness", "spread"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (float("inf"), 0.0)])
def test_rate_and_burstiness(burstiness: float, spread: float) -> None:
    """Gaps have the mean of the rate; their deviation over the mean is 1 / sqrt(burstiness)."""
    found = gaps(open_loop(5, Fixed(10, 10), 20_000, burstiness=burstiness, seed=1))
    assert statistics.fmean(found) == pytest.approx(0.2, rel=0.04)
    assert statistics.pstdev(found) / statistics.fmean(found) == pytest.approx(spread, rel=0.05, abs=1e-9)


def test_the_same_seed_gives_the_same_traffic_and_a_rate_moves_only_times() -> None:
    def sizes(workload: Open) -> list[tuple[int, int]]:
        return [(a.prompt_tokens, a.output_tokens) for a in workload.begin()]

    one = open_loop(5, LogNormal(500, 100), 100, seed=1)
    assert list(one.begin()) == list(one.begin())
    assert list(one.begin()) != list(open_loop(5, LogNormal(500, 100), 100, seed=2).begin())
    assert sizes(one) == sizes(open_loop(9, LogNormal(500, 100), 100, seed=1))
    assert [a.time_s for a in scaled(one, 2).begin()] == [a.time_s / 2 for a in one.begin()]


def test_a_ramp_rises() -> None:
    times = [a.time_s for a in ramped(1, 9, 100, Fixed(1, 1), 900).begin()]
    assert sum(time < 50 for time in times) == pytest.approx(50 * 3, rel=0.15)
    assert sum(50 <= time < 100 for time in times) == pytest.approx(50 * 7, rel=0.15)
    assert sum(100 <= time < 120 for time in times) == pytest.approx(20 * 9, rel=0.2)


def test_lengths() -> None:
    random = Random(1)
    drawn = list(islice(LogNormal(1000, 200, spread=0.5).draw(random), 20_000))
    assert statistics.fmean(p for p, _ in drawn) == pytest.approx(1000, rel=0.02)
    assert statistics.pstdev(o for _, o in drawn) == pytest.approx(100, rel=0.05)
    uniform = list(islice(Uniform(1000, 100).draw(random), 5000))
    assert {min(uniform)[0] // 10, max(uniform)[0]} == {80, 1000}
    assert set(islice(Sampled([(1, 2), (3, 4)]).draw(random), 50)) == {(1, 2), (3, 4)}
    for lengths in NAMED.values():
        assert all(p >= 1 and o >= 1 for p, o in islice(lengths.draw(random), 1000))


def test_a_closed_loop_sends_its_number_in_all() -> None:
    traffic = ClosedLoop(3, Fixed(10, 5), 7, think_s=2.0).begin()
    first = list(traffic)
    assert [arrival.time_s for arrival in first] == [0.0] * 3
    later = [traffic.after(first[0], 10.0) for _ in range(5)]
    assert sum(arrival is not None for arrival in later) == 4
    assert all(arrival.time_s > 10 for arrival in later if arrival)


def test_shared_prefixes_have_shared_keys() -> None:
    workload = SharedPrefix(open_loop(5, Fixed(100, 10), 200), prefix_tokens=50, prefixes=4, skew=1.0)
    arrivals = list(workload.begin())
    assert {arrival.prompt_tokens for arrival in arrivals} == {150}
    assert len({tuple(a.keys) for a in arrivals}) == 4
    assert all(len(a.keys) == 3 for a in arrivals)  # three whole blocks of 16
    first = statistics.mode(a.keys[0] for a in arrivals)
    assert first == ("prefix", 0, 0)  # the first prefix is the most popular


def test_a_turn_repeats_all_that_was_said() -> None:
    workload = Conversations(open_loop(1, Fixed(40, 30), 1), Fixed(10, 20), turns=3, think_s=1.0)
    traffic = workload.begin()
    (first,) = list(traffic)
    second = traffic.after(first, 5.0)
    assert second is not None
    assert (second.prompt_tokens, second.output_tokens) == (40 + 30 + 10, 20)
    assert list(second.keys[: len(first.keys)]) == list(first.keys)
    assert len(first.keys) == 70 // 16  # the answer is named too: the next prompt repeats it
    third = traffic.after(second, 9.0)
    assert third is not None
    assert (third.prompt_tokens, third.session, third.turn) == (110, first.session, 2)
    assert traffic.after(third, 20.0) is None


def test_a_million_requests_are_streamed() -> None:
    tracemalloc.start()
    arrivals = iter(open_loop(100, LogNormal(1000, 200), 1_000_000).begin())
    count = sum(1 for _ in islice(arrivals, 20_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 200_000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: open_loop(0, Fixed(1, 1), 1),
        lambda: open_loop(1, Fixed(1, 1), 1, burstiness=0),
        lambda: Fixed(0, 1),
        lambda: ClosedLoop(0, Fixed(1, 1), 1),
        lambda: scaled(ClosedLoop(1, Fixed(1, 1), 1), 2.0),
        lambda: ramped(1, 0, 10, Fixed(1, 1), 1),
    ],
)
def test_what_cannot_be_is_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(InputError):
        wrong()


def test_arrivals_are_plain_tuples() -> None:
    assert Arrival(1.0, 2, 3) == (1.0, 2, 3, (), -1, 0)
