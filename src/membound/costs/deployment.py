"""A model on hardware: what is asked about, resolved once from the names that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from membound.costs.calibration import IDEAL, Calibration, fitted
from membound.costs.memory import RankMemory, rank_memories
from membound.costs.parallel import Layout, layout
from membound.costs.precisions import Precisions, precisions
from membound.costs.roofline import StepCost
from membound.costs.this_machine import ENGINE, parameters_file, remembered, unmeasured
from membound.errors import InputError
from membound.hardware.accelerator import Cluster
from membound.hardware.lookup import find, this_machine
from membound.models.architecture import Dimensions
from membound.models.families import build
from membound.models.names import dimensions_of


def default_engine(hardware: str) -> str:
    """Whose settings and overheads are meant where nobody says: here it is this engine that runs."""
    return ENGINE if hardware.lower() == "this" else "vllm"


@dataclass(frozen=True)
class Deployment:
    """A model in given precisions, laid out over a cluster, under an engine."""

    name: str  # of the model, as the user spelled it
    model: Dimensions
    cluster: Cluster
    layout: Layout
    precisions: Precisions
    engine: str = "vllm"
    skew: float | None = None  # of expert routing: popularity falls as rank^-skew; None is as fitted
    calibration: Calibration = field(default_factory=fitted)

    @cached_property
    def cost(self) -> StepCost:
        """What its steps cost: of one data-parallel copy."""
        return StepCost(
            self.model, self.cluster, self.precisions, self.layout, self.calibration, self.engine, self.skew
        )

    def memories(self, memory_fraction: float = 1.0, of_rest: bool = False) -> list[RankMemory]:
        """Of each pipeline stage; `memory_fraction` is how much of the capacity the engine may take, or with
        `of_rest` how much of what the weights leave.
        """
        return rank_memories(self.cost, memory_fraction, of_rest)


def deployment(
    model: str,
    hardware: str,
    *,
    tp: int | None = None,
    pp: int = 1,
    ep: int = 1,
    dp: int = 1,
    weights: str | None = None,
    kv: str | None = None,
    activations: str | None = None,
    engine: str = "vllm",
    skew: float | None = None,
    ideal: bool = False,
    calibration: Calibration | None = None,
    threads: int | None = None,
) -> Deployment:
    """From the options of a command; InputError for what cannot be.

    Without `tp` a counted node (`8xh100-sxm`) without a layout is used whole, tensor parallel. `threads`: of
    this machine, where it is the hardware; None is all cores.
    """
    if skew is not None and not 0 <= skew < float("inf"):
        raise InputError(f"--skew must be 0 or more, it is {skew}")
    known, cluster = dimensions_of(model), find(hardware, threads)
    if tp is None:
        alone = pp == ep == dp == 1
        tp = cluster.count if alone and cluster.count is not None else 1
    shape = layout(tp, pp, ep, dp)
    if cluster.count is not None and shape.ranks > cluster.count:
        raise InputError(f"{cluster.name} has {cluster.count} accelerators, the layout needs {shape.ranks}")
    formats = precisions(known, weights, kv, activations)
    if cluster.accelerator.id == "this":
        cluster = replace(cluster, accelerator=this_machine(_stored_bytes(known, formats), threads))
    if calibration is None:
        calibration = IDEAL if ideal else fitted()
        if cluster.accelerator.id == "this" and engine == ENGINE and not ideal:
            calibration = (remembered(parameters_file(threads)) or unmeasured()).applied(calibration)
    return Deployment(model, known, cluster, shape, formats, engine, skew, calibration)


def _stored_bytes(model: Dimensions, formats: Precisions) -> int:
    """Bytes of all weights."""
    bits = (formats.weight_format(p.name, p.shape).bits * p.elements for p in build(model).params())
    return round(sum(bits) / 8)
