"""How the weights of a checkpoint are stored: the formats, and which tensors keep 16 bits.

Settings are those of config.json's `quantization_config`, or of NVIDIA's hf_quant_config.json beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from membound.errors import InputError


@dataclass(frozen=True)
class Format:
    """Bits that a number takes with its share of scales, and the rate at which hardware multiplies it.

    `rate` None means that it is never multiplied as it is: weights become 16-bit on the way.
    """

    name: str
    bits: float
    rate: str | None


FORMATS: Mapping[str, Format] = {
    f.name: f
    for f in (
        Format("fp32", 32, "fp32"),
        Format("bf16", 16, "bf16"),
        Format("fp16", 16, "fp16"),
        Format("fp8", 8, "fp8"),
        Format("int8", 8, "int8"),
        Format("fp4", 4, "fp4"),
        Format("mxfp4", 4 + 8 / 32, "fp4"),  # an 8-bit exponent for every 32
        Format("nvfp4", 4 + 8 / 16, "fp4"),  # an FP8 scale for every 16
        Format("int4", 4 + 16 / 128, None),  # GPTQ, AWQ: a 16-bit scale for every 128
    )
}

# Modules that every scheme leaves in 16 bits: look-up table, head, routers, gates of one row, latent
# projections of experts, convolutions. Vectors are left by their shape.
ALWAYS_KEPT = re.compile(
    r"token_embd|^output|ffn_gate_inp|ffn_latent|ssm_conv1d|ssm_ba|ssm_beta|indexer_weights|_streams|_compress_"
)


@dataclass(frozen=True)
class Quantization:
    """Matrices are stored as `format`, save those whose module name (Hugging Face's spelling) matches a
    rule.
    """

    format: Format
    rules: tuple[
        tuple[str, Format], ...
    ] = ()  # (regular expression, format), the first that is found decides
    activations: str | None = None  # the rate that the checkpoint prepares its activations for
    kv: str | None = None  # format of a cache that the checkpoint is prepared for, if one is asked for
    exact: Mapping[str, Format] = field(default_factory=dict, hash=False)  # of tensors known one by one
    block: tuple[int, int] | None = None  # rows and columns that share a scale, where the config says so

    @property
    def main(self) -> Format:
        """What most matrices are stored in."""
        return Counter(self.exact.values()).most_common(1)[0][0] if self.exact else self.format

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], Format]]:
        return [(re.compile(pattern), kind) for pattern, kind in self.rules]

    def format_of(self, name: str, shape: tuple[int, ...]) -> Format:
        """Format of a parameter by its canonical name."""
        if name in self.exact:
            return self.exact[name]
        local = re.sub(r"^blk\.\d+\.", "", name)
        if len(shape) < 2 or name.endswith("bias") or ALWAYS_KEPT.search(local):
            return FORMATS["bf16"]
        module = module_name(name)
        return next((kind for pattern, kind in self._compiled if pattern.search(module)), self.format)


MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_gate": "self_attn.g_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_exps": "mlp.experts.0.gate_proj",
    "ffn_up_exps": "mlp.experts.0.up_proj",
    "ffn_down_exps": "mlp.experts.0.down_proj",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}


def module_name(name: str) -> str:
    """Hugging Face's module of a canonical tensor name, such as model.layers.3.self_attn.q_proj."""
    found = re.fullmatch(r"blk\.(\d+)\.(.+?)(\.weight)?", name)
    if not found:
        return name
    local = found[2]
    kind = "linear_attn" if local.startswith("ssm_") else "self_attn"
    return f"model.layers.{found[1]}.{MODULES.get(local, f'{kind}.{local}')}"


def quantization_from_config(values: Any, where: str, expert_dtype: str | None = None) -> Quantization:
    """The scheme that a quantization_config describes; one that is not understood is refused by name.

    `expert_dtype` is DeepSeek-V4's own word for routed experts in another format.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: quantization_config must be an object, it is {values!r}")
    inner = values.get("quantization", values)  # hf_quant_config.json nests it
    method = inner.get("quant_method") or ("modelopt" if "quant_algo" in inner else None)
    read = {
        "fp8": _fp8,
        "fbgemm_fp8": _fp8,
        "mxfp4": _mxfp4,
        "modelopt": _modelopt,
        "compressed-tensors": _compressed_tensors,
        "gptq": _four_bit,
        "awq": _four_bit,
    }.get(str(method))
    if read is None:
        raise InputError(f"{where}: quantization_config.quant_method = {method!r} is not supported")
    scheme = read(inner, where)
    if expert_dtype not in (None, "fp8", "fp4"):
        raise InputError(f"{where}: expert_dtype = {expert_dtype!r} is not supported")
    if expert_dtype == "fp4":
        experts = (r"mlp\.experts\.", FORMATS["mxfp4"])
        return replace(scheme, rules=(experts, *scheme.rules))
    return scheme


def _kept(names: Any) -> tuple[tuple[str, Format], ...]:
    """Rules that keep modules in 16 bits: `re:` expressions, else names of modules, with * in them."""
    rules = []
    for name in names or ():
        pattern = str(name).removeprefix("language_model.")
        if pattern.startswith("re:"):
            rules.append((pattern[3:], FORMATS["bf16"]))
        else:
            glob = re.escape(pattern).replace(r"\*", ".*")
            rules.append((rf"(^|\.){glob}($|\.)", FORMATS["bf16"]))
    return tuple(rules)


def _fp8(values: Mapping[str, Any], where: str) -> Quantization:
    if values.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise InputError(f"{where}: quantization_config.fmt = {values['fmt']!r} is not supported")
    block = _block(values, where)
    bits = 8 + 32 / (block[0] * block[1]) if block else 8.0
    kept = _kept(values.get("modules_to_not_convert") or values.get("ignored_layers"))
    return Quantization(Format("fp8", bits, "fp8"), kept, activations="fp8", block=block)


def _block(values: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale."""
    block = values.get("weight_block_size")
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise InputError(f"{where}: quantization_config.weight_block_size = {block!r} is not two numbers")
    return block[0], block[1]


def _mxfp4(values: Mapping[str, Any], where: str) -> Quantization:
    return Quantization(FORMATS["mxfp4"], _kept(values.get("modules_to_not_convert")), activations="bf16")


def _modelopt(values: Mapping[str, Any], where: str) -> Quantization:
    algorithm = str(values.get("quant_algo")).lower()
    if algorithm not in ("fp8", "nvfp4"):
        raise InputError(f"{where}: quant_algo = {values.get('quant_algo')!r} is not supported")
    cache = values.get("kv_cache_scheme")
    kv = "fp8" if (cache or {}).get("num_bits") == 8 or values.get("kv_cache_quant_algo") == "FP8" else None
    kept = _kept(values.get("ignore") or values.get("exclude_modules"))
    return Quantization(FORMATS[algorithm], kept, FORMATS[algorithm].rate, kv)


def _compressed_tensors(values: Mapping[str, Any], where: str) -> Quantization:
    groups = list((values.get("config_groups") or {}).values())
    if len(groups) != 1:
        raise InputError(f"{where}: quantization_config.config_groups must hold one group, not {len(groups)}")
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations")
    bits, kind = weights.get("num_bits"), weights.get("type")
    name = {"8 float": "fp8", "8 int": "int8", "4 int": "int4", "4 float": "nvfp4"}.get(f"{bits} {kind}")
    if name is None:
        raise InputError(
            f"{where}: quantization_config weights of {bits} bits, type {kind!r}, are not supported"
        )
    if "mxfp4" in str(groups[0].get("format") or values.get("format")):
        name = "mxfp4"
    activations = FORMATS[name].rate if inputs else "bf16"
    cache = values.get("kv_cache_scheme") or {}
    kv = "fp8" if cache.get("num_bits") == 8 else None
    return Quantization(FORMATS[name], _kept(values.get("ignore")), activations, kv)


def _four_bit(values: Mapping[str, Any], where: str) -> Quantization:
    bits = values.get("bits", values.get("w_bit"))
    if bits not in (4, 8):
        raise InputError(f"{where}: quantization_config.bits = {bits!r} is not supported")
    group = values.get("group_size", values.get("q_group_size", 128))
    scales = 16 / group if group > 0 else 0.0
    kept = _kept(values.get("modules_to_not_convert"))
    return Quantization(Format(f"int{bits}", bits + scales, None), kept, activations="bf16")
