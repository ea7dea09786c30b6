"""What the simulator says of a load that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from membound.measuring.summary import Measured, summary_json
from membound.workloads.metrics import Summary
from membound.workloads.offered import Offered
from membound.workloads.slo import Slo

if TYPE_CHECKING:
    from membound.costs.deployment import Deployment


@dataclass(frozen=True)
class Target:
    """What the endpoint is said to run: a model on hardware, under an engine."""

    model: str
    hardware: str
    tp: int | None = None
    engine: str = "vllm"
    weights: str | None = None
    kv: str | None = None

    def deployment(self) -> Deployment:
        from membound.costs.deployment import deployment

        return deployment(
            self.model, self.hardware, tp=self.tp, engine=self.engine, weights=self.weights, kv=self.kv
        )


@dataclass(frozen=True)
class Prediction:
    """Figures of the same load in virtual time."""

    summaries: Mapping[str, Summary | None]
    output_tok_per_s: float
    slo_attainment: float
    goodput_req_per_s: float


def predict(target: Target, offered: Offered, measured: Measured, slo: Slo) -> Prediction:
    """Simulate as many requests as were really sent; of a prompts file, with the lengths that came out."""
    from membound.simulation.result import Slo as Limits
    from membound.simulation.simulate import simulate

    records = measured.run.records
    offered = replace(offered, requests=len(records))
    if offered.sizes:
        done = (record for record in records if record.succeeded)
        sizes = ((r.prompt_tokens or r.asked_prompt_tokens, r.output_tokens) for r in done)
        offered = replace(offered, sizes=tuple(sizes))
    limits = {name: limit for name, limit in zip(Slo.__slots__, _limits(slo), strict=True) if limit < 1e300}
    found = simulate(target.deployment(), offered.workload(), slo=Limits(**limits))
    return Prediction(
        found.summaries(), found.output_tok_per_s, found.slo_attainment, found.goodput_req_per_s
    )


def _limits(slo: Slo) -> tuple[float, float, float]:
    return slo.ttft_s, slo.tpot_s, slo.e2e_s


def predicted_json(prediction: Prediction) -> dict[str, Any]:
    return {
        **{name: summary_json(found) for name, found in prediction.summaries.items()},
        "output_tok_per_s": prediction.output_tok_per_s,
        "slo_attainment": prediction.slo_attainment,
        "goodput_req_per_s": prediction.goodput_req_per_s,
    }
