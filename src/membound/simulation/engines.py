"""How the engines that people run are set, unless told otherwise: budgets, limits, policies.

From their sources and documentation, 2025/26: vLLM V1 (`arg_utils.py`: budgets by memory and part), SGLang
(`server_args.py`), TensorRT-LLM (`trtllm-serve`, PyTorch backend).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from membound.costs.calibration import fitted
from membound.errors import InputError
from membound.hardware.accelerator import Accelerator

FITTED = ("vllm", "sglang", "trtllm")  # engines whose seconds before scheduling are in efficiencies.toml
BIG_MEMORY = 70 * 2**30  # bytes from which vLLM takes its larger budgets, except on A100


@dataclass(frozen=True)
class EngineSettings:
    """What an engine would be started with."""

    name: str
    max_step_tokens: int  # rows that one step computes at most
    max_running: int  # requests that run at once
    memory_fraction: float  # of the capacity, for weights and cache
    of_rest: bool = False  # the fraction is of what the weights leave, for the cache alone
    mixed: bool = True  # whether decoding goes on in the steps that read prompts
    prefix_reuse: bool = True
    server_s: float = 0.0  # HTTP, tokenizer and queues between processes, before a request is scheduled


def engine_settings(
    name: str,
    part: Accelerator,
    *,
    max_step_tokens: int | None = None,
    max_running: int | None = None,
    memory_fraction: float | None = None,
    prefix_reuse: bool = True,
) -> EngineSettings:
    """An engine's own settings on a part, but for what is given; `dataclasses.replace` changes the rest."""
    preset = _preset(name, part)
    budget = preset.max_step_tokens if max_step_tokens is None else max_step_tokens
    running = preset.max_running if max_running is None else max_running
    share = preset.memory_fraction if memory_fraction is None else memory_fraction
    if min(budget, running) < 1:
        raise InputError("--max-batched-tokens and --max-num-seqs must be at least 1")
    if max_running is None:
        running = min(running, budget)
    elif max_step_tokens is None:
        budget = max(running, budget)
    elif running > budget:
        raise InputError(
            f"--max-num-seqs {running} exceeds --max-batched-tokens {budget}: a step must have room for a"
            " token of each running request"
        )
    if not 0 < share <= 1:
        raise InputError(f"--memory-fraction must be above 0 and at most 1, it is {share}")
    return replace(
        preset, max_step_tokens=budget, max_running=running, memory_fraction=share, prefix_reuse=prefix_reuse
    )


def _preset(name: str, part: Accelerator) -> EngineSettings:
    server_s = fitted().engine(name).server_s if name in FITTED else 0.0
    if name == "vllm":
        memory = part.figures.get("memory_bytes", 0.0)
        if memory >= BIG_MEMORY and not part.id.startswith("a100"):
            return EngineSettings(name, 8192, 1024, 0.9, server_s=server_s)
        return EngineSettings(name, 2048, 256, 0.9, server_s=server_s)
    if name == "sglang":
        return EngineSettings(name, 8192, 2048, 0.88, mixed=False, server_s=server_s)
    if name == "trtllm":
        return EngineSettings(name, 8192, 2048, 0.9, of_rest=True, server_s=server_s)
    if name == "none":
        return EngineSettings(name, 8192, 1024, 1.0)
    if name == "membound":
        return EngineSettings(name, 512, 32, 1.0)  # as `membound serve` is set
    raise InputError(f"--engine {name}: one of vllm, sglang, trtllm, membound, none")
