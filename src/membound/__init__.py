"""membound: run, measure and predict LLM inference against the memory wall."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membound.llm import LLM
    from membound.serving.sampling import Sampling

__all__ = ["LLM", "Sampling"]


def __getattr__(name: str) -> object:
    """Import what is asked for, so that `import membound` stays light."""
    if name == "LLM":
        from membound.llm import LLM

        return LLM
    if name == "Sampling":
        from membound.serving.sampling import Sampling

        return Sampling
    raise AttributeError(f"module 'membound' has no attribute {name!r}")
