"""Who counts tokens: the endpoint's /tokenize, a tokenizer at hand, or the usage of short requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from membound.errors import InputError, RunError
from membound.measuring.http import Pool
from membound.measuring.prompts import Count
from membound.measuring.record import Record
from membound.measuring.sender import Asking, Prompt, Sender, get_json, messages_of
from membound.models.tokenizer import Tokenizer


def by_endpoint(pool: Pool, asking: Asking) -> Count:
    """By POST /tokenize, as vLLM and membound have it."""

    async def count(prompt: Prompt) -> int:
        body: dict[str, Any] = {"model": asking.model}
        if asking.chat:
            body |= {"messages": messages_of(prompt), "add_generation_prompt": True}
        else:
            body["prompt"] = prompt
        answer = await get_json(pool, "/tokenize", body)
        try:
            return int(answer["count"] if "count" in answer else len(answer["tokens"]))
        except (TypeError, KeyError, ValueError):
            raise RunError(f"{pool.endpoint.url}/tokenize: an answer without count or tokens") from None

    return count


def by_usage(pool: Pool, asking: Asking) -> Count:
    """By the prompt tokens that the endpoint reports for a request of one token."""

    async def count(prompt: Prompt) -> int:
        record = Record(0, 0.0, 0.0, 0.0, 0, 1)
        sender = Sender(pool, asking)
        await sender.send(record, sender.body(prompt, 1))
        if record.error not in (None, "empty"):
            raise RunError(f"{pool.endpoint.url}{asking.path}: {record.error}: {record.message}")
        if record.prompt_tokens is None:
            raise RunError(
                f"{pool.endpoint.url} tells neither /tokenize nor usage, so prompt lengths are unknown: give "
                "--tokenizer or --prompts"
            )
        return record.prompt_tokens

    return count


def by_tokenizer(tokenizer: Tokenizer, *, chat: bool) -> Count:
    """By the model's own files."""

    async def count(prompt: Prompt) -> int:
        if chat:
            text = tokenizer.chat(messages_of(prompt))
            return len(tokenizer.encode(text, special=True, add_bos=False))
        assert isinstance(prompt, str)
        return len(tokenizer.encode(prompt))

    return count


async def counter(pool: Pool, asking: Asking, tokenizer: Tokenizer | None) -> tuple[Count, str]:
    """The best there is, and its name."""
    if tokenizer is not None:
        return by_tokenizer(tokenizer, chat=asking.chat), "tokenizer"
    count = by_endpoint(pool, asking)
    try:
        await count("the")
    except RunError:
        return by_usage(pool, asking), "usage"
    return count, "/tokenize"


def load_tokenizer(path: str) -> Tokenizer:
    """From a GGUF file or a folder with tokenizer.json."""
    found = Path(path)
    if found.is_dir():
        return Tokenizer.from_folder(found)
    if found.suffix.lower() == ".gguf" and found.is_file():
        from membound.models.weights import open_weights

        return Tokenizer.from_gguf(open_weights(found).metadata)
    raise InputError(f"--tokenizer {path}: give a GGUF file or a folder with tokenizer.json")


def plain_count(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Tokens of an answer's text."""
    return lambda text: len(tokenizer.encode(text, add_bos=False))
