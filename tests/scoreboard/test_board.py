"""The scoreboard's floors: accuracy on a fixed sample of rows must not rot."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from membound.cli import app
from membound.scoreboard.board import LEFT_OUT, Board, board
from membound.scoreboard.requests import compare_requests
from membound.scoreboard.scores import group_rows, overall
from membound.scoreboard.single_stream import stream_scores

EVERY = 24


@pytest.fixture(scope="module")
def sample() -> Board:
    return board(every=EVERY)


def test_floors_on_a_fixed_sample(sample: Board) -> None:
    found = overall(sample)
    assert found["n"] > 70
    assert found["coverage"] > 0.95
    assert found["tpot_median_ape"] < 0.07
    assert found["tpot_p90_ape"] < 0.19
    assert found["throughput_p90_ape"] < 0.19
    assert found["throughput_median_ape"] < 0.065
    assert found["ttft_median_ape"] < 0.13
    assert found["left_out_gpu"]["tpot"]["median_ape"] < 0.08
    assert found["left_out_model"]["tpot"]["median_ape"] < 0.1
    assert 0.85 < found["interval_coverage"] < 0.97


def test_left_out_predictions_come_from_other_fits(sample: Board) -> None:
    assert {path.stem for path in LEFT_OUT.glob("*.toml")} >= {"h100-sxm", "b200-sxm", "gpt-oss-120b"}
    one = next(one for one in sample.scored if one.row.deployment.part == "b200-sxm")
    assert one.unseen["part"]["tpot_mean"] != one.predicted["tpot_mean"]


def test_groups_name_what_they_hold(sample: Board) -> None:
    rows = group_rows(sample)
    assert {row["metric"] for row in rows} == {"tpot", "ttft", "throughput"}
    assert sum(row["n"] for row in rows if row["metric"] == "throughput") == len(sample.ratios("throughput"))


def test_a_run_that_nothing_was_fitted_to() -> None:
    for one in compare_requests():
        assert abs(one.error) < (0.08 if one.percentile == 50 else 0.12), one


def test_the_command_scores_a_file(tmp_path: Path) -> None:
    path = str(tmp_path) + "/mine.csv"
    with open(path, "w") as file:
        file.write(
            "model,gpu,engine,tp,isl,osl,load_type,concurrency_or_rate,tpot_mean_ms,ttft_mean_ms\n"
            "Qwen/Qwen3-32B,H100,vllm,2,1024,128,closed-loop concurrency,8,16,120\n"
            "nothing,H100,vllm,2,1024,128,closed-loop concurrency,8,16,120\n"
        )
    result = CliRunner().invoke(app, ["validate", "--data", path, "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert answer["overall"]["n"] == 1
    assert answer["overall"]["coverage"] == 0.5
    assert [one["n"] for one in answer["excluded"]] == [1]


def test_one_sequence_at_a_time() -> None:
    found = stream_scores()
    assert sum(one["n"] for one in found["engines"]) + sum(one["n"] for one in found["excluded"]) == 204
    assert all(one["median_ape"] < 0.3 for one in found["engines"])
