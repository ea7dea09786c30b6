"""The native engine's parameters: found again from the steps that they make, kept, and used for `this`."""

from dataclasses import replace
from pathlib import Path

import pytest

from membound.costs.calibration import fitted
from membound.costs.deployment import deployment
from membound.costs.this_machine import ENGINE, Parameters, remember, remembered
from membound.scoreboard.this_machine import BATCHES, PROMPTS, Sample, fit_steps, predicted_s, saturation

SHIPPED = Parameters().applied(fitted())
ASKED = deployment("Qwen2.5-0.5B-Instruct", "l4", weights="int8", tp=1, engine=ENGINE, calibration=SHIPPED)
TRUE = Parameters(memory=1.2, math=1.4, unpack=25.0, fixed=1.5)


def test_parameters_are_found_again() -> None:
    machine = replace(ASKED, calibration=TRUE.applied(ASKED.calibration))
    shapes = [(rows, None) for rows in PROMPTS] + [(rows, 44) for rows in BATCHES]
    samples = [Sample(r, c, predicted_s(machine, Sample(r, c, 0.0))) for r, c in shapes]
    found = fit_steps(ASKED, samples)
    fitted = replace(ASKED, calibration=found.applied(ASKED.calibration))
    for sample in samples:
        assert predicted_s(fitted, sample) == pytest.approx(sample.seconds, rel=0.03)
        assert predicted_s(ASKED, sample) < sample.seconds
    assert saturation(fitted) == pytest.approx(saturation(machine), rel=0.03)


def test_parameters_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "machine" / "this.json"
    assert remembered(path) is None
    remember(TRUE, "smollm2", path)
    assert remembered(path) == TRUE
    path.write_text("{}")
    assert remembered(path) is None
