"""Mixture of experts: the operator that reads only the experts which a step's tokens chose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from membound.models.architecture import ExpertsDims
from membound.models.operators import BytesOf, Load, Parameter, Work, read_once


def expected_distinct(experts: int, active: int, rows: float, skew: float = 0.0) -> float:
    """Experts that `rows` tokens are expected to touch.

    Uniform routing: E · (1 - (1 - k/E)^rows). With `skew` s > 0 the popularity of expert i falls as i^-s,
    and a token misses each expert with the expert's own probability; skewed routing touches fewer.
    """
    missed = (n * (1.0 - chance) ** rows for chance, n in choice_chances(experts, active, skew))
    return float(experts - sum(missed))


@lru_cache(maxsize=256)
def choice_chances(experts: int, active: int, skew: float) -> tuple[tuple[float, int], ...]:
    """(chance that a token chooses an expert, how many experts have it); chances sum to `active`.

    Popularity falls as i^-skew. An expert that would be chosen more than always is chosen always, and what is
    left goes to the others.
    """
    if skew == 0.0:
        return ((active / experts, experts),)
    weights = [(i + 1) ** -skew for i in range(experts)]
    certain = 0  # the most popular ones, chosen by every token
    while certain < active and weights[certain] * (active - certain) >= sum(weights[certain:]):
        certain += 1
    scale = (active - certain) / sum(weights[certain:]) if certain < experts else 0.0
    always = ((1.0, certain),) if certain else ()
    return (*always, *((weight * scale, 1) for weight in weights[certain:]))


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer as one fused operation; `inputs` is the width of what enters and
    leaves.
    """

    dims: ExpertsDims
    inputs: int
    source: str
    target: str
    name: str = "ffn_exps"

    @property
    def held(self) -> int:
        """Experts whose weights are here."""
        return self.dims.experts if self.dims.held is None else self.dims.held

    def params(self) -> tuple[Parameter, ...]:
        """Of (experts, rows, columns); biases of (experts, rows)."""
        d = self.dims
        ins, outs = (self.held, d.width, self.inputs), (self.held, self.inputs, d.width)
        gate = (Parameter("ffn_gate_exps.weight", ins),) if d.gated else ()
        weights = (*gate, Parameter("ffn_up_exps.weight", ins), Parameter("ffn_down_exps.weight", outs))
        if not d.expert_bias:
            return weights
        return weights + tuple(Parameter(w.name.replace("weight", "bias"), w.shape[:2]) for w in weights)

    @property
    def active_params(self) -> float:
        """Parameters that one token multiplies."""
        return sum(p.elements for p in self.params()) * self.dims.active / self.held

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        """Each token multiplies `active` experts; each distinct expert is read once."""
        d = self.dims
        here = self.held / d.experts
        touched = expected_distinct(d.experts, d.active, load.rows, load.skew) * here
        return Work(
            flops=2 * load.rows * d.active * here * (3 if d.gated else 2) * d.width * self.inputs,
            weight_bytes=touched * read_once(load.rows, self.params(), bytes_of) / self.held,
        )
