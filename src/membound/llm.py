"""The Python interface: a model on this machine, in a few lines.

from membound import LLM, Sampling

llm = LLM("smollm2")
for piece in llm.stream("The memory wall is"):
    print(piece, end="", flush=True)

answers = llm.generate(["One plus one is", "The sky is"], Sampling(max_tokens=20))
print(answers[0].text, answers[0].ttft_s, answers[0].tpot_s)

answer = llm.chat([{"role": "user", "content": "Why is decoding slow?"}], Sampling(max_tokens=100))
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from membound.errors import InputError, RunError
from membound.executors.cache_size import cache_blocks
from membound.executors.native import KV_BYTES, NativeExecutor, default_isa, default_kv_type
from membound.hardware.cores import no_more_than_cores
from membound.models.pull import resolve_model
from membound.models.tokenizer import Tokenizer
from membound.models.weights import open_weights
from membound.serving.clock import Wall
from membound.serving.engine import Completion, Engine
from membound.serving.request import GREEDY, State
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler


class LLM:
    """A model, its tokenizer and an engine. Not for several threads at once."""

    def __init__(
        self,
        model: str | Path = "smollm2",
        *,
        context: int | None = None,
        kv_memory: int | None = None,
        max_running: int = 32,
        max_step_tokens: int = 512,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Open and pack `model`: a file, a folder, a pulled catalog name or hf:org/name.

        `context`: the most tokens of one sequence; by default the model's, or what fits. `kv_memory`: bytes
        of KV cache; by default what `max_running` sequences can fill, up to half of the free memory. With one
        or two of these, kernels are chosen that decode a single sequence fastest (`default_isa`).
        `max_step_tokens` bounds a step, and so how long a prompt can hold up the others. `progress` is told
        the bytes of weights that are packed. InputError where the model or the context cannot be served, or
        there are fewer cores than `threads`.
        """
        no_more_than_cores(threads)
        self.path = resolve_model(str(model))
        self.weights = open_weights(self.path)
        architecture = self.weights.architecture
        if context is not None and not 1 <= context <= architecture.context_length:
            raise InputError(
                f"a context of {context} tokens is not between 1 and the {architecture.context_length}"
                " that the model knows"
            )
        self.tokenizer = Tokenizer.of(self.weights)
        isa = default_isa(self.weights, max_running)
        kv_type = default_kv_type(self.weights, isa)
        blocks = cache_blocks(
            self.weights.graph.kv_bytes_per_token(KV_BYTES[kv_type]),
            context=context or architecture.context_length,
            sequences=max_running,
            asked_context=context,
            kv_memory=kv_memory,
            other_bytes=self.weights.nbytes,
        )
        self.executor = NativeExecutor(
            self.weights, blocks=blocks, threads=threads, isa=isa, kv_type=kv_type, progress=progress
        )
        self.engine = Engine(
            Scheduler(blocks, max_step_tokens=max(max_step_tokens, max_running), max_running=max_running),
            self.executor,
            Wall(),
            self.tokenizer,
            context=context or architecture.context_length,
            vocabulary=architecture.vocab,
        )

    def generate(
        self, prompts: Iterable[str | Sequence[int]], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """Complete all prompts together, texts or token ids; RunError if a step fails."""
        completions = self.engine.generate(prompts, sampling)
        for completion in completions:
            if completion.error is not None:
                raise RunError(completion.error)
        return completions

    def stream(self, prompt: str | Sequence[int], sampling: Sampling = GREEDY) -> Iterator[str]:
        """The completion in pieces as they come; leaving early aborts it."""
        request = self.engine.add(prompt, sampling)
        try:
            while request.state is not State.ENDED:
                for event in self.engine.step():
                    if event.request is request:
                        if event.error is not None:
                            raise RunError(event.error)
                        if event.text:
                            yield event.text
        finally:
            self.engine.abort(request)

    def chat(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling = GREEDY) -> Completion:
        """The model's answer to a conversation of {"role": …, "content": …}."""
        return self.generate([self.chat_ids(messages)], sampling)[0]

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The conversation as token ids, through the model's chat template: a prompt for `stream`."""
        return self.tokenizer.encode(self.tokenizer.chat(messages), special=True, add_bos=False)
