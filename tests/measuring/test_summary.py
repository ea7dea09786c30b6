"""Figures of a run by their definitions, and the conditions put on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from membound.errors import InputError
from membound.measuring.gates import parse_gate
from membound.measuring.overhead import Overhead
from membound.measuring.summary import Measured, tokens_within
from membound.workloads.slo import Slo
from tests.measuring.made_runs import done, failed, made

EVERY_SECOND = [done(number, float(number)) for number in range(10)]  # each lasts 0.9 s


def test_latencies_and_rates() -> None:
    measured = Measured(made(EVERY_SECOND))
    summaries = measured.summaries
    assert summaries["ttft_s"] is not None
    assert summaries["ttft_s"].p99 == pytest.approx(0.5)
    assert summaries["tpot_s"] is not None
    assert summaries["tpot_s"].mean == pytest.approx(0.1)
    assert measured.window == pytest.approx((0.0, 9.9))
    assert measured.req_per_s == pytest.approx(10 / 9.9)
    assert measured.output_tok_per_s == pytest.approx(50 / 9.9)
    assert measured.goodput_req_per_s == measured.req_per_s


def test_failures_count_in_attainment_and_spoil_adjusted_percentiles() -> None:
    records = [*EVERY_SECOND[:8], failed(8, 8.0), failed(9, 9.0, "timeout")]
    measured = Measured(made(records), Slo(ttft_s=0.6))
    assert measured.slo_attainment == 0.8
    assert measured.error_kinds == {"status 500": 1, "timeout": 1}
    assert measured.adjusted["ttft_s"] is not None
    assert measured.adjusted["ttft_s"].p50 == pytest.approx(0.5)
    assert measured.adjusted["ttft_s"].p99 == math.inf
    answer = measured.as_json()
    assert answer["errors"] == 2
    assert answer["adjusted"]["ttft_s"]["p99"] == "inf"
    json.loads(json.dumps(answer, allow_nan=False))
    assert any("timeout" in warning for warning in answer["warnings"])


def test_partial_tokens_of_a_failure_are_no_output() -> None:
    broken = replace(EVERY_SECOND[0], error="disconnected")
    assert tokens_within([broken, EVERY_SECOND[1]], 0.0, 10.0) == 5


def test_an_slo_is_held_by_each_request_alone() -> None:
    records = [done(0, 0.0, gap=0.2), *EVERY_SECOND[1:]]
    assert Measured(made(records), Slo(tpot_s=0.15)).good == 9
    assert Measured(made(records), Slo(tpot_s=0.2 + 1e-9, ttft_s=0.4)).good == 0


def test_warm_up_and_cool_down_are_cut_by_intended_times() -> None:
    slow = [replace(done(n, float(n), ttft=5.0), intended_s=float(n)) for n in (0, 1, 9)]
    records = sorted([*slow, *EVERY_SECOND[2:9]], key=lambda record: record.number)
    measured = Measured(made(records), warm_up_s=2.0, cool_down_s=0.5)
    assert [record.number for record in measured.records] == [2, 3, 4, 5, 6, 7, 8]
    assert measured.window == (2.0, 8.5)
    assert measured.summaries["ttft_s"] is not None
    assert measured.summaries["ttft_s"].p99 == pytest.approx(0.5)
    # tokens that came within the window, whoever asked for them: of seven requests, and of one before
    inside = sum(2.0 <= moment <= 8.5 for record in records for moment in record.events_s)
    assert measured.output_tok_per_s == pytest.approx(inside / 6.5)


def test_the_steady_window_has_its_own_rates() -> None:
    steady = Measured(made(EVERY_SECOND)).steady
    assert steady is not None
    assert (steady.start_s, steady.end_s) == pytest.approx((0.9, 9.0))
    assert steady.concurrency == pytest.approx(8 * 0.9 / 8.1)
    assert steady.requests_per_s == pytest.approx(9 / 8.1)


def test_what_to_know_is_said() -> None:
    record = done(0, 0.0)
    odd = replace(
        record,
        intended_s=-1.0,
        prompt_tokens=9,
        output_tokens=10,
        counted_by="events",
        asked_output_tokens=20,
    )
    busy = Overhead(0.95, 0.01, 0.2)
    said = " ".join(Measured(made([odd], busy)).warnings)
    for words in (
        "95% of a core",
        "200.0 ms late",
        "sent up to 1000.0 ms late",
        "shorter",
        "exactly",
        "2.00 tok",
    ):
        assert words in said
    assert Measured(made([record])).warnings == []


def test_prefix_hits_are_the_servers_word() -> None:
    assert Measured(made(EVERY_SECOND)).prefix_hit_rate is None
    told = [replace(record, cached_tokens=2) for record in EVERY_SECOND]
    assert Measured(made(told)).prefix_hit_rate == 0.25


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("ttft.p99>0.4", True),
        ("ttft.p99>0.6", False),
        ("ttft_s.p50 >= 0.5", True),
        ("errors>0", False),
        ("slo_attainment<0.95", False),
        ("tpot.mean<9e-2", False),
        ("adjusted.e2e.p99>0.8", True),
        ("prefix_hit_rate<0.5", True),  # no value is no pass
    ],
)
def test_gates(text: str, fails: bool) -> None:
    answer = Measured(made([done(n, float(n), ttft=0.5) for n in range(4)])).as_json()
    assert (parse_gate(text).failure(answer) is not None) == fails


def test_an_infinite_percentile_fails_its_gate() -> None:
    answer = Measured(made([failed(0, 0.0), done(1, 1.0)])).as_json()
    assert parse_gate("adjusted.ttft.p99>100").failure(answer) is not None


@pytest.mark.parametrize("text", ["", "ttft", "ttft.p99", "ttft.p99=1", "p99>x", ">1", "ttft.p99>1.2.3"])
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if"):
        parse_gate(text)


@pytest.mark.parametrize("text", ["latency.p99>1", "ttft.p98>1", "ttft>1", "warnings>1"])
def test_unknown_figures_are_told_with_the_known(text: str) -> None:
    answer = Measured(made(EVERY_SECOND)).as_json()
    with pytest.raises(InputError, match=r"ttft\.p99"):
        parse_gate(text).failure(answer)
