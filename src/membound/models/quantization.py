"""How the weights of a checkpoint are stored: the formats, and which tensors keep 16 bits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


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
    targets: tuple[str, ...] = ()  # patterns of `rules`, each of which has to find a module

    @property
    def main(self) -> Format:
        """What most matrices are stored in."""
        return Counter(self.exact.values()).most_common(1)[0][0] if self.exact else self.format

    @property
    def formats(self) -> set[Format]:
        """Every format that occurs."""
        return {self.format, *(kind for _, kind in self.rules), *self.exact.values()}

    def without_module(self, names: Iterable[str]) -> list[str]:
        """Targets that find none of the parameters with these canonical names."""
        modules = {module_name(name) for name in names}
        return [pattern for pattern in self.targets if not any(map(re.compile(pattern).search, modules))]

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
