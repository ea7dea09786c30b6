"""Costs are exact: weight bytes are those of the loaded arrays, attention's FLOPs those of counted pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from membound.models.families import build
from membound.models.graph import ModelGraph, step_work, uniform_types
from membound.models.operators import Attention, Chunk, Work, attention_keys, attention_pairs
from membound.models.weights import Weights, open_weights
from tests.small_models import FAMILIES, small_architecture, write_gguf

CHUNKS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=4)


def visible(tokens: int, context: int, window: int | None) -> list[tuple[int, int]]:
    """Every (query, key) pair, one by one."""
    return [
        (query, key)
        for query in range(context, context + tokens)
        for key in range(query + 1)
        if window is None or query - key < window
    ]


@given(st.integers(0, 40), st.integers(0, 40), st.none() | st.integers(1, 50))
def test_pairs_and_keys_are_counted(tokens: int, context: int, window: int | None) -> None:
    pairs = visible(tokens, context, window)
    assert attention_pairs(tokens, context, window) == len(pairs)
    if tokens:
        assert attention_keys(tokens, context, window) == len({key for _, key in pairs})


@given(CHUNKS, st.sampled_from(FAMILIES))
def test_attention_and_matrix_flops_are_counted(chunks: list[tuple[int, int]], family: str) -> None:
    architecture = small_architecture(family)
    graph = build(architecture)
    works = graph.works(chunks, uniform_types(graph, Type.BF16), kv_bytes=2)
    attention = sum(
        4 * layer.attention.head_dim * layer.attention.heads * len(visible(*chunk, layer.attention.window))
        for layer in architecture.layers
        for chunk in chunks
    )
    rows = sum(tokens for tokens, _ in chunks)
    assert works["attn"].flops == attention
    matrices = {name: work.flops for name, work in works.items() if name not in ("attn", "output")}
    elements = sum(
        parameter.shape[0] * parameter.shape[1]
        for parameter in graph.params()
        if len(parameter.shape) == 2 and parameter.name.startswith("blk.")
    )
    assert sum(matrices.values()) == 2 * rows * elements
    assert works["output"].flops == 2 * len(chunks) * architecture.vocab * architecture.hidden
    written = sum(work.kv_write_bytes for work in works.values())
    assert written == rows * graph.kv_bytes_per_token(2)


def looked_up(weights: Weights, rows: int) -> int:
    return rows * int(weights.tensors["token_embd.weight"].data[0].nbytes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q4_1, Type.Q5_0, Type.IQ4_NL])
def test_weight_bytes_are_those_of_the_loaded_arrays(family: str, kind: Type, tmp_path: Path) -> None:
    def mixed(name: str) -> Type:
        return Type.Q8_0 if "ffn_down" in name or name.startswith("blk.1.") else kind

    weights = open_weights(write_gguf(tmp_path / "m.gguf", small_architecture(family), mixed))
    for chunks in ([(1, 0)], [(1, 100), (5, 3)]):
        rows = sum(tokens for tokens, _ in chunks)
        loaded = sum(
            tensor.data.nbytes
            for name, tensor in weights.tensors.items()
            if weights.architecture.tied or name != "token_embd.weight"
        )
        work = step_work(weights.graph, chunks, weights.types, kv_bytes=2)
        assert work.weight_bytes == loaded + looked_up(weights, rows)
        assert work.kv_read_bytes == work_of_kv(weights.graph, chunks)


def work_of_kv(graph: ModelGraph, chunks: list[tuple[int, int]]) -> int:
    """Two bytes for each element of each key and value that any query of a chunk sees."""
    return sum(
        2 * operator.kv_elements * len({key for _, key in visible(*chunk, operator.window)})
        for operators in graph.layers
        for operator in operators
        if isinstance(operator, Attention)
        for chunk in chunks
    )


def test_a_step_that_samples_nothing_reads_no_head() -> None:
    graph = build(small_architecture("llama"))
    types = uniform_types(graph, Type.BF16)
    silent = graph.works([Chunk(8, 0, samples=0)], types, kv_bytes=2)
    assert silent["output"] == silent["output_norm"] == Work()
    assert step_work(graph, [], types, kv_bytes=2) == Work()


def test_layers_that_are_alike_are_described_once() -> None:
    assert len(build(small_architecture("llama", layers=6)).groups) == 1
    groups = build(small_architecture("gemma3")).groups
    assert [group.indices for group in groups] == [(0, 1, 2, 3, 4, 6), (5,)]


REAL = Path("~/.cache/membound/models").expanduser()


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "bytes_per_step"),
    [
        ("smollm2-135m-instruct-q4_1", 96_576_768),
        ("gemma-3-270m-q4_k_m", 246_587_904),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m", 391_859_712),
        ("qwen2.5-coder-1.5b-instruct-q4_k_m", 980_097_536),
    ],
)
def test_real_files(name: str, bytes_per_step: int) -> None:
    """What llama.cpp's own accounting gives, and the row looked up."""
    path = REAL / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    weights = open_weights(path)
    work = step_work(weights.graph, [(1, 0)], weights.types, kv_bytes=2)
    assert work.weight_bytes == bytes_per_step + looked_up(weights, 1)
