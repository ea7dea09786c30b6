"""Writes small random models, for tests of everything that opens or runs one.

    path = write_gguf(tmp_path / "m.gguf", small_architecture("gemma3"), Type.Q8_0)
    folder = write_safetensors(tmp_path / "m", small_architecture("llama"), "BF16")

`small_architecture(family, ...)` takes the dimensions to override: vocab, hidden, layers, heads, kv_heads,
head_dim, width, window, context_length, tied, bias, scaling (a Scaling of rope.py). gemma3 has 7 layers, one
of them without a window; the other families have 2.

`write_gguf(path, architecture, kind=F32, seed=0, parts=1)`: `kind` is a quantization type for all matrices,
or a function from a tensor's name to one. K-quants need hidden, width and heads * head_dim to be multiples of
256, the other quantized types of 32. Types that `gguf` can quantize hold the values that `write_safetensors`
gives for the same seed; those of RANDOM_BLOCKS hold random blocks. The file has a byte-level BPE tokenizer of
`vocab` tokens (at least 269): the bytes, a few merges, then `<|endoftext|>` (its end token), `<|im_start|>`,
`<|im_end|>`, and unused ones.

`write_safetensors(folder, architecture, dtype="F32", seed=0, shards=1)`: config.json and the weights.

llama's q and k rows are permuted for GGUF as llama.cpp's converter does; gemma3's norms are stored minus one
in safetensors. So one architecture and seed give one model in both forms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from numpy.typing import NDArray

from membound.models.architecture import Activation, Architecture, AttentionDims, FeedForwardDims, Layer
from membound.models.families import build
from membound.models.operators import Parameter
from membound.models.rope import FrequencyDivisors, LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling
from membound.models.safetensors_folder import GEMMA3_INNER, INNER, OUTER

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
RANDOM_BLOCKS = (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL)

Floats = NDArray[np.float32]
Kind: TypeAlias = Type | Callable[[str], Type]


def small_architecture(
    family: str,
    *,
    vocab: int = 300,
    hidden: int = 64,
    layers: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    width: int = 128,
    window: int | None = None,
    context_length: int = 512,
    tied: bool | None = None,
    bias: bool | None = None,
    scaling: Scaling | None = None,
) -> Architecture:
    """A model of a family in safetensors' form (rope in halves); `window` defaults to 8 for gemma3."""
    gemma = family == "gemma3"
    rope = Rope(1_000_000.0 if gemma else 10_000.0, head_dim, "halves", scaling)
    activation: Activation = "gelu_tanh" if gemma else "silu"
    bias = family == "qwen2" if bias is None else bias
    full = Layer(
        AttentionDims(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            rope=rope,
            scale=head_dim**-0.5,
            window=None if gemma else window,
            bias=bias,
            output_bias=bias and family in ("llama", "qwen3"),
            qk_norm=family in ("qwen3", "gemma3"),
        ),
        FeedForwardDims(width, activation),
        post_norms=gemma,
    )
    local = replace(rope, base=10_000.0, scaling=None)
    sliding = replace(full, attention=replace(full.attention, window=window or 8, rope=local))
    count = layers or (7 if gemma else 2)
    return Architecture(
        family=family,
        vocab=vocab,
        hidden=hidden,
        norm_eps=1e-6,
        tied=family in ("qwen2", "gemma3") if tied is None else tied,
        context_length=context_length,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        layers=tuple(sliding if gemma and (index + 1) % 6 else full for index in range(count)),
    )


def random_tensors(architecture: Architecture, seed: int = 0) -> dict[str, Floats]:
    """Weights by canonical name, in safetensors' order of rows, norms as they multiply."""
    random = np.random.default_rng(seed)

    def draw(parameter: Parameter) -> Floats:
        matrix = len(parameter.shape) == 2
        spread = 1.5 / parameter.shape[1] ** 0.5 if matrix else 0.1
        centre = 1.0 if "norm" in parameter.name else 0.0
        values: Floats = random.normal(centre, spread, parameter.shape).astype(np.float32)
        return values

    return {parameter.name: draw(parameter) for parameter in build(architecture).params()}


def write_gguf(
    path: Path, architecture: Architecture, kind: Kind = Type.F32, seed: int = 0, parts: int = 1
) -> Path:
    """Returns the file to open: the first of `parts`."""
    writer = gguf.GGUFWriter(path, architecture_name(architecture))
    for key, value in gguf_metadata(architecture).items():
        add_value(writer, key, value)
    tensors = {
        name: _quantized(_permuted(name, values, architecture), _kind_of(name, values, kind), seed)
        for name, values in random_tensors(architecture, seed).items()
    }
    scaling = _widest(architecture).attention.rope.scaling
    if isinstance(scaling, FrequencyDivisors):
        tensors["rope_freqs.weight"] = (np.asarray(scaling.divisors, np.float32), Type.F32)
    return _write_parts(writer, path, tensors, parts)


def write_safetensors(
    folder: Path, architecture: Architecture, dtype: str = "F32", seed: int = 0, shards: int = 1
) -> Path:
    """Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(architecture)))
    tensors = {}
    for name, values in random_tensors(architecture, seed).items():
        minus = 1 if architecture.family == "gemma3" and name.endswith("norm.weight") else 0
        tensors[hf_name(name, architecture.family)] = values - np.float32(minus)
    names = [
        f"model-{part + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        for part in range(shards)
    ]
    placed = {tensor: names[index % shards] for index, tensor in enumerate(tensors)}
    for name in names:
        some = {tensor: tensors[tensor] for tensor in tensors if placed[tensor] == name}
        (folder / name).write_bytes(safetensors_bytes(some, dtype))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def architecture_name(architecture: Architecture) -> str:
    """The GGUF name of a family: mistral's files say llama."""
    return "llama" if architecture.family == "mistral" else architecture.family


def gguf_metadata(architecture: Architecture) -> dict[str, Any]:
    """All keys but general.architecture, the tokenizer among them."""
    layer, name = _widest(architecture), architecture_name(architecture)
    attention = layer.attention
    window = architecture.layers[0].attention.window
    dims: dict[str, Any] = {
        "block_count": len(architecture.layers),
        "context_length": architecture.context_length,
        "embedding_length": architecture.hidden,
        "feed_forward_length": layer.feed_forward.width,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": architecture.norm_eps,
        "rope.freq_base": attention.rope.base,
        **_gguf_scaling(attention.rope.scaling),
    }
    if window is not None:
        dims["attention.sliding_window"] = window
    return {**{f"{name}.{key}": value for key, value in dims.items()}, **_tokenizer(architecture.vocab)}


def hf_config(architecture: Architecture) -> dict[str, Any]:
    """A config.json of the form of transformers 4."""
    layer, gemma = _widest(architecture), architecture.family == "gemma3"
    attention = layer.attention
    config: dict[str, Any] = {
        "model_type": "gemma3_text" if gemma else architecture.family,
        "vocab_size": architecture.vocab,
        "hidden_size": architecture.hidden,
        "intermediate_size": layer.feed_forward.width,
        "num_hidden_layers": len(architecture.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "max_position_embeddings": architecture.context_length,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied,
        "rope_theta": attention.rope.base,
        "rope_scaling": _hf_scaling(attention.rope.scaling),
    }
    if gemma:
        config["query_pre_attn_scalar"] = attention.head_dim
        config["rope_local_base_freq"] = architecture.layers[0].attention.rope.base
        config["hidden_activation"] = "gelu_pytorch_tanh"
        config["sliding_window"] = architecture.layers[0].attention.window
    else:
        config["hidden_act"] = "silu"
        config["attention_bias"] = attention.bias
        config["sliding_window"] = attention.window
    if architecture.family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = attention.window is not None
        config["max_window_layers"] = 0
    return config


def hf_name(name: str, family: str) -> str:
    """The Hugging Face name of a canonical one."""
    stem, _, suffix = name.rpartition(".")
    outer = {canonical: theirs for theirs, canonical in OUTER.items()}
    if stem in outer:
        return f"{'' if stem == 'output' else 'model.'}{outer[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    mapping = GEMMA3_INNER if family == "gemma3" else INNER
    inner = {canonical: theirs for theirs, canonical in mapping.items()}
    return f"model.layers.{layer}.{inner[part]}.{suffix}"


def safetensors_bytes(tensors: dict[str, Floats], dtype: str) -> bytes:
    """A safetensors file."""
    kind = {"F32": Type.F32, "F16": Type.F16, "BF16": Type.BF16}[dtype]
    return joined({name: (dtype, quantize(values, kind), values.shape) for name, values in tensors.items()})


def joined(tensors: Mapping[str, tuple[str, NDArray[Any], tuple[int, ...]]]) -> bytes:
    """A safetensors file of (dtype, bytes, shape)."""
    header, data = {}, b""
    for name, (dtype, values, shape) in tensors.items():
        part = values.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def random_blocks(kind: Type, shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Random valid blocks of a type that `gguf` cannot quantize, values of about the spread of
    `random_tensors`; (rows, row bytes).
    """
    random = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = shape[0] * shape[1] // block
    data = random.integers(0, 256, (blocks, size), np.uint8)
    spread = 1.5 / shape[1] ** 0.5 * random.uniform(0.5, 1.5, (blocks, 1))
    if (
        kind == Type.Q2_K
    ):  # 16 scales with minima, 64 bit pairs, d, dmin: d · scale · (0 … 3) - dmin · minimum
        data[:, 80:82] = (spread / 18).astype(np.float16).view(np.uint8)
        data[:, 82:84] = (spread / 12).astype(np.float16).view(np.uint8)
    elif kind == Type.Q3_K:  # 32 bytes of third bits, 64 of pairs, 12 of scales, d: d · (-32 … 31) · (-4 … 3)
        data[:, 108:110] = (spread / 40).astype(np.float16).view(np.uint8)
    elif kind == Type.IQ4_NL:  # d, 16 bytes of nibbles: d · one of 16 levels up to 127
        data[:, :2] = (spread / 66).astype(np.float16).view(np.uint8)
    elif kind == Type.Q6_K:  # 128 low bits, 64 high bits, 16 signed scales, d: d · scale · (0 … 63 - 32)
        data[:, 192:208] = random.integers(-32, 33, (blocks, 16)).astype(np.int8).view(np.uint8)
        data[:, 208:210] = (spread / 340).astype(np.float16).view(np.uint8)
    else:  # d, dmin, then scales and minima of six bits: d · scale · q - dmin · minimum, q to 15 or 31
        greatest = 15 if kind == Type.Q4_K else 31
        data[:, 0:2] = (spread / (17 * greatest)).astype(np.float16).view(np.uint8)
        data[:, 2:4] = (spread / 34).astype(np.float16).view(np.uint8)
    return data.reshape(shape[0], -1)


def _kind_of(name: str, values: Floats, kind: Kind) -> Type:
    if values.ndim == 1:
        return Type.F32
    return kind if isinstance(kind, Type) else kind(name)


def _quantized(values: Floats, kind: Type, seed: int) -> tuple[NDArray[Any], Type]:
    if kind in RANDOM_BLOCKS:
        return random_blocks(kind, values.shape, seed + int(abs(values[0, 0]) * 1e6)), kind
    return quantize(values, kind), kind


def _permuted(name: str, values: Floats, architecture: Architecture) -> Floats:
    """llama in GGUF: rows of a head's q and k from (half, pair) to (pair, half)."""
    attention = architecture.layers[0].attention
    heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}.get(name.split(".")[-2])
    if architecture_name(architecture) != "llama" or heads is None:
        return values
    return values.reshape(heads, 2, attention.head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)


def _write_parts(
    writer: gguf.GGUFWriter, path: Path, tensors: dict[str, tuple[NDArray[Any], Type]], parts: int
) -> Path:
    paths = [path] if parts == 1 else [_part(path, number, parts) for number in range(parts)]
    for number, target in enumerate(paths):
        if number:
            writer = gguf.GGUFWriter(target, writer.arch)
        if parts > 1:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(tensors))
        for index, (name, (data, kind)) in enumerate(tensors.items()):
            if index % parts == number:
                writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file(target)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


def _part(path: Path, number: int, parts: int) -> Path:
    return path.with_name(f"{path.stem}-{number + 1:05d}-of-{parts:05d}.gguf")


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A metadata value under the type that fits it."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key}: {value!r}")


def _widest(architecture: Architecture) -> Layer:
    """A layer that sees all, where there is one."""
    layers = architecture.layers
    return next((layer for layer in layers if layer.attention.window is None), layers[-1])


def _gguf_scaling(scaling: Scaling | None) -> dict[str, Any]:
    match scaling:
        case None | FrequencyDivisors():
            return {}
        case LinearScaling(factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case YarnScaling(factor, original):
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": factor,
                "rope.scaling.original_context_length": original,
            }
        case Llama3Scaling():
            raise TypeError("GGUF holds llama3 scaling as FrequencyDivisors")


def _hf_scaling(scaling: Scaling | None) -> dict[str, Any] | None:
    match scaling:
        case None:
            return None
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
        case YarnScaling(factor, original):
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        case FrequencyDivisors():
            raise TypeError("config.json has no list of divisors")


def _tokenizer(vocab: int) -> dict[str, Any]:
    """Byte-level BPE: the bytes as GPT-2 spells them, a few merges, three special tokens, and unused ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable}
    spelled.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    merges = ["Ġ t", "h e", "i n", "Ġ a", "e r", "Ġt he", "o n", "Ġ s", "r e", "a t"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [spelled[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in merges]
    ordinary = len(tokens)
    tokens += special
    kinds = [gguf.TokenType.NORMAL] * ordinary + [gguf.TokenType.CONTROL] * len(special)
    unused = vocab - len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens + [f"<unused_{index}>" for index in range(unused)],
        "tokenizer.ggml.token_type": [int(k) for k in kinds] + [int(gguf.TokenType.UNUSED)] * unused,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": ordinary,
        "tokenizer.ggml.bos_token_id": ordinary,
        "tokenizer.ggml.add_bos_token": False,
    }
