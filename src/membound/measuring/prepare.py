"""Before a run: which model is served, whether it takes what will be asked, and who counts its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from membound.errors import InputError, RunError
from membound.measuring.counting import counter, load_tokenizer
from membound.measuring.http import Pool
from membound.measuring.prompts import Count, Given, Vocabulary, vocabulary
from membound.measuring.prompts_file import FilePrompt
from membound.measuring.record import Record
from membound.measuring.sender import Asking, Sender, served_models
from membound.workloads.lengths import Size


@dataclass(frozen=True)
class Prepared:
    """What a job needs of the endpoint. `sizes` are of a file's prompts, 0 tokens where unknown."""

    asking: Asking
    prompts: Vocabulary | Given
    counted_by: str
    sizes: tuple[Size, ...] = ()


async def prepare(
    pool: Pool,
    asking: Asking,
    *,
    tokenizer: str | None = None,
    prompts: Sequence[FilePrompt] = (),
    output_tokens: int = 128,
) -> Prepared:
    """Ask the endpoint; RunError says what it refuses. An empty model name takes the one that is served."""
    if not asking.model:
        asking = replace(asking, model=_only(await served_models(pool), pool))
    await _try(pool, asking)
    count, how = await counter(pool, asking, load_tokenizer(tokenizer) if tokenizer else None)
    if not prompts:
        return Prepared(asking, await vocabulary(count, chat=asking.chat), how)
    if not asking.chat and any(not isinstance(prompt.prompt, str) for prompt in prompts):
        raise InputError("--prompts has messages: they need --chat")
    sizes = []
    around = await count("the") - 1
    for prompt in prompts:
        sizes.append(await _size(prompt, count if how != "usage" else None, around, output_tokens))
    return Prepared(asking, Given([prompt.prompt for prompt in prompts]), how, tuple(sizes))


def _only(models: Sequence[str], pool: Pool) -> str:
    if len(models) != 1:
        served = ", ".join(models) or "none"
        raise InputError(f"{pool.endpoint.url} serves {served}: choose one with --served-model")
    return models[0]


async def _try(pool: Pool, asking: Asking) -> None:
    """One short request as all will be, so that a refusal is told before the run."""
    record = Record(0, 0.0, 0.0, 0.0, 0, 2)
    sender = Sender(pool, asking)
    await sender.send(record, sender.body("the", 2))
    if record.error in (None, "empty"):
        return
    hint = ""
    if record.error == "status 404" and asking.model not in record.message:
        hint = f" (is there a {asking.path}? --chat chooses chat completions)"
    elif record.error == "status 401":
        hint = " (--api-key)"
    elif record.error == "status 400" and asking.ignore_eos:
        hint = " (a server without ignore_eos takes --no-ignore-eos)"
    raise RunError(f"{pool.endpoint.url}{asking.path}: {record.error}: {record.message}{hint}")


async def _size(prompt: FilePrompt, count: Count | None, around: int, output_tokens: int) -> Size:
    """Prompt tokens by the counter if asking costs little, and the output: as given, as recorded, as told.

    `around` is what the endpoint adds to each prompt.
    """
    text = prompt.prompt if isinstance(prompt.prompt, str) else None
    prompt_tokens = await count(text) if count is not None and text is not None else 0
    if prompt.output_tokens is not None:
        return prompt_tokens, prompt.output_tokens
    if prompt.answer is not None and count is not None:
        return prompt_tokens, max(1, await count(prompt.answer) - around)
    return prompt_tokens, output_tokens
