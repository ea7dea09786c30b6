"""A folder with config.json and safetensors files, its tensors renamed to GGUF's names.

The format is a JSON header of 64-bit length, then the bytes (safetensors' README). It is read here by
memory map because the library's NumPy binding has no BF16.

FP8 matrices have scales beside them, named after the matrix: `weight_scale` of the whole matrix or of each
row (compressed-tensors, ModelOpt, FBGEMM), `weight_scale_inv` of blocks (DeepSeek). Scales of activations
and of a cache are not used: both are kept in more bits here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, dequantize

from membound.errors import InputError
from membound.models.architecture import Architecture
from membound.models.config_json import architecture_from_config
from membound.models.conversion import from_fp8
from membound.models.gguf_file import StoredTensor, map_file, stored_tensor
from membound.models.quantization import Quantization

TYPES = {
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
    "F8_E4M3": GGMLQuantizationType.I8,  # bytes, until they are joined with their scales
}

OUTER = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA3_INNER = {
    **INNER,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# Prefixes of a text model, alone or within a multimodal one, in the order in which they are tried.
TEXT = re.compile(r"(?:model\.language_model\.|language_model\.model\.|language_model\.|model\.)?(.+)")
OTHER_MODALITIES = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")
FP8 = "F8_E4M3"
SCALE = re.compile(r"(.+)\.weight_scale(?:_inv)?")
UNUSED_SCALE = re.compile(r".+\.(?:[qkv]_scale|(?:input|output|activation)_scale(?:_ub|_inv)?)")
RECOMPUTED = re.compile(r".*\.rotary_emb\.inv_freq")  # saved by old versions; follows from the config


def read_safetensors_folder(folder: Path) -> tuple[Architecture, dict[str, Any], dict[str, StoredTensor]]:
    """Architecture, config and tensors; raises InputError for what is missing, damaged or not supported."""
    config = read_json(folder / "config.json")
    architecture = architecture_from_config(config, str(folder / "config.json"))
    multimodal = "text_config" in config
    stored: dict[str, StoredTensor] = {}
    for path in _files(folder):
        for tensor in _read_file(path):
            if RECOMPUTED.fullmatch(tensor.name) or (multimodal and OTHER_MODALITIES.match(tensor.name)):
                continue
            if architecture.quantization is not None and UNUSED_SCALE.fullmatch(tensor.name):
                continue
            canonical = canonical_name(tensor.name, architecture.family)
            if canonical == "output.weight" and architecture.tied:
                continue  # transformers ties the head even where the file repeats it
            if canonical in stored:
                raise InputError(f"{path}: tensor {tensor.name} occurs twice")
            tensor = replace(tensor, name=canonical)
            stored[canonical] = _with_one_added(tensor) if _is_gemma_norm(tensor, architecture) else tensor
    return architecture, config, _scaled(stored, architecture.quantization, folder)


def _scaled(
    stored: Mapping[str, StoredTensor], scheme: Quantization | None, folder: Path
) -> dict[str, StoredTensor]:
    """FP8 matrices joined with their scales, which are no tensors of their own."""
    scales = {
        f"{match[1]}.weight": tensor for name, tensor in stored.items() if (match := SCALE.fullmatch(name))
    }
    found = {name: tensor for name, tensor in stored.items() if not SCALE.fullmatch(name)}
    for name, tensor in found.items():
        if tensor.type is not GGMLQuantizationType.I8:
            continue
        if len(tensor.shape) != 2:
            raise InputError(f"{folder}: tensor {name}, no matrix, has the unsupported type {FP8}")
        scale = scales.pop(name, None)
        if scale is None:
            raise InputError(f"{folder}: the scale of tensor {name}, in {FP8}, is missing")
        found[name] = _fp8_matrix(tensor, scale, scheme, folder)
    if scales:
        raise InputError(f"{folder}: tensor {next(iter(scales))} has a scale, but is not in {FP8}")
    return found


def _fp8_matrix(
    tensor: StoredTensor, scale: StoredTensor, scheme: Quantization | None, folder: Path
) -> StoredTensor:
    """Scales are of blocks where the config gives their size, else of each row or of the whole matrix."""
    rows, columns = tensor.shape
    values = np.asarray(dequantize(np.asarray(scale.data), scale.type), np.float32)
    shape = (rows, columns)
    if scheme is not None and scheme.block is not None:
        block = scheme.block
    else:
        block = (1, columns) if values.size == rows else shape
    counts = tuple(-(-length // size) for length, size in zip(shape, block, strict=True))
    try:
        how = from_fp8(shape, values.reshape(counts), block)
    except ValueError:
        raise InputError(
            f"{folder}: tensor {tensor.name} of {shape} has scales of {scale.shape}, which do not fit"
            f" blocks of {block}"
        ) from None
    return replace(tensor, type=how.loaded, conversion=how)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises InputError."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content


def canonical_name(name: str, family: str) -> str:
    """GGUF's name of a Hugging Face tensor; an unknown one stays, and is refused by that name."""
    match = TEXT.fullmatch(name)
    rest = match[1] if match else name
    stem, _, suffix = rest.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{suffix}"
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
    inner = GEMMA3_INNER if family == "gemma3" else INNER
    if layer is None or layer[2] not in inner:
        return name
    return f"blk.{int(layer[1])}.{inner[layer[2]]}.{suffix}"


def _is_gemma_norm(tensor: StoredTensor, architecture: Architecture) -> bool:
    return architecture.family == "gemma3" and tensor.name.endswith("norm.weight")


def _with_one_added(tensor: StoredTensor) -> StoredTensor:
    """gemma3 multiplies by 1 + weight; GGUF files hold the sum, safetensors the weight."""
    values = dequantize(np.asarray(tensor.data), tensor.type) + np.float32(1)
    return StoredTensor(tensor.name, GGMLQuantizationType.F32, tensor.shape, values.view(np.uint8))


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise InputError(f"{index}: weight_map is missing")
        return [folder / name for name in sorted(set(weight_map.values()))]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} holds no safetensors file")
    return files


def _read_file(path: Path) -> list[StoredTensor]:
    """The tensors of one file, under their own names."""
    file = map_file(path)
    start = 8 + int.from_bytes(file[:8], "little")
    try:
        if start > len(file):
            raise ValueError
        header = json.loads(file[8:start])
        entries = [_entry(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: the header is damaged: download it again") from None
    return [_tensor(path, file, start, *entry) for entry in entries]


def _entry(name: str, entry: dict[str, Any]) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, type, shape, and where its bytes begin and end after the header."""
    begin, end = map(int, entry["data_offsets"])
    return name, str(entry["dtype"]), tuple(map(int, entry["shape"])) or (1,), begin, end


def _tensor(
    path: Path,
    file: mmap,
    start: int,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    begin: int,
    end: int,
) -> StoredTensor:
    if dtype not in TYPES:
        supported = ", ".join(TYPES)
        raise InputError(f"{path}: tensor {name} has type {dtype!r}, not supported (supported: {supported})")
    tensor = stored_tensor(path, file, start + begin, name, TYPES[dtype], shape)
    if begin < 0 or tensor.data.nbytes != end - begin:
        raise InputError(f"{path}: tensor {name} has {end - begin} bytes, its shape {shape} needs others")
    return tensor
