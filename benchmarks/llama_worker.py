"""llama.cpp, driven through its C interface: one JSON command per line in, one JSON answer per line out.

Runs in an environment of its own that holds llama-cpp-python and NumPy, never membound. Commands:
    {"op": "load", "path": FILE, "threads": N}           -> {"load_s", "version"}
    {"op": "prefill", "tokens": [ids]}                   -> {"seconds"}
    {"op": "decode", "prompts": [[ids], ...], "steps": N} -> {"seconds": [per step]}
    {"op": "logprobs", "tokens": [ids]}                  -> {"nll": [per predicted token]}
    {"op": "tokenize", "text": TEXT}                     -> {"tokens"}
    {"op": "quantize", "path": FILE, "target": FILE, "kind": N, "threads": N}
    {"op": "memory"}                                     -> {"peak_bytes"}

The next token of a decode step is chosen by a NumPy argmax over the logits, which is quicker than
the library's own greedy sampler on large vocabularies, so the comparison favours llama.cpp.
"""

import ctypes
import time

import llama_cpp
import numpy as np
from worker_loop import peak, serve

CONTEXT = 8192
SEQUENCES = 32


class Worker:
    """One loaded model with one context."""

    def load(self, path: str, threads: int) -> dict[str, object]:
        start = time.perf_counter()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = CONTEXT, 2048, 512, SEQUENCES
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(2048, 0, SEQUENCES)
        return {"load_s": time.perf_counter() - start, "version": llama_cpp.__version__}

    def run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Decode rows of (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = logits
        status = llama_cpp.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status}")

    def logits(self, row: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.size,))

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def prefill(self, tokens: list[int]) -> dict[str, object]:
        self.clear()
        start = time.perf_counter()
        self.run([(token, i, 0, i == len(tokens) - 1) for i, token in enumerate(tokens)])
        self.logits(len(tokens) - 1).argmax()
        return {"seconds": time.perf_counter() - start}

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, object]:
        self.clear()
        for sequence, prompt in enumerate(prompts):
            self.run([(token, i, sequence, False) for i, token in enumerate(prompt)])
        following = [1 + sequence for sequence in range(len(prompts))]
        seconds = []
        for step in range(steps):
            start = time.perf_counter()
            self.run([(token, len(prompts[s]) + step, s, True) for s, token in enumerate(following)])
            following = [int(self.logits(row).argmax()) for row in range(len(prompts))]
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def logprobs(self, tokens: list[int]) -> dict[str, object]:
        """Negative log-likelihood in nats of each token after the first, in one window."""
        self.clear()
        self.run([(token, i, 0, True) for i, token in enumerate(tokens)])
        nll = []
        for i, target in enumerate(tokens[1:]):
            row = self.logits(i).astype(np.float64)
            top = row.max()
            nll.append(float(top + np.log(np.exp(row - top).sum()) - row[target]))
        return {"nll": nll}

    def tokenize(self, text: str) -> dict[str, object]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), room, len(room), False, False)
        return {"tokens": list(room[:count])}

    def quantize(self, path: str, target: str, kind: int, threads: int) -> dict[str, object]:
        """A file whose matrices are all of one kind (llama.cpp's number for it), from one of another."""
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, threads
        settings.allow_requantize = settings.pure = True
        status = llama_cpp.llama_model_quantize(path.encode(), target.encode(), settings)
        if status:
            raise RuntimeError(f"llama_model_quantize answered {status}")
        return {}


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Their log would mix with the answers."""


def main() -> None:
    quiet = llama_cpp.llama_log_callback(_ignore)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    worker = Worker()
    serve(
        {
            "load": worker.load,
            "prefill": worker.prefill,
            "decode": worker.decode,
            "logprobs": worker.logprobs,
            "tokenize": worker.tokenize,
            "quantize": worker.quantize,
            "memory": peak,
        }
    )


if __name__ == "__main__":
    main()
