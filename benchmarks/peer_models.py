"""The files that are timed: four of the catalog, and three more made of them by llama.cpp's quantizer."""

from dataclasses import dataclass
from pathlib import Path

from environments import PEERS
from workers import Worker

from membound.models.pull import pull

FILES = PEERS / "models"


@dataclass(frozen=True)
class Requantized:
    """A file made from a catalog model: its matrices are all of one type."""

    source: str
    kind: int  # llama.cpp's number of the file type


CATALOG = ("smollm2", "gemma3", "qwen0.5b", "qwen1.5b")
# Q6_K takes rows of whole 256s, which of the four only the 1.5B has throughout.
MADE = {
    "smollm2-q8_0": Requantized("smollm2", 7),
    "qwen1.5b-q6_k": Requantized("qwen1.5b", 18),
    "smollm2-bf16": Requantized("smollm2", 32),
}
MODELS = (*CATALOG, *MADE)
LABELS = {
    "smollm2": "SmolLM2-135M Q4_1",
    "gemma3": "Gemma-3-270M Q4_K_M",
    "qwen0.5b": "Qwen2.5-Coder-0.5B Q4_K_M",
    "qwen1.5b": "Qwen2.5-Coder-1.5B Q4_K_M",
    "smollm2-q8_0": "SmolLM2-135M Q8_0",
    "qwen1.5b-q6_k": "Qwen2.5-Coder-1.5B Q6_K",
    "smollm2-bf16": "SmolLM2-135M BF16",
}


def gguf(name: str, threads: int) -> Path:
    """The file, pulled or made the first time."""
    if name not in MADE:
        return pull(name).path
    target, made = FILES / f"{name}.gguf", MADE[name]
    if not target.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        worker = Worker("llama.cpp", threads)
        worker.call(
            "quantize", path=str(pull(made.source).path), target=str(part), kind=made.kind, threads=threads
        )
        worker.close()
        part.rename(target)
    return target


def file_for(engine: str, name: str, threads: int) -> Path:
    """What the engine loads: the GGUF file, or for vLLM a folder of the same weights in bf16."""
    source = gguf(name, threads)
    if engine != "vllm":
        return source
    folder = FILES / f"{name}-vllm"
    if not folder.exists():
        part = FILES / f"{name}-part"
        worker = Worker("vllm", threads)
        try:
            worker.call("convert", path=str(source), folder=str(part))
        finally:
            worker.close()
        part.rename(folder)
    return folder
