"""A model's operators as the native kernels take them: one description per layer.

The kernels know one kind of layer, with parts that may be absent: norm, attention over rotated queries and
keys, norm, gated feed-forward. An operator that is no part of it is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from gguf import GGMLQuantizationType

from membound import _core
from membound.errors import InputError
from membound.models.operators import Add, Attention, Embedding, Gate, Head, Linear, Norm, Operator, Rotate
from membound.models.weights import Tensor, Weights

# The operators of a layer in their order, with what each takes and gives; those marked may be absent.
LAYER: dict[str, tuple[type[Operator], dict[str, str], bool]] = {
    "attn_norm": (Norm, {"source": "x", "target": "h"}, False),
    "attn_q": (Linear, {"source": "h", "target": "q"}, False),
    "attn_k": (Linear, {"source": "h", "target": "k"}, False),
    "attn_v": (Linear, {"source": "h", "target": "v"}, False),
    "attn_q_norm": (Norm, {"source": "q", "target": "q"}, True),
    "attn_k_norm": (Norm, {"source": "k", "target": "k"}, True),
    "attn_q_rope": (Rotate, {"source": "q"}, False),
    "attn_k_rope": (Rotate, {"source": "k"}, False),
    "attn": (Attention, {"query": "q", "key": "k", "value": "v", "target": "attended"}, False),
    "attn_output": (Linear, {"source": "attended", "target": "h"}, False),
    "post_attention_norm": (Norm, {"source": "h", "target": "h"}, True),
    "attn_add": (Add, {"source": "h"}, False),
    "ffn_norm": (Norm, {"source": "x", "target": "h"}, False),
    "ffn_gate": (Linear, {"source": "h", "target": "gate"}, False),
    "ffn_up": (Linear, {"source": "h", "target": "up"}, False),
    "ffn_act": (Gate, {"gate": "gate", "up": "up", "target": "gated"}, False),
    "ffn_down": (Linear, {"source": "gated", "target": "h"}, False),
    "post_ffw_norm": (Norm, {"source": "h", "target": "h"}, True),
    "ffn_add": (Add, {"source": "h"}, False),
}
BIASED = ("attn_q", "attn_k", "attn_v", "attn_output")

T = TypeVar("T", bound=Operator)


def describe(weights: Weights) -> _core.ModelSpec:
    """The whole model; InputError names the first operator that the kernels lack."""
    graph = weights.graph
    if len(graph.first) != 1:
        raise _unknown(graph.first[-1].name)
    if [operator.name for operator in graph.last] != ["output_norm", "output"]:
        raise _unknown(graph.last[0].name)
    embedding = _one(graph.first[0], Embedding)
    norm, head = _one(graph.last[0], Norm), _one(graph.last[1], Head)
    eps = {op.eps for ops in (*graph.layers, graph.last) for op in ops if isinstance(op, Norm)}
    if len(eps) != 1:
        raise InputError("norms with different eps are not supported by the native kernels")
    return {
        "hidden": embedding.hidden,
        "vocab": embedding.vocab,
        "norm_eps": norm.eps,
        "embedding_scale": embedding.scale,
        "embedding": _matrix(weights, embedding.params()[0].name),
        "head": _matrix(weights, head.params()[0].name),
        "output_norm": _vector(weights, norm.params()[0].name),
        "layers": [
            _layer(weights, operators, f"blk.{index}.") for index, operators in enumerate(graph.layers)
        ],
    }


def matrix_types(weights: Weights) -> set[GGMLQuantizationType]:
    """The types of all matrices."""
    return {tensor.type for tensor in weights.tensors.values() if len(tensor.shape) == 2}


def _layer(weights: Weights, operators: Iterable[Operator], prefix: str) -> _core.LayerSpec:
    found = {operator.name: operator for operator in operators}
    for name, operator in found.items():
        if name not in LAYER:
            raise _unknown(prefix + name)
        kind, wires, _ = LAYER[name]
        _one(operator, kind, prefix)
        if any(getattr(operator, wire) != value for wire, value in wires.items()):
            raise _unknown(prefix + name)
        if isinstance(operator, Linear) and operator.bias and name not in BIASED:
            raise InputError(f"operator {prefix}{name} with a bias is not supported by the native kernels")
    if list(found) != [name for name in LAYER if name in found]:
        raise InputError(f"the operators of {prefix}* stand in an order that the native kernels do not run")
    for name, (_, _, optional) in LAYER.items():
        if name not in found and not optional:
            raise InputError(f"the native kernels need operator {prefix}{name}, which the model lacks")

    attention, gate = _one(found["attn"], Attention), _one(found["ffn_act"], Gate)
    query, key = _one(found["attn_q_rope"], Rotate), _one(found["attn_k_rope"], Rotate)
    if query.rope != key.rope:
        raise InputError(
            f"operators {prefix}attn_q_rope and attn_k_rope differ: the native kernels take one rope"
        )
    linears = [operator for operator in found.values() if isinstance(operator, Linear)]
    return {
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "window": attention.window or 0,
        "scale": attention.scale,
        "rope_adjacent": query.rope.pairing == "adjacent",
        "rope_amplitude": query.rope.amplitude,
        "rope_frequencies": query.rope.inverse_frequencies(),
        "activation": gate.activation,
        "matrices": {op.name: _matrix(weights, f"{prefix}{op.name}.weight") for op in linears},
        "vectors": {
            op.name: _vector(weights, f"{prefix}{op.name}.weight")
            for op in found.values()
            if isinstance(op, Norm)
        },
        "biases": {op.name: _vector(weights, f"{prefix}{op.name}.bias") for op in linears if op.bias},
    }


def _matrix(weights: Weights, name: str) -> _core.MatrixSpec:
    """What must be converted is converted when its turn to be packed comes, and then let go."""
    tensor: Tensor = weights.tensors[name]
    data = tensor.stored if tensor.conversion is None else lambda: tensor.data
    return int(tensor.type), tensor.shape[0], tensor.shape[1], data


def _vector(weights: Weights, name: str) -> np.typing.NDArray[np.float32]:
    return np.ascontiguousarray(weights.tensors[name].dequantize())


def _one(operator: Operator, kind: type[T], prefix: str = "") -> T:
    if type(operator) is not kind:
        raise _unknown(prefix + operator.name)
    return operator


def _unknown(name: str) -> InputError:
    return InputError(f"operator {name} is not supported by the native kernels")
