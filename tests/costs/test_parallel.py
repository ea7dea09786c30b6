"""Shards: they add up to the model, replicate what must be, and refuse what engines refuse."""

import pytest

from membound.costs.calibration import fitted
from membound.costs.memory import rank_memories
from membound.costs.parallel import Collective, collectives, layout, stages
from membound.errors import InputError
from membound.models.architecture import AttentionDims
from membound.models.families import build
from membound.models.names import dimensions_of
from tests.costs.deployments import LLAMA, deployment


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_shards_add_up(tp: int) -> None:
    known = dimensions_of(LLAMA)
    (share,) = stages(known, layout(tp))
    whole, part = build(known).parameters(), build(share).parameters()
    norms = (2 * 80 + 1) * 8192
    assert part * tp == whole + (tp - 1) * norms
    assert build(share).kv_bytes_per_token(2) * tp == build(known).kv_bytes_per_token(2)


def test_kv_heads_are_replicated_where_fewer_than_ranks() -> None:
    (share,) = stages(dimensions_of(LLAMA), layout(16))
    attention = share.layers[0].attention
    assert isinstance(attention, AttentionDims)
    assert (attention.heads, attention.kv_heads) == (4, 1)
    latents = stages(dimensions_of("DeepSeek-V3"), layout(8))[0]
    assert build(latents).kv_bytes_per_token(2) == 70_272  # a latent has no heads to divide


def test_pipeline_stages_hold_each_layer_once() -> None:
    known = dimensions_of("DeepSeek-V3")
    parts = stages(known, layout(8, pipeline=4))
    assert [len(part.layers) for part in parts] == [15, 15, 15, 16]
    memories = rank_memories(deployment("DeepSeek-V3", tp=8, pp=4))
    whole = rank_memories(deployment("DeepSeek-V3", tp=8))[0]
    assert sum(m.weight_bytes for m in memories) == pytest.approx(whole.weight_bytes, rel=1e-9)


def test_experts_are_spread_and_attention_is_data_parallel_beside() -> None:
    alone = layout(experts=8)
    assert (alone.data, alone.ranks, alone.shares_experts) == (8, 8, True)
    known = dimensions_of("DeepSeek-V3")
    (share,) = stages(known, alone)
    experts = 58 * 256 * 3 * 7168 * 2048
    assert build(known).parameters() - build(share).parameters() == experts * 7 // 8
    exchanged = {one.name for one in collectives(known, share, alone, is_first=True, is_last=True)}
    assert exchanged == {"all-to-all"}
    inside = layout(tensor=8, experts=8)
    assert (inside.data, inside.shares_experts) == (1, False)


def test_all_copies_read_the_union_of_their_experts() -> None:
    """Eight ranks of four tokens read what one rank of 32 tokens would, an eighth each."""
    spread = deployment("DeepSeek-V3", "8xh200-sxm", ep=8)
    single = deployment("DeepSeek-V3", "8xh200-sxm")
    experts = [
        next(op.bytes for op in cost.estimate([(1, 100)] * rows).operations if op.name == "ffn_exps")
        for cost, rows in ((spread, 4), (single, 32))
    ]
    assert experts[0] * 8 == pytest.approx(experts[1], rel=1e-9)


@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        (LLAMA, {"tensor": 3}, "attention heads: 64 cannot be divided among 3 ranks"),
        ("SmolLM2-135M", {"tensor": 2}, "attention heads: 9 cannot be divided"),
        ("phi-4", {"tensor": 4}, "KV heads: 10 can neither be divided among 4 ranks"),
        (LLAMA, {"experts": 2}, "the model has no experts"),
        ("Mixtral-8x7B-v0.1", {"experts": 16}, "experts: 8 cannot be divided among 16 ranks"),
        (LLAMA, {"pipeline": 81}, "the model has only 80 layers"),
    ],
)
def test_uneven_divisions_are_refused(model: str, options: dict[str, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        stages(dimensions_of(model), layout(**options))


def test_blocks_that_share_a_scale_are_not_cut() -> None:
    """Qwen3-32B's feed-forward of 25,600 columns makes 200 blocks of 128: 8 ranks hold whole ones, 16 do not.

    (vLLM refuses the same: "not divisible by weight quantization block_n".)
    """
    deployment("Qwen3-32B-FP8", "8xh100-sxm", tp=8)
    with pytest.raises(InputError, match=r"ffn_\w+.weight: a rank's 1600 of 25600 are no whole"):
        deployment("Qwen3-32B-FP8", "16xh100-sxm", tp=16)
    deployment("Qwen3-32B-FP8", "16xh100-sxm", tp=16, weights="bf16")
    deployment("DeepSeek-V3", "16xh200-sxm", tp=16)


def test_impossible_layouts_are_refused() -> None:
    with pytest.raises(InputError, match="--tp must be at least 1"):
        layout(0)
    with pytest.raises(InputError, match="--ep 3 must divide"):
        layout(tensor=8, experts=3)
    with pytest.raises(InputError, match="--ep 12 must be a multiple of --tp 8"):
        layout(tensor=8, experts=12)


def test_wire_bytes_of_rings() -> None:
    assert Collective("all-reduce", 8, 16_384, 1).wire_bytes == 2 * 7 / 8 * 16_384
    assert Collective("all-gather", 4, 1000, 1).wire_bytes == 750


def test_tensor_parallel_reduces_after_every_branch_and_over_the_network_when_it_must() -> None:
    known = dimensions_of(LLAMA)
    (share,) = stages(known, layout(8))
    found = {c.name: c for c in collectives(known, share, layout(8), is_first=True, is_last=True)}
    assert found["all-reduce"].times == 2 * 80 + 1
    inside = deployment(hardware="8xh100-sxm", tp=8, calibration=fitted()).estimate([(2048, 0)])
    across = deployment(hardware="16xh100-sxm", tp=16, calibration=fitted()).estimate([(2048, 0)])
    seconds = [next(op.seconds for op in e.operations if op.name == "all-reduce") for e in (inside, across)]
    assert seconds[1] > 5 * seconds[0]


def test_a_pipeline_has_bubbles_until_it_has_as_many_sequences_as_stages() -> None:
    one, four = deployment(hardware="4xh100-sxm"), deployment(hardware="4xh100-sxm", pp=4)
    # The last stage has the head besides, and sets the pace.
    lone = four.step_seconds([(1, 1000)])
    assert lone == pytest.approx(one.step_seconds([(1, 1000)]), rel=0.01)  # stage after stage
    assert four.step_seconds([(1, 1000)] * 4) == pytest.approx(4 * (137e9 / 4 + 2.1e9) / 3350e9, rel=0.01)


def test_memory_per_rank_and_tokens_that_fit() -> None:
    (two,) = rank_memories(deployment(hardware="2xh100-sxm", tp=2))
    assert two.weight_bytes == pytest.approx(141.1e9 / 2, rel=1e-3)
    assert two.growing_bytes_per_token == 163_840
    assert two.tokens() == (80_000_000_000 - int(two.weight_bytes)) // 163_840
    (one,) = rank_memories(deployment())
    assert (one.fits, one.tokens()) == (False, 0)
    (cpu,) = rank_memories(deployment(hardware="epyc9654"))
    assert (cpu.fits, cpu.tokens()) == (None, None)
    (flash,) = rank_memories(deployment("DeepSeek-V3", hardware="flash-b200"))
    assert flash.fits is True  # 671 GB in flash, all of HBM for the cache
    assert flash.tokens() == int(90e9 // 70_272)
