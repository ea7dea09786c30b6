"""Perplexity of membound against llama.cpp: same file, same token ids, windows of 512, BOS as the file says.

    .venv/bin/python benchmarks/perplexity.py [MODEL ...]

Prints one line per model and exits with 1 where membound's perplexity is more than 0.5 % above llama.cpp's.
"""

import argparse
import math
import sys
from pathlib import Path

from workers import Worker

from membound.models.pull import pull
from membound.models.tokenizer import Tokenizer
from membound.models.weights import open_weights

TEXT = Path(__file__).parent / "data" / "us-constitution.txt"
MODELS = ("smollm2", "gemma3", "qwen0.5b")
WINDOW = 512
BOUND = 0.005


def windows(path: Path, count: int) -> list[list[int]]:
    """`count` windows of 512 token ids, each begun with BOS where the file asks for one."""
    tokenizer = Tokenizer.from_gguf(open_weights(path).metadata)
    with_bos = tokenizer.encode(TEXT.read_text(), special=False)
    begin = with_bos[:1] if tokenizer.bos_id is not None and with_bos[0] == tokenizer.bos_id else []
    ids = with_bos[len(begin) :]
    room = WINDOW - len(begin)
    return [begin + ids[i * room : (i + 1) * room] for i in range(min(count, len(ids) // room))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    worst = -math.inf
    for name in wanted.models:
        path = pull(name).path
        texts = windows(path, wanted.windows)
        perplexity = {}
        for engine in ("llama.cpp", "membound"):
            worker = Worker(engine, wanted.threads)
            worker.call("load", path=str(path), threads=wanted.threads)
            nll = [value for text in texts for value in worker.call("logprobs", tokens=text)["nll"]]
            perplexity[engine] = math.exp(sum(nll) / len(nll))
            worker.close()
        above = perplexity["membound"] / perplexity["llama.cpp"] - 1
        worst = max(worst, above)
        print(
            f"{name}: {len(texts)} windows of {WINDOW}, membound {perplexity['membound']:.4f},"
            f" llama.cpp {perplexity['llama.cpp']:.4f}, {above:+.3%}",
            flush=True,
        )
    if worst > BOUND:
        sys.exit(1)


if __name__ == "__main__":
    main()
