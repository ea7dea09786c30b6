"""A tokenizer from a Hugging Face folder: tokenizer.json, whole, as the `tokenizers` library reads it."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import tokenizers

from membound.errors import InputError
from membound.models.chat import ChatTemplate
from membound.models.tokenizer_parts import TokenizerParts, library_ids
from membound.models.vocabulary import Kind, Vocabulary


def folder_parts(folder: Path) -> TokenizerParts:
    """From tokenizer.json and, where they exist, its config, generation_config.json and the chat template."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{folder} has no tokenizer.json")
    description, config = _json(file), _json(folder / "tokenizer_config.json")
    try:
        library = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{file} cannot be read as a tokenizer: {error}") from None

    decoders = _steps(description.get("decoder"))
    byte_level = any(step["type"] == "ByteLevel" for step in decoders)
    by_text = library.get_vocab(with_added_tokens=True)
    texts = [""] * (max(by_text.values(), default=-1) + 1)
    kinds: list[int] = [Kind.UNUSED] * len(texts)  # ids may have gaps
    fallback = any(step["type"] == "ByteFallback" for step in decoders)
    for text, i in by_text.items():
        texts[i] = text
        kinds[i] = Kind.BYTE if fallback and re.fullmatch("<0x[0-9A-F]{2}>", text) else Kind.NORMAL
    for added in description.get("added_tokens", []):
        kinds[added["id"]] = Kind.CONTROL if added["special"] else Kind.USER_DEFINED
    vocabulary = Vocabulary(texts, kinds, byte_level=byte_level)

    named = {key: _token_text(value) for key, value in config.items() if key.endswith("_token")}
    names = {key: text for key, text in named.items() if text}
    bos, eos = by_text.get(names.get("bos_token", "")), by_text.get(names.get("eos_token", ""))
    around = library.encode("", add_special_tokens=True).ids
    source = _folder_template(folder, config)
    return TokenizerParts(
        vocabulary,
        _library_encode(library),
        bos,
        eos,
        add_bos=bos is not None and _flag(config.get("add_bos_token"), bos in around),
        add_eos=eos is not None and _flag(config.get("add_eos_token"), eos in around),
        strips_leading_space=any(
            (step["type"] == "Strip" and step["content"] == " " and step["start"] > 0)
            or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in decoders
        ),
        end_ids=vocabulary.end_ids({"eos": eos}) | _generation_ends(folder, len(texts)),
        template=ChatTemplate(source, {"bos_token": "", "eos_token": ""} | names) if source else None,
    )


def _library_encode(library: tokenizers.Tokenizer) -> Callable[[str, bool], list[int]]:
    lock = Lock()  # whether special tokens are parsed is a switch on the library's object

    def encode(text: str, special: bool) -> list[int]:
        with lock:
            library.encode_special_tokens = not special
            return library_ids(library, text)

    return encode


def _json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object")
    return content


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _flag(value: Any, default: bool) -> bool:
    """A switch that may be missing or null."""
    return default if value is None else bool(value)


def _token_text(value: Any) -> str | None:
    """A special token in tokenizer_config.json is a string or an object that holds one."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _generation_ends(folder: Path, size: int) -> frozenset[int]:
    ends = _json(folder / "generation_config.json").get("eos_token_id", [])
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in listed if isinstance(end, int) and 0 <= end < size)
