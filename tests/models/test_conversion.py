"""Types without kernels: what is loaded has the values of what is stored, and whoever runs it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, dequantize
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from membound.errors import InputError
from membound.executors.native import NativeExecutor
from membound.executors.reference import ReferenceModel
from membound.models.conversion import E4M3, conversion, from_fp8
from membound.models.weights import CONVERTED, open_weights
from tests.small_models import hf_config, hf_name, joined, random_tensors, small_architecture, write_gguf

Bytes = NDArray[np.uint8]
TOKENS = list(range(3, 60, 2))
SCALES = {Type.Q2_K: [(80, 82), (82, 84)], Type.Q3_K: [(108, 110)], Type.IQ4_NL: [(0, 2)]}  # F16 in a block


def any_blocks(kind: Type, rows: int, seed: int) -> Bytes:
    """Random bytes, but for scales that are finite; (rows, two blocks)."""
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, (2 * rows, GGML_QUANT_SIZES[kind][1]), np.uint8)
    for begin, end in SCALES.get(kind, []):
        exponents = (
            random.uniform(-20, 8, 2 * rows) if kind is not Type.Q2_K else random.uniform(-12, 8, 2 * rows)
        )
        data[:, begin:end] = (2.0**exponents).astype(np.float16)[:, None].view(np.uint8)
    if kind is Type.MXFP4:
        data[:, 0] = random.integers(128 - 24, 128 + 19, 2 * rows)
    return data.reshape(rows, -1)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CONVERTED), st.integers(0, 2**32 - 1))
def test_values_are_those_of_the_stored_type(kind: Type, seed: int) -> None:
    data = any_blocks(kind, 5, seed)
    how = conversion(kind, data)
    assert how is not None
    stored = dequantize(data, kind)
    loaded = dequantize(how.rows(data, np.arange(5)), how.loaded)
    if how.exact:
        np.testing.assert_array_equal(loaded, stored)
    else:
        np.testing.assert_allclose(loaded, stored, rtol=2**-11, atol=2**-25)
    some = np.array([3, 0, 3])
    np.testing.assert_array_equal(how.rows(data, some), how.rows(data, np.arange(5))[some])


def test_what_each_type_becomes() -> None:
    became = {kind: conversion(kind, any_blocks(kind, 2, 0)) for kind in CONVERTED}
    loaded = {kind.name: how.loaded.name for kind, how in became.items() if how}
    assert loaded == {"Q2_K": "F16", "Q3_K": "Q6_K", "IQ4_NL": "Q8_0", "MXFP4": "Q8_0"}
    assert conversion(Type.Q4_K, np.zeros((1, 144), np.uint8)) is None


@pytest.mark.parametrize("exponent", [0, 1, 100, 128 + 19, 254])
def test_scales_beyond_f16_keep_their_values_in_f32(exponent: int) -> None:
    data = np.full((3, 17), 0x21, np.uint8)
    data[:, 0] = exponent
    how = conversion(Type.MXFP4, data)
    assert how is not None
    assert how.loaded is Type.F32
    assert how.exact
    loaded = dequantize(how.rows(data, np.arange(3)), Type.F32)
    np.testing.assert_array_equal(loaded, dequantize(data, Type.MXFP4))
    data[:, 1:] = 0x80  # zeros of both signs fit whatever their scale
    zeros = conversion(Type.MXFP4, data)
    assert zeros is not None
    assert zeros.loaded is Type.Q8_0
    assert not dequantize(zeros.rows(data, np.arange(3)), Type.Q8_0).any()


def test_q2_k_beyond_f16_is_f32() -> None:
    data = any_blocks(Type.Q2_K, 2, 1)
    data.reshape(-1, 84)[0, 80:82] = np.array([3000], np.float16).view(np.uint8)
    how = conversion(Type.Q2_K, data)
    assert how is not None
    assert how.loaded is Type.F32
    loaded = dequantize(how.rows(data, np.arange(2)), Type.F32)
    np.testing.assert_array_equal(loaded, dequantize(data, Type.Q2_K))


@pytest.mark.parametrize("kind", CONVERTED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("tied", [True, False])
def test_models_run_in_both_executors(kind: Type, tied: bool, tmp_path: Path) -> None:
    architecture = small_architecture("qwen3", hidden=256, width=256, head_dim=64, tied=tied)
    weights = open_weights(write_gguf(tmp_path / "m.gguf", architecture, kind))
    assert len(weights.notes) == 1
    assert f"stored in {kind.name}, are loaded as" in weights.notes[0]
    assert weights.nbytes == sum(tensor.data.nbytes for tensor in weights.tensors.values())
    expected = ReferenceModel(weights).logits(TOKENS)
    logits = NativeExecutor(weights, blocks=8).logits(TOKENS)
    bound = 1e-2 if weights.types["blk.0.attn_q.weight"] is Type.F16 else 5e-2
    assert np.linalg.norm(logits - expected) <= bound * np.linalg.norm(expected)


# FP8 in safetensors

BLOCK = (64, 32)


def test_e4m3_is_as_its_definition_says() -> None:
    """OCP 8-bit floating point: greatest, least normal and subnormal numbers, one, no infinity."""
    known = {0x7E: 448.0, 0x08: 2.0**-6, 0x01: 2.0**-9, 0x38: 1.0, 0xB9: -1.125, 0x00: 0.0, 0xFE: -448.0}
    for code, value in known.items():
        assert E4M3[code] == value
    assert np.flatnonzero(np.isnan(E4M3)).tolist() == [0x7F, 0xFF]
    assert (np.diff(E4M3[:0x7F]) > 0).all()


def nearest(values: NDArray[np.float32]) -> Bytes:
    """Codes of the nearest E4M3 values."""
    codes = np.flatnonzero(~np.isnan(E4M3)).astype(np.uint8)
    order = np.argsort(E4M3[codes], kind="stable")
    ordered = E4M3[codes][order]
    place = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values)
    return codes[order][place]


def fp8_folder(folder: Path, scheme: str, change: Any = None) -> Path:
    """A small qwen3 whose layers are in FP8, with scales as one of the spellings has them."""
    architecture = small_architecture("qwen3", hidden=96, width=160, tied=False)
    entries = {}
    for name, values in random_tensors(architecture).items():
        theirs = hf_name(name, "qwen3")
        if values.ndim == 1 or not name.startswith("blk."):
            entries[theirs] = ("BF16", quantize(values, Type.BF16), values.shape)
            continue
        size = {"blocks": BLOCK, "rows": (1, values.shape[1]), "whole": values.shape}[scheme]
        counts = tuple(-(-length // step) for length, step in zip(values.shape, size, strict=True))
        padded = np.zeros([count * step for count, step in zip(counts, size, strict=True)], np.float32)
        padded[: values.shape[0], : values.shape[1]] = np.abs(values)
        scale = padded.reshape(counts[0], size[0], counts[1], size[1]).max((1, 3)) / 448
        spread = np.repeat(np.repeat(scale, size[0], 0), size[1], 1)[: values.shape[0], : values.shape[1]]
        entries[theirs] = ("F8_E4M3", nearest(values / spread), values.shape)
        if scheme == "whole":
            entries[theirs + "_scale"] = ("F32", scale.astype(np.float32).ravel(), ())
            entries[theirs.replace(".weight", ".input_scale")] = ("F32", np.ones(1, np.float32), ())
        else:
            suffix = "_scale_inv" if scheme == "blocks" else "_scale"
            entries[theirs + suffix] = ("F32", scale.astype(np.float32), counts)
    spellings: dict[str, dict[str, Any]] = {
        "blocks": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": BLOCK},
        "rows": {"quant_method": "fbgemm_fp8"},
        "whole": {"quant_method": "modelopt", "quant_algo": "FP8"},
    }
    if change is not None:
        change(entries)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(joined(entries))
    config = {**hf_config(architecture), "quantization_config": spellings[scheme]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("scheme", ["blocks", "rows", "whole"])
def test_fp8_checkpoints_run(scheme: str, tmp_path: Path) -> None:
    """Blocks here do not divide the matrices: the last ones are cut short."""
    weights = open_weights(fp8_folder(tmp_path, scheme))
    assert weights.types["blk.0.ffn_up.weight"] is Type.F16
    assert weights.types["token_embd.weight"] is Type.BF16
    assert weights.notes == [
        "14 of the matrices, stored in FP8, are loaded as F16, their values rounded to 11 bits"
    ]
    for name, values in random_tensors(small_architecture("qwen3", hidden=96, width=160, tied=False)).items():
        error = np.linalg.norm(weights.tensors[name].dequantize() - values) / np.linalg.norm(values)
        assert error < (0.04 if weights.types[name] is Type.F16 else 0.005)
    expected = ReferenceModel(weights).logits(TOKENS)
    logits = NativeExecutor(weights, blocks=8).logits(TOKENS)
    assert np.linalg.norm(logits - expected) <= 1e-2 * np.linalg.norm(expected)


def test_fp8_that_does_not_fit_together_is_refused_by_name(tmp_path: Path) -> None:
    weight = "model.layers.1.mlp.up_proj.weight"

    def without_scale(entries: dict[str, Any]) -> None:
        del entries[f"{weight}_scale_inv"]

    def other_scales(entries: dict[str, Any]) -> None:
        entries[f"{weight}_scale_inv"] = ("F32", np.ones((2, 2), np.float32), (2, 2))

    def scale_alone(entries: dict[str, Any]) -> None:
        entries[weight] = ("BF16", np.zeros((160, 96), np.uint16), (160, 96))

    def vector(entries: dict[str, Any]) -> None:
        entries["model.norm.weight"] = ("F8_E4M3", np.zeros(96, np.uint8), (96,))

    for change, said in [
        (without_scale, "scale of tensor blk.1.ffn_up.weight, in F8_E4M3, is missing"),
        (other_scales, r"blk.1.ffn_up.weight of \(160, 96\) has scales of \(2, 2\)"),
        (scale_alone, "blk.1.ffn_up.weight has a scale, but is not in F8_E4M3"),
        (vector, "output_norm.weight, no matrix"),
    ]:
        with pytest.raises(InputError, match=said):
            open_weights(fp8_folder(tmp_path, "blocks", change))


def test_fp8_scales_of_a_shape_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        from_fp8((4, 4), np.ones((2, 1), np.float32), (4, 4))
