"""Weights: what is opened is the model that was written, and what cannot be opened is refused by name."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from membound.errors import InputError
from membound.executors.reference import ReferenceModel
from membound.models.rope import (
    FrequencyDivisors,
    LinearScaling,
    Llama3Scaling,
    Rope,
    Scaling,
    YarnScaling,
    yarn_magnitude,
)
from membound.models.weights import SUPPORTED, open_weights
from tests.small_models import (
    FAMILIES,
    RANDOM_BLOCKS,
    add_value,
    random_tensors,
    small_architecture,
    write_gguf,
    write_safetensors,
)

TOKENS = [5, 17, 17, 250, 0, 3, 99, 42, 7, 7, 8, 1, 120, 33, 2, 64, 31, 77]


YARN = YarnScaling(factor=4.0, original_context=64, amplitude=yarn_magnitude(4.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", [None, LinearScaling(4.0), YARN])
def test_both_files_give_one_model(family: str, scaling: Scaling | None, tmp_path: Path) -> None:
    """GGUF differs in form: permuted rows, rope of neighbours, norms with one added, other names and keys."""
    architecture = small_architecture(family, scaling=scaling)
    from_gguf = open_weights(write_gguf(tmp_path / "m.gguf", architecture))
    from_folder = open_weights(write_safetensors(tmp_path / "m", architecture))
    np.testing.assert_allclose(
        ReferenceModel(from_gguf).logits(TOKENS), ReferenceModel(from_folder).logits(TOKENS), atol=2e-4
    )


def test_frequency_divisors_in_the_file_are_llama3_scaling(tmp_path: Path) -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 64)
    folder = write_safetensors(tmp_path / "m", small_architecture("llama", scaling=scaling))
    plain, scaled = Rope(10_000.0, 16, "halves"), Rope(10_000.0, 16, "halves", scaling)
    divisors = plain.inverse_frequencies() / scaled.inverse_frequencies()
    resolved = FrequencyDivisors(tuple(divisors.tolist()))
    file = write_gguf(tmp_path / "m.gguf", small_architecture("llama", scaling=resolved))
    weights = open_weights(file)
    assert "rope_freqs.weight" not in weights.tensors  # no step reads it
    expected = ReferenceModel(open_weights(folder)).logits(TOKENS)
    np.testing.assert_allclose(ReferenceModel(weights).logits(TOKENS), expected, atol=2e-4)
    assert np.abs(ReferenceModel(open_weights(_unscaled(tmp_path))).logits(TOKENS) - expected).max() > 0.01


def _unscaled(folder: Path) -> Path:
    return write_gguf(folder / "unscaled.gguf", small_architecture("llama"))


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_quantization_type(kind: Type, tmp_path: Path) -> None:
    """Dequantized as the type can: close to what was quantized, or of the spread that random blocks were
    given.
    """
    architecture = small_architecture("qwen3", hidden=256, width=256, head_dim=64)
    weights = open_weights(write_gguf(tmp_path / "m.gguf", architecture, kind))
    written = random_tensors(architecture)
    tolerance = {Type.F32: 0, Type.F16: 1e-3, Type.BF16: 5e-3, Type.Q8_0: 0.01}.get(kind, 0.15)
    for name, tensor in weights.tensors.items():
        values = tensor.dequantize()
        assert values.shape == tensor.shape
        if len(tensor.shape) == 1:
            np.testing.assert_array_equal(values, written[name])
        elif kind in RANDOM_BLOCKS:
            assert 0.3 < values.std() / written[name].std() < 3
        else:
            assert np.linalg.norm(values - written[name]) <= tolerance * np.linalg.norm(written[name])
    table = weights.tensors["token_embd.weight"]
    np.testing.assert_array_equal(table.rows(np.array([7, 2, 7])), table.dequantize()[[7, 2, 7]])
    assert np.isfinite(ReferenceModel(weights).logits(TOKENS)).all()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_safetensors_types_and_shards(dtype: str, tmp_path: Path) -> None:
    architecture = small_architecture("gemma3")
    one = open_weights(write_safetensors(tmp_path / "one", architecture, dtype))
    many = open_weights(write_safetensors(tmp_path / "many", architecture, dtype, shards=3))
    assert one.types["blk.0.attn_q.weight"] == Type[dtype]
    assert one.types["blk.0.attn_norm.weight"] == Type.F32
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.data, many.tensors[name].data)


def test_a_tied_head_that_the_file_repeats_is_left_out(tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path, small_architecture("llama", tied=False))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "output.weight" not in open_weights(folder).tensors


def test_split_files(tmp_path: Path) -> None:
    architecture = small_architecture("qwen2")
    first = write_gguf(tmp_path / "m.gguf", architecture, parts=3)
    assert first.name == "m-00001-of-00003.gguf"
    whole = open_weights(write_gguf(tmp_path / "whole.gguf", architecture))
    for name, tensor in open_weights(first).tensors.items():
        np.testing.assert_array_equal(tensor.data, whole.tensors[name].data)
    with pytest.raises(InputError, match="open its part -00001-of-00003"):
        open_weights(tmp_path / "m-00002-of-00003.gguf")
    (tmp_path / "m-00002-of-00003.gguf").write_bytes((tmp_path / "m-00003-of-00003.gguf").read_bytes())
    with pytest.raises(InputError, match="is not part 2 of 3"):
        open_weights(first)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(InputError, match=r"cannot read .*00002-of-00003"):
        open_weights(first)


def test_metadata_is_plain_values(tmp_path: Path) -> None:
    metadata = open_weights(write_gguf(tmp_path / "m.gguf", small_architecture("llama"))).metadata
    assert metadata["tokenizer.ggml.tokens"][256:258] == ["Ġt", "he"]
    assert metadata["tokenizer.ggml.token_type"][266] == gguf.TokenType.CONTROL
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


# What cannot be opened


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A small llama whose metadata and tensors `change` alters before they are written again."""
    source = open_weights(write_gguf(path.with_name("source.gguf"), small_architecture("llama")))
    metadata = dict(source.metadata)
    tensors = {name: (tensor.dequantize(), tensor.type) for name, tensor in source.tensors.items()}
    change(metadata, tensors)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        add_value(writer, key, value)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def missing(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def extra(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.1.attn_sinks.weight"] = (np.zeros(4, np.float32), Type.F32)


def misshapen(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = (np.zeros((128, 32), np.float32), Type.F32)


def three_dimensional(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = (np.zeros((2, 64, 64), np.float32), Type.F32)


def unsupported(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = (np.zeros((128, 36), np.uint8), Type.NVFP4)


def integers(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.attn_norm.weight"] = (np.zeros(64, np.int32), Type.I32)


def other_architecture(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    metadata["general.architecture"] = "mamba"


def other_rope(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    metadata["llama.rope.scaling.type"] = "longrope"


def short_divisors(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["rope_freqs.weight"] = (np.ones(3, np.float32), Type.F32)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (missing, "blk.1.ffn_up.weight is missing"),
        (extra, "blk.1.attn_sinks.weight is not known"),
        (misshapen, r"blk.0.ffn_up.weight has shape \(128, 32\), its model needs \(128, 64\)"),
        (three_dimensional, r"blk.0.ffn_up.weight has shape \(2, 64, 64\)"),
        (unsupported, "NVFP4, which is not supported"),
        (integers, "I32"),
        (other_architecture, "'mamba' is not supported"),
        (other_rope, "'longrope' is not supported"),
        (short_divisors, "3 rope frequency divisors for 8 pairs"),
    ],
)
def test_a_file_that_does_not_fit(
    change: Callable[[dict[str, Any], dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named):
        open_weights(rewritten(tmp_path / "m.gguf", change))


def test_no_model_there(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("hello, this is no model")
    (tmp_path / "folder").mkdir()
    for name, said in {
        "none.gguf": "cannot read",
        "empty.gguf": "is empty",
        "text.gguf": "is not a GGUF file",
        "folder": r"cannot read .*config\.json",
    }.items():
        with pytest.raises(InputError, match=said):
            open_weights(tmp_path / name)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf", small_architecture("llama"), Type.Q8_0).read_bytes()
    cut = tmp_path / "cut.gguf"
    header = whole.index(b"output_norm.weight")
    lengths = [
        *range(1, 40),
        *range(40, header, 331),
        header + 8,
        header + 40,
        len(whole) // 2,
        len(whole) - 32,
    ]
    for length in lengths:  # the last bytes may be padding, of up to 31
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as error:
            open_weights(cut)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_headers_end_in_one_line_or_in_a_model(kind: str, tmp_path: Path) -> None:
    """Bytes of the header overwritten: refused with InputError or harmless, nothing else."""
    if kind == "gguf":
        path = write_gguf(tmp_path / "m.gguf", small_architecture("qwen3"), Type.Q4_0)
        opened = path
    else:
        opened = write_safetensors(tmp_path / "m", small_architecture("qwen3"))
        path = opened / "model.safetensors"
    whole = path.read_bytes()
    end = whole.index(b"output_norm.weight") if kind == "gguf" else whole.index(b"model.norm.weight")
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = int(random.integers(0, end))
        damaged[place : place + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", random.bytes(4)])
        path.write_bytes(damaged)
        try:
            open_weights(opened)
        except InputError:
            refused += 1
    assert refused > 20


def test_header_fields_that_lie(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", small_architecture("llama"))
    whole = path.read_bytes()
    for offset, layout, value, said in [
        (4, "<I", 1, "version 1 is not supported"),
        (4, "<I", 3 << 24, "big-endian"),
        (8, "<Q", 1 << 60, "ends within its header"),
        (16, "<Q", 1 << 60, "ends within its header|unknown value type|UTF-8"),
    ]:
        damaged = bytearray(whole)
        struct.pack_into(layout, damaged, offset, value)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=said):
            open_weights(path)
    place = whole.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    damaged = bytearray(whole)
    struct.pack_into("<I", damaged, place, 77)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"output_norm.weight has the unknown quantization type 77"):
        open_weights(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda header: header["model.norm.weight"].update(dtype="F8_E5M2"), "F8_E5M2"),
        (lambda header: header["model.norm.weight"].update(shape=[65]), "model.norm.weight"),
        (lambda header: header["model.norm.weight"].update(data_offsets=[0, 1 << 40]), "model.norm.weight"),
        (lambda header: header["model.norm.weight"].update(data_offsets=[0]), "header is damaged"),
        (lambda header: header.pop("model.norm.weight"), "output_norm.weight is missing"),
        (lambda header: header.update({"model.sinks": header["model.norm.weight"]}), "model.sinks"),
    ],
)
def test_safetensors_that_do_not_fit(
    change: Callable[[dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path, small_architecture("llama")) / "model.safetensors"
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[start:])
    with pytest.raises(InputError, match=named):
        open_weights(tmp_path)


@pytest.mark.models
def test_opening_a_real_file_is_quick() -> None:
    """262,144 token strings: the header is read in well under the time that the weights take to pack."""
    path = Path("~/.cache/membound/models/gemma-3-270m-q4_k_m.gguf").expanduser()
    if not path.exists():
        pytest.skip(f"{path} is not there")
    start = time.perf_counter()
    weights = open_weights(path)
    assert time.perf_counter() - start < 2.0
    assert len(weights.metadata["tokenizer.ggml.tokens"]) == 262_144
