"""What comes of one request, gathered for a body or turned into the pieces of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from membound.server.ledger import Entry
from membound.server.served import TextCodec
from membound.serving.engine import Event
from membound.serving.sampling import TokenLogprobs


@dataclass
class Gathered:
    """A whole choice."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str = "abort"

    def take(self, event: Event) -> None:
        self.text += event.text
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs or ()
        if event.finish_reason is not None:
            self.finish_reason = event.finish_reason


def usage_of(entries: Sequence[Entry]) -> dict[str, Any]:
    """OpenAI's usage object, of all choices together."""
    prompt = sum(entry.prompt_tokens for entry in entries)
    output = sum(entry.output_tokens for entry in entries)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(entry.cached_tokens for entry in entries)},
    }


def shown_token(text: TextCodec, token: int) -> str:
    """A token by itself; half a character shows as U+FFFD."""
    return text.token_bytes(token).decode("utf-8", "replace")


def _shown(
    text: TextCodec, token_ids: Sequence[int], found: Sequence[TokenLogprobs]
) -> list[tuple[int, TokenLogprobs]]:
    """Without control tokens, the end above all: they are not in the text either."""
    pairs = zip(token_ids, found, strict=True)
    return [(token, each) for token, each in pairs if text.text_bytes(token)]


def chat_logprobs(
    text: TextCodec, token_ids: Sequence[int], found: Sequence[TokenLogprobs]
) -> dict[str, Any]:
    """As chat completions have them."""

    def item(token: int, logprob: float) -> dict[str, Any]:
        raw = text.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    content = [
        {**item(token, each.chosen), "top_logprobs": [item(*pair) for pair in each.top]}
        for token, each in _shown(text, token_ids, found)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    text: TextCodec, token_ids: Sequence[int], found: Sequence[TokenLogprobs], offset: int
) -> tuple[dict[str, Any], int]:
    """As completions have them, and where the next token's text begins; `offset`: where this one's does."""
    shown = _shown(text, token_ids, found)
    tokens = [shown_token(text, token) for token, _ in shown]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    tops = []
    for token, (_, each) in zip(tokens, shown, strict=True):
        top = {shown_token(text, id): logprob for id, logprob in each.top}
        top.setdefault(token, each.chosen)
        tops.append(top)
    logprobs = {
        "tokens": tokens,
        "token_logprobs": [each.chosen for _, each in shown],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
    return logprobs, offset
