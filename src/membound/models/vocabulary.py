"""The tokens of a model: their text, their kind, the bytes each stands for, and which of them end a reply."""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cache

from membound.errors import InputError


class Kind(IntEnum):
    """What a token is, with the numbers of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Files do not say which tokens end a reply, so llama.cpp knows them by their text; these are its names.
END_TEXTS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<|eom_id|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "</s>",
        "<eos>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
    }
)
# Padding and file separators of fill-in-the-middle models: what follows them belongs to another document.
SEPARATOR_TEXTS = frozenset(
    {
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|file_sep|>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
    }
)


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's table: each byte as a visible character, printable ones as themselves, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


class Vocabulary:
    """Tokens by id. `byte_level`: a normal token spells bytes in GPT-2's table; otherwise ▁ is a space."""

    def __init__(self, texts: Sequence[str], kinds: Sequence[int], *, byte_level: bool) -> None:
        self.texts = texts
        self.ids: dict[str, int] = {text: i for i, text in enumerate(texts)}
        self.byte_level = byte_level
        self.kinds = list(kinds)
        for text in (END_TEXTS | SEPARATOR_TEXTS) & self.ids.keys():
            self.kinds[self.ids[text]] = Kind.CONTROL  # converters sometimes store them as plain words
        self._not_normal = [i for i, kind in enumerate(self.kinds) if kind != 1]  # a few among many
        for token in self.of_kind(Kind.BYTE):
            if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", texts[token]):
                raise InputError(
                    f"token {token} of the vocabulary, {texts[token]!r}, is not a byte as <0x41> is"
                )

    def __len__(self) -> int:
        return len(self.texts)

    def of_kind(self, *kinds: Kind) -> Iterator[int]:
        """Ids of the tokens of these kinds, of which NORMAL is none."""
        return (i for i in self._not_normal if self.kinds[i] in kinds)

    def is_text(self, token: int) -> bool:
        """Whether the token shows in decoded text: control and unknown tokens do not."""
        return self.kinds[token] not in (Kind.CONTROL, Kind.UNKNOWN, Kind.UNUSED)

    def bytes_of(self, token: int) -> bytes:
        """The bytes a token stands for: a special token's own text, nothing for an unused one."""
        text, kind = self.texts[token], self.kinds[token]
        if kind == Kind.UNUSED:
            return b""
        if kind == Kind.BYTE:
            return bytes([int(text[3:5], 16)])  # <0x41>, as the constructor has checked
        if kind != Kind.NORMAL:
            return text.encode()
        if not self.byte_level:
            return text.replace("▁", " ").encode()
        table = byte_of_character()
        if all(character in table for character in text):
            return bytes(table[character] for character in text)
        return text.encode()

    def end_ids(self, named: Mapping[str, int | None]) -> frozenset[int]:
        """Tokens that end generation: those the file names, and those known by their text."""
        ends = {self.ids[text] for text in (END_TEXTS | SEPARATOR_TEXTS) & self.ids.keys()}
        if {"<|return|>", "<|call|>"} <= self.ids.keys() and "<|end|>" in self.ids:
            ends.discard(self.ids["<|end|>"])  # there it only ends a message inside a reply
        return frozenset(ends | {token for token in named.values() if token is not None})
