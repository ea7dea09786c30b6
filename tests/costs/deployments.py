"""Short names for what the tests of costs build over and over."""

from membound.costs.calibration import IDEAL, Calibration
from membound.costs.parallel import layout
from membound.costs.precisions import precisions
from membound.costs.roofline import StepCost
from membound.hardware.lookup import find
from membound.models.names import dimensions_of

LLAMA = "Llama-3.1-70B"


def deployment(
    model: str = LLAMA,
    hardware: str = "h100-sxm",
    calibration: Calibration = IDEAL,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    dp: int = 1,
    weights: str | None = None,
    kv: str | None = None,
    skew: float = 0.0,
) -> StepCost:
    """A model of the catalog on hardware, by default the datasheet roof alone."""
    known = dimensions_of(model)
    formats = precisions(known, weights, kv)
    return StepCost(known, find(hardware), formats, layout(tp, pp, ep, dp), calibration, skew=skew)
