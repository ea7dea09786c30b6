"""membound: run, measure and predict LLM inference against the memory wall."""

import os
import sys
from typing import TYPE_CHECKING

from membound import _sources

if TYPE_CHECKING:
    from membound.llm import LLM
    from membound.serving.sampling import Sampling

__all__ = ["LLM", "Sampling"]

_finder = _sources.finder(__path__, plain=bool(os.environ.get("MEMBOUND_PLAIN")))
if _finder is not None:
    sys.meta_path.insert(0, _finder)


def __getattr__(name: str) -> object:
    """Import what is asked for, so that `import membound` stays light."""
    if name == "LLM":
        from membound.llm import LLM

        return LLM
    if name == "Sampling":
        from membound.serving.sampling import Sampling

        return Sampling
    raise AttributeError(f"module 'membound' has no attribute {name!r}")
