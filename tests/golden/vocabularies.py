"""Small vocabularies, built from the texts, for the tokenizers of which no real file is at hand."""

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

from membound.models.vocabulary import Kind, byte_of_character
from tests.golden.texts import TEXTS

SPECIAL = ("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|im_end|>", "<|eot_id|>")


def byte_level(pre: str) -> dict[str, Any]:
    """A byte-level vocabulary whose merges reach over every boundary: only `pre` keeps words apart."""
    tokens, merges = _byte_pairs()
    # whole words with no merge that makes them: only rules that ignore merges find these
    tokens = list(dict.fromkeys([*tokens, "Ġjumps", "assistant", "1234"]))
    kinds = [Kind.NORMAL] * len(tokens) + [Kind.CONTROL] * len(SPECIAL)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *SPECIAL],
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


@cache
def _byte_pairs() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-pair training on the texts, uncut."""
    character = {byte: text for text, byte in byte_of_character().items()}
    tokens = [character[byte] for byte in range(256)]
    merges: list[str] = []
    words = [[character[byte] for byte in text.encode("utf-8")] for text in TEXTS]
    for _ in range(1200):
        pairs = Counter(pair for word in words for pair in pairwise(word) if "".join(pair) not in SPECIAL)
        (left, right), count = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if count < 2:
            break
        merges.append(f"{left} {right}")
        tokens.append(left + right)
        words = [_merged(word, left, right) for word in words]
    return tokens, merges


def _merged(word: list[str], left: str, right: str) -> list[str]:
    done: list[str] = []
    for symbol in word:
        if done and done[-1] == left and symbol == right:
            done[-1] = left + right
        else:
            done.append(symbol)
    return done


def sentencepiece(add_space_prefix: bool) -> dict[str, Any]:
    """As of Llama 2: control tokens, bytes, then pieces, many of one score so that their place decides.

    No two pieces make a control token: llama.cpp would merge them into it, SentencePiece would not.
    """
    pieces = Counter(
        text[start : start + length]
        for text in (text.replace(" ", "▁") for text in TEXTS)
        for length in range(1, 7)
        for start in range(len(text) - length + 1)
        if "\x00" not in text[start : start + length]
    )
    chosen = sorted((piece for piece, count in pieces.items() if count > 2), key=lambda p: (-pieces[p], p))
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    halves = {text[:cut] for text in SPECIAL for cut in range(2, len(text) + 1)} | {"/s>", "s>"}
    normal = [piece for piece in chosen if piece not in halves and piece not in bytes_]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *normal, "[INST]", "[/INST]"]
    kinds = [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL, *[Kind.BYTE] * 256, *[Kind.NORMAL] * len(normal)]
    kinds += [Kind.USER_DEFINED] * 2
    scores = [0.0] * 259 + [-float(rank // 5) for rank in range(len(normal))] + [0.0] * 2
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": add_space_prefix,
    }
