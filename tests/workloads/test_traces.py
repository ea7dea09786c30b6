"""Traces: the packaged ones are what was published, and files are read as they say."""

import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from membound.errors import InputError
from membound.workloads.arrivals import Arrival
from membound.workloads.traces import mean_rate, trace


@pytest.mark.parametrize(
    ("name", "count", "minutes", "prompt", "output"),
    [
        ("azure-conv", 19_366, 58.4, 1155, 211),
        ("azure-code", 8_819, 57.3, 2048, 28),
        ("mooncake", 3_993, 17, 15_325, 149),
    ],
)
def test_packaged_traces(name: str, count: int, minutes: float, prompt: int, output: int) -> None:
    arrivals = list(trace(name).begin())
    assert len(arrivals) == count
    assert arrivals[-1].time_s / 60 == pytest.approx(minutes, rel=0.02)
    assert statistics.fmean(a.prompt_tokens for a in arrivals) == pytest.approx(prompt, abs=1)
    assert statistics.fmean(a.output_tokens for a in arrivals) == pytest.approx(output, abs=1)
    assert all(a.time_s <= b.time_s for a, b in pairwise(arrivals))
    assert mean_rate(name) == pytest.approx((count - 1) / arrivals[-1].time_s)


def test_azure_times_have_seven_digits() -> None:
    first, second = list(trace("azure-conv").begin())[:2]
    assert first == Arrival(0.0, 374, 44)
    assert second.time_s == pytest.approx(50.9951690 - 46.6805900, abs=1e-9)


def test_mooncake_ids_are_keys_of_512_tokens() -> None:
    """With an endless cache 64 % of its blocks would be found, as published."""
    workload = trace("mooncake")
    assert workload.key_tokens == 512
    seen: set[object] = set()
    found = total = 0
    for arrival in workload.begin():
        assert len(arrival.keys) == arrival.prompt_tokens // 512
        total += -(-arrival.prompt_tokens // 512)  # published with ids of partial blocks, which no one shares
        found += sum(key in seen for key in arrival.keys)
        seen.update(arrival.keys)
    assert found / total == pytest.approx(0.640, abs=0.01)


def test_plain_files(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("arrival,input,output,prefix,prefix_tokens\n0,100,5,,\n1.5,100,6,a,40\n2,64,7,a,\n")
    arrivals = list(trace(str(table)).begin())
    assert [a[:3] for a in arrivals] == [(0.0, 100, 5), (1.5, 100, 6), (2.0, 64, 7)]
    assert [len(a.keys) for a in arrivals] == [0, 2, 4]
    assert arrivals[1].keys == arrivals[2].keys[:2]
    lines = tmp_path / "t.jsonl"
    lines.write_text(
        '{"arrival": 0.5, "input": 10, "output": 2}\n\n{"arrival": 1, "input": 9, "output": 1}\n'
    )
    assert list(trace(str(lines)).begin()) == [Arrival(0.5, 10, 2), Arrival(1.0, 9, 1)]


def test_jitter_stays_in_its_bin(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("arrival,input,output\n" + "".join(f"{3 * (n // 10)},{n + 1},1\n" for n in range(100)))
    plain = list(trace(str(table)).begin())
    spread = list(trace(str(table), jitter_s=3.0, seed=1).begin())
    assert [a.prompt_tokens for a in spread] == [a.prompt_tokens for a in plain]
    assert all(a.time_s <= b.time_s < a.time_s + 3 for a, b in zip(plain, spread, strict=True))
    assert len({a.time_s for a in spread}) == 100
    assert spread == list(trace(str(table), jitter_s=3.0, seed=1).begin())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "not a trace"),
        ("arrival,input,output\n0,x,1\n", "line 2"),
        ("arrival,input,output\n5,1,1\n4,1,1\n", "order of time"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        list(trace(str(path)).begin())


def test_an_unknown_name_lists_the_packaged_ones() -> None:
    with pytest.raises(InputError, match="azure-conv, azure-code, mooncake"):
        trace("azure")
