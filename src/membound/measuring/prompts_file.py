"""Prompts of a user's file: one per line, JSON lines, or ShareGPT's conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.errors import InputError
from membound.measuring.sender import Prompt

ASKS, ANSWERS = ("human", "user"), ("gpt", "chatgpt", "assistant", "bing", "bard")


@dataclass(frozen=True)
class FilePrompt:
    """A prompt, and what is known of its answer: its length, or the recorded text."""

    prompt: Prompt
    output_tokens: int | None = None
    answer: str | None = None


def read_prompts(path: Path) -> list[FilePrompt]:
    """InputError where the file cannot be used.

    A `.json` file holds ShareGPT's list of `{"conversations": [{"from", "value"}, …]}`, of which the first
    question and answer count; `.jsonl` holds objects with `prompt` or `messages`, and `max_tokens` if they
    have their own; anything else is text, a prompt on each line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--prompts {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"--prompts {path}: not a text file") from None
    try:
        if path.suffix == ".json":
            found = [_of_sharegpt(entry) for entry in json.loads(text)]
        elif path.suffix == ".jsonl":
            found = [_of_object(json.loads(line)) for line in text.splitlines() if line.strip()]
        else:
            found = [FilePrompt(line) for line in text.splitlines() if line.strip()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"--prompts {path}: {type(error).__name__}: {error}") from None
    prompts = [prompt for prompt in found if prompt is not None]
    if not prompts:
        raise InputError(f"--prompts {path}: there are no prompts in it")
    return prompts


def _of_sharegpt(entry: Mapping[str, Any]) -> FilePrompt | None:
    """None where a conversation does not begin with a question and its answer."""
    turns = entry.get("conversations", entry.get("conversation", []))
    if len(turns) < 2 or turns[0]["from"] not in ASKS or turns[1]["from"] not in ANSWERS:
        return None
    if not turns[0]["value"] or not turns[1]["value"]:
        return None
    return FilePrompt(turns[0]["value"], answer=turns[1]["value"])


def _of_object(entry: Mapping[str, Any]) -> FilePrompt:
    prompt = entry.get("messages", entry.get("prompt"))
    if not prompt or not isinstance(prompt, str | list):
        raise ValueError("each line must be an object with prompt or messages")
    tokens = entry.get("max_tokens", entry.get("max_completion_tokens", entry.get("output_tokens")))
    return FilePrompt(prompt, None if tokens is None else int(tokens))
