"""OpenVINO GenAI's continuous batching: the commands of llama_worker.py that time it.

Runs in an environment of its own that holds openvino-genai, never membound. Times are of whole engine steps.
"""

import time
from importlib.metadata import version

import numpy as np
import openvino
import openvino_genai
from worker_loop import peak, serve


class Worker:
    """One loaded model."""

    def load(self, path: str, threads: int) -> dict[str, object]:
        start = time.perf_counter()
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.cache_size = 1  # GB
        scheduling.max_num_batched_tokens = 2048
        scheduling.max_num_seqs = 32
        scheduling.enable_prefix_caching = False
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            path, scheduling, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        return {"load_s": time.perf_counter() - start, "version": version("openvino-genai")}

    def run(self, prompts: list[list[int]], tokens: int) -> list[float]:
        """Seconds of each step until every prompt has that many tokens."""
        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = tokens
        settings.ignore_eos, settings.do_sample = True, False
        handles = [
            self.pipeline.add_request(index, openvino.Tensor(np.array([prompt], np.int64)), settings)
            for index, prompt in enumerate(prompts)
        ]
        seconds = []
        while self.pipeline.has_non_finished_requests():
            start = time.perf_counter()
            self.pipeline.step()
            for handle in handles:
                if handle.can_read():
                    handle.read()
            seconds.append(time.perf_counter() - start)
        return seconds

    def prefill(self, tokens: list[int]) -> dict[str, object]:
        return {"seconds": sum(self.run([tokens], 1))}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, object]:
        return {"seconds": self.run(prompts, steps + 1)[-steps:]}


if __name__ == "__main__":
    worker = Worker()
    serve({"load": worker.load, "prefill": worker.prefill, "decode": worker.decode, "memory": peak})
