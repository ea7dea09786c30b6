"""What the simulator says of a load that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from membound.measuring.summary import Measured, summary_json
from membound.workloads.metrics import Summary
from membound.workloads.offered import Offered
from membound.workloads.slo import Slo


@dataclass(frozen=True)
class Target:
    """What the endpoint is said to run: a model on hardware, under an engine."""

    model: str
    hardware: str
    tp: int | None = None
    engine: str = "vllm"
    weights: str | None = None
    kv: str | None = None
    calibration: Path | None = None

    def check(self) -> None:
        """InputError for what cannot be, before anything is measured."""
        from membound.costs.deployment import deployment
        from membound.costs.endpoint_fit import read_factors

        if self.calibration is not None:
            read_factors(self.calibration)
        deployment(
            self.model, self.hardware, tp=self.tp, engine=self.engine, weights=self.weights, kv=self.kv
        )


@dataclass(frozen=True)
class Prediction:
    """Figures of the same load in virtual time; `interval` holds (low, high) of means and of throughput."""

    summaries: Mapping[str, Summary | None]
    output_tok_per_s: float
    slo_attainment: float
    goodput_req_per_s: float
    interval: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: summary_json(found) for name, found in self.summaries.items()},
            "output_tok_per_s": self.output_tok_per_s,
            "slo_attainment": self.slo_attainment,
            "goodput_req_per_s": self.goodput_req_per_s,
            "interval": self.interval,
        }


def predict(target: Target, offered: Offered, measured: Measured, slo: Slo) -> Prediction:
    """Simulate as many requests as were really sent; of a prompts file, with the lengths that came out."""
    from membound.commands.simulate import Question, answer

    records = measured.run.records
    offered = replace(offered, requests=len(records))
    if offered.sizes:
        done = (record for record in records if record.succeeded)
        sizes = ((r.prompt_tokens or r.asked_prompt_tokens, r.output_tokens) for r in done)
        offered = replace(offered, sizes=tuple(sizes))
    question = Question(
        target.model,
        target.hardware,
        tp=target.tp,
        weights=target.weights,
        kv=target.kv,
        engine=target.engine,
        slo=slo,
        calibration=target.calibration,
    )
    found = answer(question, offered.workload())
    result = found.result
    return Prediction(
        result.summaries(),
        result.output_tok_per_s,
        result.slo_attainment,
        result.goodput_req_per_s,
        found.bars.as_json(),
    )
