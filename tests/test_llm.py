"""The Python interface on the smallest real model, and what it refuses."""

import subprocess
import sys

import pytest

from membound import LLM, Sampling
from membound.errors import InputError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("smollm2", context=512, max_running=4)


def test_streams_what_it_generates(llm: LLM) -> None:
    sampling = Sampling(max_tokens=12)
    whole = llm.generate(["The capital of France is"], sampling)[0]
    assert "Paris" in whole.text
    assert "".join(llm.stream("The capital of France is", sampling)) == whole.text
    assert whole.ttft_s is not None
    assert whole.ttft_s > 0


def test_together_as_alone(llm: LLM) -> None:
    prompts = ["One two three", "def main():", "The sky is", "Once upon a time", "Water boils at", "A"]
    sampling = Sampling(max_tokens=16, temperature=0.8, seed=5)
    together = [completion.token_ids for completion in llm.generate(prompts, sampling)]
    assert together == [llm.generate([prompt], sampling)[0].token_ids for prompt in prompts]


def test_chat_ends_by_itself(llm: LLM) -> None:
    answer = llm.chat([{"role": "user", "content": "Say hi."}], Sampling(max_tokens=100))
    assert answer.finish_reason == "stop"
    assert "<|im_end|>" not in answer.text


def test_leaving_a_stream_frees_its_blocks(llm: LLM) -> None:
    pieces = llm.stream("Count to a hundred: one, two,", Sampling(max_tokens=100, ignore_eos=True))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    llm.engine.step()
    assert llm.engine.scheduler.pool.free == llm.engine.scheduler.pool.blocks


def test_what_does_not_fit_is_refused(llm: LLM) -> None:
    with pytest.raises(InputError, match="the context 512"):
        llm.generate([[1] * 600])
    with pytest.raises(InputError, match="that the model knows"):
        LLM("smollm2", context=10**9)
    with pytest.raises(InputError, match="lower the context or give the cache more memory"):
        LLM("smollm2", context=2048, kv_memory=1_000_000)
    with pytest.raises(InputError, match="threads = 1025: this process may use"):
        LLM("smollm2", threads=1025)
    with pytest.raises(InputError, match="more than the"):
        LLM("smollm2", kv_memory=10**15)


def test_import_is_light() -> None:
    code = "import sys, membound; print(sorted({'numpy', 'gguf', 'tokenizers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
