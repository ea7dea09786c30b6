"""The scheme of a checkpoint: config.json's `quantization_config`, or NVIDIA's hf_quant_config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from membound.errors import InputError
from membound.models.quantization import FORMATS, Format, Quantization

Rules = tuple[tuple[str, Format], ...]
BF16 = FORMATS["bf16"]
CACHES = {"fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4"}  # formats of a KV cache


def quantization_from_config(values: Any, where: str, expert_dtype: str | None = None) -> Quantization:
    """The scheme that a quantization_config describes; InputError names what of it is not understood.

    `expert_dtype` is DeepSeek-V4's own word for routed experts in another format.
    """
    where = f"{where}: quantization_config"
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be an object, it is {values!r}")
    inner = values.get("quantization", values)  # hf_quant_config.json nests it
    if not isinstance(inner, Mapping):
        raise InputError(f"{where}.quantization must be an object, it is {inner!r}")
    method = inner.get("quant_method") or ("modelopt" if "quant_algo" in inner else None)
    read = {
        "fp8": _fp8,
        "fbgemm_fp8": _fp8,
        "mxfp4": _mxfp4,
        "modelopt": _modelopt,
        "modelopt_fp4": _modelopt,
        "compressed-tensors": _compressed_tensors,
        "gptq": _gptq,
        "gptq_marlin": _gptq,
        "awq": _awq,
        "awq_marlin": _awq,
    }.get(str(method))
    if read is None:
        raise InputError(f"{where}.quant_method = {method!r} is not supported")
    scheme = read(inner, where)
    if expert_dtype not in (None, "fp8", "fp4"):
        raise InputError(f"{where}: expert_dtype = {expert_dtype!r} is not supported")
    if expert_dtype == "fp4" and scheme.format.name == "fp8":
        experts = (r"mlp\.experts\.", FORMATS["mxfp4"])
        return replace(scheme, rules=(experts, *scheme.rules))
    return scheme


def _fp8(values: Mapping[str, Any], where: str) -> Quantization:
    if values.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise InputError(f"{where}.fmt = {values['fmt']!r} is not supported")
    block = _block(values.get("weight_block_size"), f"{where}.weight_block_size")
    kept = _kept(values.get("modules_to_not_convert") or values.get("ignored_layers"), where)
    return Quantization(_fp8_format(block), kept, activations="fp8", block=block)


def _fp8_format(block: tuple[int, int] | None) -> Format:
    """One 32-bit scale for every block; those of a whole matrix or row weigh nothing."""
    return Format("fp8", 8 + 32 / (block[0] * block[1]) if block else 8.0, "fp8")


def _block(value: Any, where: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise InputError(f"{where} = {value!r} is not two numbers")
    return value[0], value[1]


def _mxfp4(values: Mapping[str, Any], where: str) -> Quantization:
    kept = _kept(values.get("modules_to_not_convert"), where)
    return Quantization(FORMATS["mxfp4"], kept, activations="bf16")


def _modelopt(values: Mapping[str, Any], where: str) -> Quantization:
    formats = {
        "fp8": FORMATS["fp8"],
        "nvfp4": FORMATS["nvfp4"],
        "w4a16_awq": _integers(4, _group(values, "group_size", where), zeros=False),
    }
    kind = formats.get(str(values.get("quant_algo")).lower())
    if kind is None:
        raise InputError(f"{where}.quant_algo = {values.get('quant_algo')!r} is not supported")
    cache = _cache(values, where)
    if values.get("kv_cache_quant_algo") is not None:
        cache = CACHES.get(str(values["kv_cache_quant_algo"]).lower())
        if cache is None:
            raise InputError(
                f"{where}.kv_cache_quant_algo = {values['kv_cache_quant_algo']!r} is not supported"
            )
    kept = _kept(values.get("ignore") or values.get("exclude_modules"), where)
    return Quantization(kind, kept, kind.rate or "bf16", cache)


def _compressed_tensors(values: Mapping[str, Any], where: str) -> Quantization:
    """One format for all linear layers, or groups of layers by name with a format each."""
    groups = values.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise InputError(f"{where}.config_groups must hold groups, it is {groups!r}")
    rest, block, named, rates = BF16, None, [], set()
    for name, group in groups.items():
        place = f"{where}.config_groups.{name}"
        if not isinstance(group, Mapping) or not isinstance(group.get("targets"), list):
            raise InputError(f"{place} must name its targets")
        kind, own_block = _weights(group.get("weights"), f"{place}.weights")
        rates.add((kind.rate or "bf16") if group.get("input_activations") else "bf16")
        if "Linear" in group["targets"]:
            rest, block = kind, own_block
        patterns = [_pattern(target, place) for target in group["targets"] if target != "Linear"]
        named += [(pattern, kind) for pattern in patterns]
    return Quantization(
        rest,
        (*_kept(values.get("ignore"), where), *named),
        rates.pop() if len(rates) == 1 else None,
        _cache(values, where),
        block=block,
        targets=tuple(pattern for pattern, _ in named),
    )


def _weights(values: Any, where: str) -> tuple[Format, tuple[int, int] | None]:
    """Format of one group's weights, and the block that shares a scale."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be an object, it is {values!r}")
    bits, kind, strategy = (values.get(key) for key in ("num_bits", "type", "strategy"))
    if kind == "float" and bits == 8:
        shape = values.get("block_structure") if strategy == "block" else None
        block = _block(shape, f"{where}.block_structure")
        return _fp8_format(block), block
    if kind == "int" and bits in (4, 8):
        group = _group(values, "group_size", where) if strategy == "group" else -1
        return _integers(bits, group, zeros=not values.get("symmetric", True)), None
    if kind == "float" and bits == 4 and values.get("group_size") in (16, 32):
        return FORMATS["nvfp4" if values["group_size"] == 16 else "mxfp4"], None
    raise InputError(
        f"{where} of {bits} bits, type {kind!r}, group_size {values.get('group_size')} is not supported"
    )


def _gptq(values: Mapping[str, Any], where: str) -> Quantization:
    """A zero point is stored with every scale, symmetric or not."""
    for key in ("dynamic", "lm_head"):
        if values.get(key):
            raise InputError(f"{where}.{key} = {values[key]!r} is not supported")
    return _few_bits(values, where, zeros=True)


def _awq(values: Mapping[str, Any], where: str) -> Quantization:
    return _few_bits(values, where, zeros=bool(values.get("zero_point", True)))


def _few_bits(values: Mapping[str, Any], where: str, *, zeros: bool) -> Quantization:
    bits = values.get("bits", values.get("w_bit"))
    if bits not in (4, 8):
        raise InputError(f"{where}.bits = {bits!r} is not supported")
    group = _group(values, "group_size" if "group_size" in values else "q_group_size", where)
    kept = _kept(values.get("modules_to_not_convert"), where)
    return Quantization(_integers(bits, group, zeros=zeros), kept, activations="bf16")


def _integers(bits: int, group: int, *, zeros: bool) -> Format:
    """A 16-bit scale for every `group` of a row, or with -1 for the whole row, and a zero point of `bits`."""
    share = (16 + (bits if zeros else 0)) / group if group > 0 else 0.0
    return Format(f"int{bits}", bits + share, "int8" if bits == 8 else None)


def _group(values: Mapping[str, Any], key: str, where: str) -> int:
    size = values.get(key, 128)
    if type(size) is not int or (size < 1 and size != -1):
        raise InputError(f"{where}.{key} = {size!r} is not a number of weights, or -1")
    return size


def _cache(values: Mapping[str, Any], where: str) -> str | None:
    """The format of a KV cache that the checkpoint brings scales for."""
    scheme = values.get("kv_cache_scheme")
    if scheme is None:
        return None
    if not isinstance(scheme, Mapping) or scheme.get("num_bits") != 8:
        raise InputError(f"{where}.kv_cache_scheme = {scheme!r} is not supported")
    return "int8" if scheme.get("type") == "int" else "fp8"


def _kept(names: Any, where: str) -> Rules:
    """Rules that keep modules in 16 bits."""
    if not isinstance(names or [], list):
        raise InputError(f"{where}: the modules that keep 16 bits must be a list, they are {names!r}")
    return tuple((_pattern(name, where), BF16) for name in names or ())


def _pattern(name: Any, where: str) -> str:
    """A regular expression for `re:` and one, or for the name of a module with * in it and what is below."""
    text = str(name).removeprefix("language_model.")
    if not text.startswith("re:"):
        glob = re.escape(text).replace(r"\*", ".*")
        return rf"(^|\.){glob}($|\.)"
    try:
        re.compile(text[3:])
    except re.error as error:
        raise InputError(f"{where}: {text} is not a regular expression: {error}") from None
    return text[3:]
