"""membound simulate: stable keys, readable answers, files that are written, one line for what cannot be."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from membound import cli

SMALL = ("simulate", "Llama-3.1-8B", "--on", "h100-sxm", "--rate", "8", "--requests", "60")
KEYS = {
    "requests", "completed", "ttft_s", "tpot_s", "e2e_s", "output_tok_per_s", "slo_attainment",
    "goodput_req_per_s", "preemptions", "prefix_hit_rate", "simulated_s", "wall_s", "interval",
}  # fmt: skip


def shown(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def answer(*words: str) -> Any:
    return json.loads(shown(*words, "--json"))


def test_stable_keys() -> None:
    found = answer(*SMALL, "--slo", "ttft=0.2,tpot=0.02")
    assert set(found) >= KEYS
    assert found["requests"] == found["completed"] == 60
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert 0 < found[name]["p50"] <= found[name]["p90"] <= found[name]["p99"]
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        low, high = found["interval"][name]
        assert low < found[name]["mean"] < high
    for name, value in (
        ("goodput_req_per_s", found["goodput_req_per_s"]),
        ("kv_occupancy", found["kv_occupancy"]["mean"]),
        ("preemptions", found["preemptions"]),
        ("prefix_hit_rate", found["prefix_hit_rate"]),
    ):
        low, high = found["interval"][name]
        assert low <= value <= high
    assert len(found["interval"]["bound"]) == 2
    worst, best = found["interval"]["slo_attainment"]
    assert worst <= found["slo_attainment"] <= best
    assert 0 <= found["interval"]["slo_holds"] <= 1
    assert sum(found["limits"]["steps"].values()) == pytest.approx(1)


def test_the_same_answer_twice_but_for_the_time_it_took() -> None:
    one, other = (answer(*SMALL, "--lengths", "sharegpt", "--seed", "3") for _ in range(2))
    assert one | {"wall_s": 0} == other | {"wall_s": 0}


def test_in_words() -> None:
    said = shown(*SMALL, "--slo", "ttft=1")
    for words in ("60 of 60 requests", "TTFT", "TPOT", "bound by: ", "goodput", "per accelerator"):
        assert words in said


def test_the_probability_that_the_slo_holds() -> None:
    """Falls as the SLO becomes harder, is half where a mean prediction only just holds it."""
    just = answer(*SMALL)["e2e_s"]["p90"]
    chances = [
        answer(*SMALL, "--slo", f"e2e={just * share}")["interval"]["slo_holds"]
        for share in (10, 1.2, 1.001, 0.8, 0.01)
    ]
    assert chances == sorted(chances, reverse=True)
    assert (chances[0], chances[-1]) == (1, 0)
    assert chances[2] == pytest.approx(0.5, abs=0.05)
    assert "with a probability of 100%" in shown(*SMALL, "--slo", "ttft=1000")


def test_a_trace_at_a_rate_of_its_own() -> None:
    found = answer(
        "simulate", "Llama-3.1-8B", "--on", "h100-sxm", "--trace", "azure-conv", "--rate", "11.06",
        "--requests", "500",
    )  # fmt: skip
    again = answer(
        "simulate", "Llama-3.1-8B", "--on", "h100-sxm", "--trace", "azure-conv", "--rate-scale", "2",
        "--requests", "500",
    )  # fmt: skip
    assert found["completed"] == 500
    assert found["ttft_s"]["mean"] == pytest.approx(again["ttft_s"]["mean"], rel=0.01)


def test_explain_says_what_each_switch_changed() -> None:
    found = answer(*SMALL, "--weights", "fp8", "--speculate", "2", "--explain")
    explained = {entry["switch"]: entry for entry in found["explained"]}
    assert set(explained) == {"weights", "speculate"}
    for entry in explained.values():
        before, after = entry["change"]["tpot_mean_s"]
        assert after == found["tpot_s"]["mean"] < before


def test_a_switch_without_which_nothing_fits() -> None:
    found = answer(
        "simulate", "Llama-3.1-70B", "--on", "h200-sxm", "--weights", "fp8", "--rate", "1", "--requests",
        "5", "--explain",
    )  # fmt: skip
    assert found["fits"] is True
    assert found["explained"][0]["fits"] is False


def test_what_does_not_fit_is_an_answer() -> None:
    found = answer("simulate", "Llama-3.1-70B", "--on", "h100-sxm", "--rate", "1")
    assert found["fits"] is False
    assert "141.1 GB" in found["why"]


def test_files(tmp_path: Path) -> None:
    html, png, table = tmp_path / "r.html", tmp_path / "r.png", tmp_path / "r.csv"
    shown(*SMALL, "--slo", "ttft=0.2", "--html", str(html), "--png", str(png), "--csv", str(table))
    page = html.read_text()
    assert "Llama-3.1-8B on h100-sxm" in page
    assert "plotly" in page
    assert "<script src=" not in page  # needs no network
    assert png.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 60
    assert [float(row["sent_s"]) for row in rows] == sorted(float(row["sent_s"]) for row in rows)


def test_nothing_to_explain_is_said() -> None:
    assert "nothing to explain" in shown(*SMALL, "--explain")
    assert answer(*SMALL, "--explain")["explained"] == []


def test_a_bigger_cache_trades_tpot_for_queueing() -> None:
    """Half the bytes per token: near saturation more run at once, each slower, and none waits as long."""
    near = ("simulate", "Llama-3.1-8B", "--on", "h100-sxm", "--trace", "azure-conv", "--rate", "30",
            "--kv-tokens")  # fmt: skip
    wide, narrow = (answer(*near, tokens, "--requests", "4000") for tokens in ("800000", "400000"))
    assert wide["mean_batch"] > narrow["mean_batch"]
    assert wide["tpot_s"]["mean"] > narrow["tpot_s"]["mean"]
    assert wide["ttft_s"]["mean"] < narrow["ttft_s"]["mean"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "0"), "rate"),
        (("--rate", "1", "--trace", "nowhere.csv"), "nowhere.csv"),
        ((), "--rate"),
        (("--rate", "1", "--engine", "x"), "--engine x"),
        (("--rate", "1", "--routing", "x"), "--routing x"),
        (("--rate", "1", "--replicas", "0"), "replica"),
        (("--rate", "1", "--slo", "x=1"), "--slo"),
        (("--rate", "1", "--acceptance", "2", "--speculate", "1"), "--acceptance"),
        (("--rate", "1", "--prefill-on", "h100-sxm"), "--prefill-replicas"),
        (("--rate", "1", "--memory-fraction", "2"), "--memory-fraction"),
        (("--rate", "1", "--max-num-seqs", "9", "--max-batched-tokens", "4"), "--max-num-seqs 9"),
        (("--rate", "1", "--kv-tokens", "0"), "--kv-tokens"),
        (("--rate", "1", "--skew", "nan"), "--skew"),
        (("--rate", "1", "--draft", "mtp"), "--speculate"),
        (("--rate", "1", "--jitter", "2"), "--trace"),
        (("--trace", "azure-conv", "--jitter", "-1"), "--jitter"),
        (("--rate", "1", "--think", "2"), "--turns"),
        (("--concurrency", "1", "--think", "nan"), "--think"),
        (("--rate", "1", "--prefixes", "2"), "--prefix"),
        (("--ramp", "1,inf,10"), "finite"),
        (("--rate", "1", "--csv", "/nowhere/at/all.csv"), "--csv"),
        (("--rate", "1", "--png", "/nowhere/at/all.png"), "--png"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["membound", "simulate", "Llama-3.1-8B", "--on", "h100-sxm", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    assert end.value.code == 2
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err
