"""How a model is divided among accelerators, and what they say to each other.

A rank's share is again a model, described by smaller dimensions, so that its operators, parameters and
costs follow from the same records. Divisions follow the engines (vLLM, SGLang): heads, widths and experts
must divide; key-value heads are replicated where there are fewer than ranks; the vocabulary is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from membound.errors import InputError
from membound.models.architecture import (
    AttentionDims,
    Block,
    CompressedAttentionDims,
    DeltaNetDims,
    Dimensions,
    ExpertsDims,
    FeedForward,
    FeedForwardDims,
    KimiDeltaDims,
    LatentAttentionDims,
    MambaDims,
    Mixer,
)
from membound.models.families import layer_operators
from membound.models.quantization import Quantization


@dataclass(frozen=True)
class Layout:
    """Ranks: tensor, pipeline and data parallel multiply; experts are spread over `experts` of tensor x data.

    `data` copies of everything but the experts serve different sequences; where experts are spread beyond the
    tensor ranks, attention is data parallel beside expert parallel.
    """

    tensor: int = 1
    pipeline: int = 1
    experts: int = 1
    data: int = 1

    @property
    def ranks(self) -> int:
        """Accelerators in use."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_tensor(self) -> int:
        """Ranks that share the width of one expert."""
        return max(1, self.tensor * self.data // self.experts) if self.experts > 1 else self.tensor

    @property
    def shares_experts(self) -> bool:
        """Whether data-parallel copies share one set of experts."""
        return self.experts > 1 and self.data > 1


def layout(tensor: int = 1, pipeline: int = 1, experts: int = 1, data: int = 1) -> Layout:
    """A layout as the options give it: `--ep` beyond the tensor ranks brings its own data-parallel copies."""
    for name, value in (("tp", tensor), ("pp", pipeline), ("ep", experts), ("dp", data)):
        if value < 1:
            raise InputError(f"--{name} must be at least 1, it is {value}")
    if experts > tensor * data:
        if experts % tensor:
            raise InputError(f"--ep {experts} must be a multiple of --tp {tensor}")
        data = experts // tensor
    if experts > 1 and (tensor * data) % experts:
        raise InputError(f"--ep {experts} must divide tp x dp = {tensor * data}")
    return Layout(tensor, pipeline, experts, data)


def stages(model: Dimensions, layout: Layout) -> list[Dimensions]:
    """The share of one rank in each pipeline stage; the first looks tokens up, the last samples."""
    count = len(model.layers)
    if layout.pipeline > count:
        raise InputError(f"--pp {layout.pipeline}: the model has only {count} layers")
    if layout.experts > 1 and not any(isinstance(b.feed_forward, ExpertsDims) for b in model.layers):
        raise InputError(f"--ep {layout.experts}: the model has no experts")
    shares = {block: _block(block, layout) for block in set(model.layers)}
    cuts = [stage * count // layout.pipeline for stage in range(layout.pipeline + 1)]
    vocab = -(-model.vocab // layout.tensor)  # the last rank's is padded
    return [
        replace(model, vocab=vocab, layers=tuple(shares[block] for block in model.layers[start:end]))
        for start, end in pairwise(cuts)
    ]


def refuse_cut_blocks(model: Dimensions, shares: Sequence[Dimensions], scheme: Quantization | None) -> None:
    """InputError where a rank's share of a matrix ends within a block that shares a scale, as in engines.

    `shares` are those of all stages; what is not divided may end within a block, as in the checkpoint.
    """
    if scheme is None or scheme.block is None:
        return
    divided = [block for share in shares for block in share.layers]
    for index, (block, share) in enumerate(zip(model.layers, divided, strict=True)):
        whole = _matrices(block, model.hidden)
        for name, shape in _matrices(share, model.hidden).items():
            if scheme.format_of(f"blk.{index}.{name}", shape).name != scheme.format.name:
                continue
            for length, full, size in zip(shape[-2:], whole[name][-2:], scheme.block, strict=True):
                if length != full and length % size:
                    raise InputError(
                        f"{name}: a rank's {length} of {full} are no whole blocks of {size}, which share a"
                        " scale in this checkpoint: choose another --tp, --ep or --weights"
                    )


@cache
def _matrices(block: Block, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices of one layer by their local names."""
    operators = layer_operators(block, hidden, 0.0)
    return {p.name: p.shape for operator in operators for p in operator.params() if len(p.shape) > 1}


def _block(block: Block, layout: Layout) -> Block:
    mixer = None if block.attention is None else _mixer(block.attention, layout.tensor)
    forward = None if block.feed_forward is None else _feed_forward(block.feed_forward, layout)
    return Block(mixer, forward, block.post_norms, block.streams, block.attends_depth)


def _mixer(dims: Mixer, ranks: int) -> Mixer:
    match dims:
        case AttentionDims():
            heads = _divide("attention heads", dims.heads, ranks)
            return replace(dims, heads=heads, kv_heads=_replicate("KV heads", dims.kv_heads, ranks))
        case LatentAttentionDims() | KimiDeltaDims():
            return replace(dims, heads=_divide("attention heads", dims.heads, ranks))
        case CompressedAttentionDims():
            groups = _divide("output groups", dims.output_groups, ranks)
            return replace(dims, heads=_divide("attention heads", dims.heads, ranks), output_groups=groups)
        case DeltaNetDims():
            keys = _divide("linear key heads", dims.key_heads, ranks)
            return replace(dims, key_heads=keys, value_heads=_divide("value heads", dims.value_heads, ranks))
        case MambaDims():
            groups = _replicate("Mamba groups", dims.groups, ranks)
            return replace(dims, heads=_divide("Mamba heads", dims.heads, ranks), groups=groups)


def _feed_forward(dims: FeedForward, layout: Layout) -> FeedForward:
    if isinstance(dims, FeedForwardDims):
        return replace(dims, width=_divide("the feed-forward's width", dims.width, layout.tensor))
    return replace(
        dims,
        held=_divide("experts", dims.experts, layout.experts),
        width=_divide("an expert's width", dims.width, layout.expert_tensor),
        shared_width=_divide("the shared experts' width", dims.shared_width, layout.tensor),
    )


def _divide(what: str, whole: int, ranks: int) -> int:
    if whole % ranks:
        raise InputError(f"{what}: {whole} cannot be divided among {ranks} ranks")
    return whole // ranks


def _replicate(what: str, whole: int, ranks: int) -> int:
    """Divided, or one for each rank where there are fewer than ranks."""
    if whole % ranks and ranks % whole:
        raise InputError(f"{what}: {whole} can neither be divided among {ranks} ranks nor replicated evenly")
    return max(1, whole // ranks)


@dataclass(frozen=True)
class Collective:
    """One exchange among `ranks`: `row_bytes` for each row of a step, `times` in a step."""

    name: str  # all-reduce, all-gather, all-to-all, send
    ranks: int
    row_bytes: float
    times: int
    sampled: bool = False  # rows that sample, instead of all

    @property
    def wire_bytes(self) -> float:
        """Bytes that a rank sends for each row, at least (ring algorithms)."""
        spread = (self.ranks - 1) / self.ranks
        return {
            "all-reduce": 2 * spread,
            "all-gather": spread,
            "all-to-all": spread,
            "send": 1.0,
        }[self.name] * self.row_bytes

    @property
    def span(self) -> int:
        """Ranks that must be within reach of the link."""
        return self.ranks


def collectives(
    model: Dimensions,
    stage: Dimensions,
    layout: Layout,
    is_first: bool,
    is_last: bool,
    row_bytes: float = 2.0,
) -> list[Collective]:
    """What the ranks of one stage exchange in a step; `row_bytes` is the size of one activation.

    Tensor parallel reduces once after each branch. Data-parallel attention sends each token to the ranks
    of its experts and back instead of the second reduction.
    """
    branches = sum((b.attention is not None) + (b.feed_forward is not None) for b in stage.layers)
    mixtures = [b.feed_forward for b in stage.layers if isinstance(b.feed_forward, ExpertsDims)]
    found = []
    hidden = model.hidden * row_bytes
    reductions = branches + is_first  # the look-up table is divided too
    if layout.shares_experts and mixtures:
        reductions -= len(mixtures)
        width = (mixtures[0].latent or model.hidden) * row_bytes
        copies = min(mixtures[0].active, layout.experts)  # a token goes once to each rank that it needs
        found.append(Collective("all-to-all", layout.experts, width * copies, 2 * len(mixtures)))
    if layout.tensor > 1:
        found.append(Collective("all-reduce", layout.tensor, hidden, reductions))
        if is_last:
            found.append(Collective("all-gather", layout.tensor, model.vocab * row_bytes, 1, sampled=True))
    if layout.pipeline > 1 and not is_last:
        found.append(Collective("send", 2, hidden / layout.tensor, 1))
    return [one for one in found if one.times]
