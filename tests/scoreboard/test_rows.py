"""Rows of measurements: what names stand for, and why some are set aside."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from membound.costs.calibration import fitted
from membound.costs.parallel import Layout
from membound.errors import InputError
from membound.scoreboard.board import DATA
from membound.scoreboard.predict import Predictor, floors
from membound.scoreboard.recorded import Recorder, ideal
from membound.scoreboard.rows import Table, model_name, read_table

HEAD = "source,engine,model,weights_dtype,gpu,tp,ep,dp,dp_attention,isl,osl,load_type,concurrency_or_rate,"
HEAD += "ttft_mean_ms,tpot_mean_ms,e2e_mean_ms,output_tok_s_total,len_note,notes,flag,spec_decoding,disagg"
GOOD = {
    "source": "mine", "engine": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct", "weights_dtype": "bf16",
    "gpu": "H100", "tp": "1", "isl": "1024", "osl": "128", "load_type": "closed-loop concurrency",
    "concurrency_or_rate": "8", "ttft_mean_ms": "90", "tpot_mean_ms": "8", "output_tok_s_total": "900",
}  # fmt: skip


def table_of(tmp_path: Path, *changes: dict[str, str]) -> Table:
    names = HEAD.split(",")
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({**GOOD, **change} for change in changes)
    return read_table(path)


def test_a_good_row(tmp_path: Path) -> None:
    (row,) = table_of(tmp_path, {}).rows
    assert row.deployment.model == "Meta-Llama-3.1-8B"
    assert (row.deployment.part, row.deployment.engine) == ("h100-sxm", "vllm")
    assert row.measured == pytest.approx({"ttft_mean": 0.09, "tpot_mean": 0.008, "throughput": 900})
    assert row.spread == 0.0


@pytest.mark.parametrize(
    ("change", "reason", "usable"),
    [
        ({"tp": ""}, "layout", False),
        ({"tp": "nan"}, "layout", False),
        ({"tp": "0"}, "layout", False),
        ({"isl": "inf"}, "lengths", False),
        ({"isl": "-5"}, "lengths", False),
        ({"osl": "1e30"}, "tokens in a request", False),
        ({"concurrency_or_rate": "1e9"}, "100,000 requests at once", False),
        ({"len_note": "shared 100-tok system prompt, multi-turn"}, "several turns", False),
        ({"load_type": "poisson"}, "poisson", False),
        ({"osl": ""}, "lengths", False),
        ({"concurrency_or_rate": ""}, "concurrency", False),
        ({"disagg": "True"}, "disaggregated", False),
        ({"spec_decoding": "mtp"}, "speculative", False),
        ({"ttft_mean_ms": "", "tpot_mean_ms": "", "output_tok_s_total": ""}, "nothing", False),
        ({"e2e_mean_ms": "100"}, "over half", False),
        ({"model": "unheard-of"}, "unheard-of", True),
        ({"gpu": "abacus"}, "abacus", True),
        ({"engine": "own"}, "own", True),
    ],
)
def test_what_is_set_aside(tmp_path: Path, change: dict[str, str], reason: str, usable: bool) -> None:
    table = table_of(tmp_path, change)
    assert not table.rows
    (aside,) = table.aside
    assert reason in aside.reason
    assert aside.usable == usable


def test_falling_tpot_and_repeated_rows(tmp_path: Path) -> None:
    falling = table_of(tmp_path, {}, {"concurrency_or_rate": "16", "tpot_mean_ms": "4"})
    assert [one.reason for one in falling.aside] == ["TPOT falls as concurrency rises"] * 2
    repeated = table_of(tmp_path, {"concurrency_or_rate": "8"}, {"dp": "4", "concurrency_or_rate": "32"})
    assert [one.line for one in repeated.aside] == [3]


def test_what_a_publisher_marked(tmp_path: Path) -> None:
    (row,) = table_of(tmp_path, {"flag": "TTFT_NONMONOTONE"}).rows
    assert set(row.measured) == {"tpot_mean", "throughput"}


def test_attention_copies_share_their_experts(tmp_path: Path) -> None:
    change = {"model": "openai/gpt-oss-120b", "weights_dtype": "mxfp4", "dp_attention": "true", "tp": "4"}
    (row,) = table_of(tmp_path, change).rows
    assert row.deployment.layout == Layout(1, 1, 4, 4)
    assert row.deployment.weights is None


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "Meta-Llama-3.1-70B"),
        ("Qwen/Qwen3-32B", "Qwen3-32B"),
        ("meta-llama/Llama-2-70b-chat-hf [llama2-70b-99]", "Llama-2-70b-hf"),
    ],
)
def test_names_of_models(name: str, known: str) -> None:
    assert model_name(name) == known


def test_requests_at_a_rate(tmp_path: Path) -> None:
    """Their steps depend on the clock: served in virtual time, quick while the engine keeps up."""
    change = {
        "load_type": "constant rate req/s",
        "concurrency_or_rate": "4",
        "notes": "max_num_batched_tokens=2048 max_num_seqs=128; output_tok_s uses re-tokenised counts",
        "len_note": "shared 512-tok system prompt",
    }
    row, often = table_of(tmp_path, change, {**change, "concurrency_or_rate": "30"}).rows
    assert (row.rate, row.concurrency, row.load) == (4.0, 0, "constant rate")
    assert (row.step_tokens, row.max_running, row.prefix) == (2048, 128, 512)
    assert set(row.measured) == {"ttft_mean", "tpot_mean"}
    predictor = Predictor(fitted(), Recorder())
    found, busier, unshared = (predictor(one) for one in (row, often, replace(row, prefix=0)))
    assert found["throughput"] == pytest.approx(4 * 128, rel=0.02)
    assert found["tpot_mean"] < busier["tpot_mean"]
    assert found["ttft_mean"] < unshared["ttft_mean"]
    assert floors(row, Recorder(), ideal(row.deployment))["tpot_mean"] < found["tpot_mean"]
    with pytest.raises(InputError, match="cannot have run like this"):
        predictor(replace(row, prompt=9_000_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (f"{HEAD}\n".encode() + b"x" * 200_000, "as CSV"),
    ],
)
def test_a_file_that_is_broken(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_table(path)


def test_columns_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("model,gpu\nx,y\n")
    with pytest.raises(InputError, match="no column engine"):
        read_table(path)


def test_the_packaged_rows() -> None:
    table = read_table(DATA)
    assert len(table.rows) + len(table.aside) == 2479
    assert len(table.rows) > 1850
    assert sum(one.usable for one in table.aside) < 0.02 * len(table.rows)
