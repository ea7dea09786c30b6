"""membound bench, runs and compare against an endpoint without a model, in real time but short."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import serve

from tests.commands.test_cli import Terminal

QUICK = ("--rate", "100", "--requests", "20", "--prompt", "16", "--output", "4")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """First token after 20 ms, one more every 2 ms."""
    started = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        server = await serve(0, 0.02, 0.002)
        stop = asyncio.Event()
        found.extend([server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop])
        started.set()
        await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(10)
    port, loop, stop = found
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.setenv("MEMBOUND_DATA", str(tmp_path))
    return Terminal(monkeypatch, capsys)


def test_bench_has_the_keys_of_simulate_and_its_own(terminal: Terminal, url: str) -> None:
    answer = terminal.json("bench", url, *QUICK, "--slo", "ttft=5,tpot=1")
    assert answer["requests"] == answer["completed"] == 20
    for latency in ("ttft_s", "tpot_s", "e2e_s", "itl_s", "scheduled_latency_s", "dispatch_delay_s"):
        assert set(answer[latency]) == {"mean", "p50", "p90", "p99"}
    assert answer["ttft_s"]["p50"] > 0.0199
    assert answer["tpot_s"]["p50"] > 0.0015
    assert answer["slo_attainment"] == 1
    assert answer["errors"] == 0
    assert answer["exact_prompts"] == 1
    assert answer["tokens_per_event"] == 1
    assert answer["prompt_tokens_counted_by"] == "/tokenize"
    low, high = answer["interval"]["ttft_s"]
    assert low <= answer["ttft_s"]["mean"] <= high
    low, high = answer["intervals"]["ttft_s"]["p50"]
    assert low <= answer["ttft_s"]["p50"] <= high
    low, high = answer["interval"]["output_tok_per_s"]
    assert low < answer["output_tok_per_s"] < high
    assert answer["run"] == 1


def test_the_table_shows_every_latency(terminal: Terminal, url: str) -> None:
    code, out, _ = terminal("bench", url, *QUICK, "--chat", "--no-keep")
    assert code == 0
    for words in ("TTFT", "TPOT", "ITL", "E2E", "scheduled latency", "dispatch delay", "20 of 20 succeeded"):
        assert words in out
    assert terminal.json("runs")["runs"] == []


def test_a_sweep_has_a_point_for_each_rate(terminal: Terminal, url: str) -> None:
    options = ("--requests", "8", "--prompt", "16", "--output", "3")
    answer = terminal.json("bench", url, "--rate", "50,100", *options)
    assert [point["rate"] for point in answer["points"]] == [50, 100]
    closed = terminal.json("bench", url, "--concurrency", "1,4", *options)
    assert [point["concurrency"] for point in closed["points"]] == [1, 4]
    assert [entry["id"] for entry in terminal.json("runs")["runs"]] == [4, 3, 2, 1]


def test_goodput_is_sought(terminal: Terminal, url: str) -> None:
    """An endpoint whose first token takes 20 ms holds 10 ms at no rate."""
    hard = terminal.json(
        "bench", url, "--rate", "0.004", "--requests", "1", "--prompt", "16", "--output", "2",
        "--find-goodput", "--slo", "ttft=0.01", "--rate-scale", "100000",
    )  # fmt: skip
    assert hard["max_rate_req_per_s"] is None
    assert all(point["slo_attainment"] == 0 for point in hard["points"])
    easy = terminal.json(
        "bench", url, "--rate", "400000", "--requests", "4", "--prompt", "16", "--output", "2",
        "--find-goodput", "--slo", "ttft=9",
    )  # fmt: skip
    assert easy["max_rate_req_per_s"] == 800000
    assert easy["slo_attainment"] == 1


def test_a_gate_stops_a_build(terminal: Terminal, url: str) -> None:
    code, out, err = terminal("bench", url, *QUICK, "--fail-if", "ttft.p99>0.01", "--fail-if", "errors>0")
    assert code == 1
    assert "TTFT" in out
    assert err.startswith("membound: the run fails: ttft.p99 is 0.0")
    assert "errors" not in err
    assert terminal("bench", url, *QUICK, "--fail-if", "ttft.p99>5")[0] == 0


def test_rows_of_requests_as_csv(terminal: Terminal, url: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    assert terminal("bench", url, *QUICK, "--csv", str(path))[0] == 0
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 20
    assert all(float(row["ttft_s"]) > 0.0199 and row["prompt_tokens"] == "16" for row in rows)


def test_a_page_that_needs_no_network(terminal: Terminal, url: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    predicted = ("--model", "Llama-3.1-8B", "--on", "h100-sxm")
    options = ("--requests", "8", "--prompt", "16", "--output", "3", "--slo", "ttft=1", "--html", str(page))
    assert terminal("bench", url, "--rate", "50,100", *options, *predicted)[0] == 0
    text = page.read_text()
    assert "src=" not in text.split("<body>")[0]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    for words in ("TTFT against the load", "Measured against predicted", "100 req/s in time", "Goodput"):
        assert words in text
    assert "--html" in terminal.refuses("bench", url, *QUICK, "--html", "/no/such/folder/x.html")


def test_compare_says_what_exceeds_the_noise(terminal: Terminal, url: str) -> None:
    terminal("bench", url, *QUICK, "--name", "short")
    terminal(
        "bench",
        url,
        "--rate",
        "100",
        "--requests",
        "20",
        "--prompt",
        "16",
        "--output",
        "64",
        "--name",
        "long",
    )
    answer = terminal.json("compare", "short", "long")
    found = {one["metric"]: one for one in answer["differences"]}
    assert found["e2e_s.p50"]["exceeds_noise"]
    assert found["e2e_s.p50"]["ratio"] > 2
    code, out, _ = terminal("compare", "1", "2")
    assert code == 0
    assert "e2e p50" in out
    assert terminal("compare", "1", "2", "--fail-if", "e2e.p50>1.5")[0] == 1
    assert terminal("compare", "2", "1", "--fail-if", "e2e.p50>1.5")[0] == 0


def test_several_clients_send_it_together(terminal: Terminal, url: str) -> None:
    answer = terminal.json("bench", url, *QUICK, "--clients", "2")
    assert answer["completed"] == 20
    assert len(answer["client"]) == 2


def test_a_measured_load_is_predicted_too(terminal: Terminal, url: str) -> None:
    answer = terminal.json("bench", url, *QUICK, "--model", "Llama-3.1-8B", "--on", "h100-sxm")
    assert answer["predicted"]["ttft_s"]["p50"] > 0
    assert answer["predicted"]["tpot_s"]["p50"] > 0


def test_prompts_of_a_file(terminal: Terminal, url: str, tmp_path: Path) -> None:
    share = tmp_path / "share.json"
    share.write_text(
        '[{"conversations": [{"from": "human", "value": "one two three"}, {"from": "gpt", "value": "a b"}]},'
        ' {"conversations": [{"from": "gpt", "value": "no question"}]}]'
    )
    answer = terminal.json("bench", url, "--rate", "100", "--requests", "3", "--prompts", str(share))
    assert answer["exact_prompts"] == 1
    rows = terminal.json("runs")["runs"]
    assert rows[0]["summary"]["output_tok_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--rate"),
        (("--rate", "fast"), "--rate fast"),
        (("--rate", "1", "--concurrency", "2"), "--rate and --concurrency"),
        (("--rate", "1", "--slo", "speed=1"), "--slo"),
        (("--rate", "1", "--find-goodput"), "--slo"),
        (("--rate", "1,2", "--find-goodput", "--slo", "ttft=1"), "--rate"),
        (("--rate", "1", "--fail-if", "ttft"), "--fail-if"),
        (("--rate", "1", "--extra-body", "{"), "--extra-body"),
        (("--rate", "1", "--model", "Llama-3.1-8B"), "--on"),
        (("--rate", "1", "--prompts", "/no/such/file"), "/no/such/file"),
        (("--rate", "1", "--tokenizer", "/no/such"), "--tokenizer"),
        (("--rate", "1", "--header", "nonsense"), "--header"),
        (("--ramp", "1,2"), "--ramp"),
    ],
)
def test_bad_options_are_one_line(
    terminal: Terminal, url: str, arguments: tuple[str, ...], said: str
) -> None:
    assert said in terminal.refuses("bench", url, *arguments)


def test_what_is_not_there_is_one_line(terminal: Terminal, url: str) -> None:
    assert "cannot be reached" in terminal.refuses("bench", "http://127.0.0.1:9", "--rate", "1", code=1)
    assert "not a URL" in terminal.refuses("bench", "ftp://x", "--rate", "1")
    assert "404" in terminal.refuses("bench", f"{url}/elsewhere", "--rate", "1", code=1)
    assert "no run '7'" in terminal.refuses("compare", "7", "8")


def test_a_run_in_which_nothing_succeeded_fails(terminal: Terminal, url: str) -> None:
    late = ("--rate", "50", "--requests", "3", "--output", "100", "--timeout", "0.1")
    code, out, err = terminal("bench", url, *late, "--json")
    assert (code, err) == (1, "membound: no request succeeded\n")
    assert json.loads(out)["errors"] == 3


def test_calibration_to_an_endpoint_errs_less_on_traffic_it_has_not_seen(
    terminal: Terminal, url: str, tmp_path: Path
) -> None:
    """First tokens after 20 ms, one each 2 ms: an H100 would take three times as long for each."""
    kept = tmp_path / "fake.json"
    answer = terminal.json(
        "calibrate", url, "--model", "Llama-3.1-8B", "--on", "h100-sxm",
        "--max-prompt", "512", "--max-batch", "8", "--requests", "10", "--write", str(kept),
    )  # fmt: skip
    assert answer["after"]["probes_median_error"] < answer["before"]["probes_median_error"]
    assert answer["after"]["median_error"] < answer["before"]["median_error"]
    assert set(answer["parameters"]) == {"memory", "math", "fixed", "server_s"}
    assert [probe["tokens"] for probe in answer["probes"] if not probe["batch"]] == [32, 128, 512]
    load = ("Llama-3.1-8B", "--on", "h100-sxm", "--rate", "5", "--prompt", "128", "--output", "16")
    slow = json.loads(kept.read_text())
    slow["parameters"]["server_s"] = 5.0
    kept.write_text(json.dumps(slow))
    assert terminal.json("simulate", *load, "--calibration", str(kept))["ttft_s"]["p50"] > 5
    kept.write_text("{}")
    assert "--calibration" in terminal.refuses("simulate", *load, "--calibration", str(kept))
    assert {row["metric"] for row in answer["held_out"]} >= {"ttft_s.p50", "tpot_s.p50", "output_tok_per_s"}


def test_what_cannot_be_calibrated_is_one_line(terminal: Terminal, url: str) -> None:
    assert "no-such" in terminal.refuses("calibrate", url, "--model", "no-such", "--on", "h100-sxm")
    assert "--model" in terminal.refuses("calibrate", url, "--on", "h100-sxm")
