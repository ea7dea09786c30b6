"""Token ids, pieces and ends against llama.cpp's, which tests/golden/make_tokens.py wrote down."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from membound.models.gguf_file import read_gguf
from membound.models.packaged import PACKAGED
from membound.models.tokenizer import Tokenizer
from tests.golden.texts import TEXTS
from tests.golden.vocabularies import byte_level, sentencepiece
from tests.real_models import real_model

GOLDEN: Mapping[str, Any] = json.loads(
    (Path(__file__).parent.parent / "golden" / "tokens.json").read_text(encoding="utf-8")
)


@cache
def tokenizer(name: str) -> Tokenizer:
    if name in PACKAGED:
        return Tokenizer.from_gguf(read_gguf(real_model(name)).metadata)
    if name.startswith("spm"):
        return Tokenizer.from_gguf(sentencepiece(add_space_prefix=name == "spm space"))
    return Tokenizer.from_gguf(byte_level(name.removeprefix("pre ")))


def comparable(name: str, text: str) -> bool:
    """llama.cpp reads Tekken's pattern without its combining marks (\\p{M}); the model's own has them."""
    return name != "pre tekken" or not any(
        unicodedata.category(character) in ("Mn", "Mc") for character in text
    )


every_tokenizer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.models] if name in PACKAGED else []) for name in GOLDEN]
)


@every_tokenizer
def test_ids_equal_llama_cpp(name: str) -> None:
    ours, golden = tokenizer(name), GOLDEN[name]
    assert len(golden["plain"]) == len(golden["special"]) == len(TEXTS)
    for text, plain, special in zip(TEXTS, golden["plain"], golden["special"], strict=True):
        if comparable(name, text):
            assert ours.encode(text, add_bos=False) == plain, text
            assert ours.encode(text, special=True) == special, text


@every_tokenizer
def test_pieces_and_ends_equal_llama_cpp(name: str) -> None:
    ours, golden = tokenizer(name), GOLDEN[name]
    assert (ours.bos_id, ours.eos_id, sorted(ours.end_ids)) == (
        golden["bos_id"],
        golden["eos_id"],
        golden["end_ids"],
    )
    pieces = hashlib.sha256()
    for token in range(ours.vocab_size):
        piece = ours.text_bytes(token)
        pieces.update(len(piece).to_bytes(4, "little") + piece)
    assert pieces.hexdigest() == golden["pieces_sha256"]


@every_tokenizer
def test_texts_come_back(name: str) -> None:
    ours = tokenizer(name)
    for text in TEXTS:
        if ours.strips_leading_space and any(mark in text for mark in ("[INST]", "▁")):
            continue  # each stretch after a special token gets a space of its own, and ▁ is a space
        if "▁" in text and name in ("gemma3", "spm no space"):
            text = text.replace("▁", " ")
        ids = ours.encode(text, add_bos=False)
        assert ours.decode(ids) == text
