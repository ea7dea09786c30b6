"""membound calibrate this, from a file to what is kept; the model is so small that the fit means nothing."""

import json
import math
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from typer.testing import CliRunner

from membound import cli
from membound.commands import calibrate_this
from membound.costs.this_machine import last_tests, parameters_file, remembered
from membound.scoreboard import this_machine, this_machine_run
from tests.small_models import small_architecture, write_gguf


def test_steps_are_fitted_and_runs_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate_this, "RUNS", 1)
    monkeypatch.setattr(calibrate_this, "ROUNDS", 1)
    monkeypatch.setattr(calibrate_this, "TRIES", 1)
    monkeypatch.setattr(this_machine_run, "COUNT", 6)
    monkeypatch.setattr(this_machine, "WORST_FIT", math.inf)
    monkeypatch.setattr(this_machine, "PLAUSIBLE", math.inf)
    monkeypatch.setattr(this_machine, "MOST_UNPACK", math.inf)
    small = small_architecture("llama", hidden=256, width=512, heads=4, head_dim=64, context_length=1024)
    path = write_gguf(tmp_path / "small.gguf", small, Type.Q8_0)
    words = ["calibrate", "this", "--model", str(path), "--json"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [test["share"] for test in found["tests"]] == [0.5, 0.8]
    for test in found["tests"]:
        assert test["rate"] == pytest.approx(test["share"] * found["saturation_req_per_s"])
        for name, measured in test["measured"].items():
            assert measured > 0
            assert test["error"][name] == pytest.approx(test["predicted"][name] / measured - 1)
    assert all(step["measured_s"] > 0 and step["after_s"] > 0 for step in found["steps"])
    kept = parameters_file(None)
    assert remembered(kept) is not None
    assert (last_tests(kept) or {})["tests"][0]["measured"] == found["tests"][0]["measured"]
