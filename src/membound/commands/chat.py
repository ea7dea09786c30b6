"""membound chat: a conversation in the terminal.

The prefix cache keeps each turn from computing the last again.
"""

import sys

from membound.commands.run import milliseconds, open_model, stream
from membound.errors import InputError
from membound.serving.sampling import Sampling


def chat_command(
    model: str,
    sampling: Sampling,
    *,
    system: str | None,
    threads: int | None,
    kv_memory: str | None,
    context: int | None,
) -> None:
    llm = open_model(model, threads=threads, kv_memory=kv_memory, context=context, quiet=False, max_running=1)
    messages = [{"role": "system", "content": system}] if system else []
    while text := _asked():
        messages.append({"role": "user", "content": text})
        try:
            completion, _ = stream(llm, llm.chat_ids(messages), sampling, echo=True)
        except InputError as error:
            print(f"membound: {error}", file=sys.stderr)
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": completion.text})
        told = f"TTFT {milliseconds(completion.ttft_s)}, TPOT {milliseconds(completion.tpot_s)}"
        print(f"\n[{told}, {completion.hit_tokens} of {completion.prompt_tokens} prompt tokens cached]")


def _asked() -> str:
    """The next line; empty at the end of input."""
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return ""
