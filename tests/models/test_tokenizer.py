"""What a tokenizer promises beside its ids: edges, special tokens, round trips, folders, refusals."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.errors import InputError
from membound.models.detokenize import Detokenizer
from membound.models.pretokenizers import names, pre_tokenizer
from membound.models.specials import SpecialTokens
from membound.models.tokenizer import Tokenizer
from membound.serving.text import Codec, Text
from tests.golden.vocabularies import byte_level, sentencepiece

any_text = st.text(st.characters(codec="utf-8"), max_size=60)


@cache
def small(kind: str) -> Tokenizer:
    return Tokenizer.from_gguf(byte_level("qwen2") if kind == "bytes" else sentencepiece(kind == "spm space"))


@settings(deadline=None, max_examples=60)  # the first call builds a tokenizer
@given(any_text)
def test_byte_level_text_comes_back(text: str) -> None:
    tokenizer = small("bytes")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None, max_examples=60)  # the first call builds a tokenizer
@given(any_text.filter(lambda text: "▁" not in text and "INST]" not in text))
@pytest.mark.parametrize("kind", ["spm space", "spm no space"])
def test_sentencepiece_text_comes_back(kind: str, text: str) -> None:
    tokenizer = small(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None, max_examples=60)  # the first call builds a tokenizer
@given(st.lists(st.integers(0, 500), max_size=30), st.lists(st.integers(0, 500), max_size=30))
@pytest.mark.parametrize("kind", ["bytes", "spm space", "spm no space"])
def test_streaming_continues_the_prompt(kind: str, prompt: list[int], tokens: list[int]) -> None:
    tokenizer = small(kind)
    before = Detokenizer(tokenizer)
    shown = "".join(before.push(token) for token in prompt)
    stream = Detokenizer(tokenizer, prompt)
    shown += "".join(stream.push(token) for token in tokens) + stream.finish()
    assert shown == tokenizer.decode(prompt + tokens)


def test_the_engine_can_use_it() -> None:
    codec: Codec = small("bytes")  # the type checker's half of the test
    assert codec.end_ids == small("bytes").end_ids
    prompt = codec.encode("Größe: 1")
    text = Text(codec, prompt, ["STOP"])
    assert "".join(text.push(token) for token in codec.encode(" 2é S STOP no")) + text.finish() == " 2é S "
    assert text.stopped


def test_bos_and_eos_stand_where_the_file_says() -> None:
    metadata = byte_level("qwen2")
    bos, eos = metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    plain = Tokenizer.from_gguf(metadata)
    inner = plain.encode("Hi")
    assert plain.encode("Hi", add_bos=True) == [bos, *inner]
    around = Tokenizer.from_gguf(
        metadata | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    )
    assert around.encode("Hi") == [bos, *inner, eos]
    assert around.encode("Hi", add_bos=False) == inner
    assert around.encode("Hi", add_bos=True) == [bos, *inner]
    assert around.decode([bos, *inner, eos]) == "Hi"
    del metadata["tokenizer.ggml.bos_token_id"]
    with pytest.raises(InputError, match="no BOS"):
        Tokenizer.from_gguf(metadata).encode("Hi", add_bos=True)


def test_plain_text_never_becomes_a_control_token() -> None:
    metadata = sentencepiece(add_space_prefix=False)
    for key, more in (("tokens", ["<s", "s>"]), ("scores", [9.0, 8.0]), ("token_type", [1, 1])):
        metadata[f"tokenizer.ggml.{key}"] += more
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.bos_id not in tokenizer.encode("<s>", add_bos=False)
    assert tokenizer.encode("<s>", special=True, add_bos=False) == [tokenizer.bos_id]
    assert tokenizer.decode(tokenizer.encode("a<s>", special=True)) == "a"
    assert tokenizer.token_bytes(1) == b"<s>"


def test_surrogates_are_joined_or_replaced() -> None:
    tokenizer = small("bytes")
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00 \ud83d!")) == "😀 \N{REPLACEMENT CHARACTER}!"


def test_the_longest_special_token_at_the_first_place_wins() -> None:
    found = SpecialTokens({"<a>": 1, "<a><b>": 2, "b": 3, "\n": 4, "\n\n\n": 5})
    assert list(found.split("x<a><b><a>\n\n\n\nab<")) == ["x", 2, 1, 5, 4, "a", 3, "<"]
    assert list(SpecialTokens({}).split("x")) == ["x"]
    assert list(found.split("")) == []


def test_every_known_pre_tokenizer_compiles() -> None:
    for name in names():
        tokenizer = Tokenizer.from_gguf(byte_level("gpt-2") | {"tokenizer.ggml.pre": name})
        assert tokenizer.decode(tokenizer.encode("It's 1234 µm!\n")) == "It's 1234 µm!\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pre": "nonesuch"}, "'nonesuch' is not supported; known: .*llama-bpe"),
        ({"model": "bert"}, "'bert' is not supported"),
        ({"tokens": []}, "no vocabulary"),
        ({"token_type": [1]}, "token_type has 1 entries for"),
        ({"merges": ["q zzz"]}, "merges do not fit"),
        ({"model": "llama"}, "scores has 0 entries"),
        ({"model": "llama", "tokens": ["<0x4>"], "token_type": [6]}, "not a byte"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    metadata = byte_level("qwen2") | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(InputError, match=reason) as raised:
        Tokenizer.from_gguf(metadata)
    assert "\n" not in str(raised.value)


def test_a_token_id_outside_the_vocabulary_is_refused() -> None:
    for token in (-1, small("bytes").vocab_size):
        with pytest.raises(InputError, match="outside the vocabulary"):
            small("bytes").decode([token])


def test_without_a_template_chat_says_what_to_do() -> None:
    talk = [{"role": "user", "content": "Hi"}]
    with pytest.raises(InputError, match="--raw"):
        small("bytes").chat(talk)
    metadata = byte_level("qwen2") | {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    }
    assert Tokenizer.from_gguf(metadata).chat(talk) == "<s>Hi</s>"
    gemma = Tokenizer.from_gguf(sentencepiece(False) | {"general.architecture": "gemma3"})
    assert gemma.has_chat_template
    assert gemma.chat(talk).startswith("<s><start_of_turn>user\nHi<end_of_turn>\n")


def write_folder(folder: Path, library: tokenizers.Tokenizer, config: dict[str, Any]) -> Path:
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_byte_level_folder(tmp_path: Path) -> None:
    metadata = byte_level("qwen2")
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={text: i for i, text in enumerate(metadata["tokenizer.ggml.tokens"])},
            merges=[tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]],
        )
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(pre_tokenizer("qwen2").patterns[0]), behavior="isolated"
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>", "<|im_end|>", "<more>"])
    library.add_tokens(["<tool>"])
    folder = write_folder(
        tmp_path,
        library,
        {
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}],
        },
    )
    more = library.token_to_id("<more>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [more, 10**9]}))
    ours, gguf = Tokenizer.from_folder(folder), Tokenizer.from_gguf(metadata)
    text = "It's <|im_end|> 12 größe 😀 <tool>"
    special = ours.encode(text, special=True, add_bos=False)
    assert special == library.encode(text).ids
    assert ours.encode(text, add_bos=True)[0] == ours.bos_id
    assert ours.encode("It's <|im_end|> 12", add_bos=False) == gguf.encode("It's <|im_end|> 12")
    assert ours.decode(special) == library.decode(special, skip_special_tokens=True)
    assert {more, ours.eos_id, library.token_to_id("<|im_end|>")} <= ours.end_ids
    assert 10**9 not in ours.end_ids
    assert ours.chat([{"role": "user", "content": "Hi"}]) == "<s>Hi"
    (folder / "chat_template.jinja").write_text("{{ messages[0].role }}")
    assert Tokenizer.from_folder(folder).chat([{"role": "user", "content": "Hi"}]) == "user"


def test_a_sentencepiece_folder(tmp_path: Path) -> None:
    bytes_ = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pieces = ["▁", "a", "b", "▁a", "ab", "▁ab"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | bytes_
    vocabulary |= {piece: 259 + i for i, piece in enumerate(pieces)}
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary,
            merges=[("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁a", "b")],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    library.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    library.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    ours = Tokenizer.from_folder(
        write_folder(tmp_path, library, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": None})
    )
    for text in ("ab ab", " ab", "é 😀 a", ""):
        assert ours.encode(text) == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.token_bytes(3 + 0xC3) == b"\xc3"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (None, "", "no tokenizer.json"),
        ("tokenizer.json", "{", "not JSON"),
        ("tokenizer.json", "{}", "cannot be read as a tokenizer"),
        ("tokenizer.json", "[]", "not a JSON object"),
    ],
)
def test_a_folder_that_is_no_tokenizer(tmp_path: Path, file: str | None, content: str, reason: str) -> None:
    if file:
        (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=reason):
        Tokenizer.from_folder(tmp_path)
