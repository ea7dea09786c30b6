"""The cost of a step: exact against the records, never below its floor, monotone where physics is."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from membound.costs.calibration import fitted
from membound.costs.parallel import Layout, layout
from membound.costs.precisions import precisions
from membound.costs.roofline import StepCost
from membound.errors import InputError
from membound.hardware.accelerator import Cluster
from membound.hardware.lookup import accelerators, find, what_ifs
from membound.models.families import build
from membound.models.latent import LatentAttention
from membound.models.names import catalog, dimensions_of
from membound.models.operators import Attention, Chunk, Load, Parameter, Work
from tests.costs.deployments import LLAMA, deployment

MODELS = [
    LLAMA, "gemma-3-27b_text", "Mixtral-8x7B-v0.1", "gpt-oss-120b", "DeepSeek-V3.2", "DeepSeek-V4-Flash",
    "Qwen3-Next-80B-A3B-Thinking", "Kimi-K3", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Llama-4-Scout-17B-16E-Instruct",
]  # fmt: skip
LAYOUTS = [
    layout(tp, pp, ep, dp)
    for tp, pp, ep, dp in [
        (1, 1, 1, 1), (2, 1, 1, 1), (8, 1, 1, 1), (1, 2, 1, 1), (2, 4, 1, 1), (16, 1, 1, 1), (4, 2, 8, 2),
        (1, 1, 8, 1), (8, 1, 8, 1), (1, 1, 1, 4),
    ]
]  # fmt: skip
CHUNKS = st.lists(
    st.tuples(st.one_of(st.just(1), st.integers(1, 3000)), st.integers(0, 20_000)), min_size=1, max_size=6
)


@cache
def built(model: str, hardware: str, tp: int, pp: int, ideal: bool) -> StepCost:
    if ideal:
        return deployment(model, hardware, tp=tp, pp=pp)
    return deployment(model, hardware, fitted(), tp=tp, pp=pp)


def counted(model: str, chunks: list[tuple[int, int]]) -> Work:
    """The work of a step summed over the operator records, every layer of them, in 16 bits."""
    graph = build(dimensions_of(model))
    load = Load.of(chunks, graph.windows, 2)

    def bytes_of(parameter: Parameter) -> float:
        return 2.0 * parameter.elements

    total = Work()
    for layer in (graph.first, *graph.layers):
        for operator in layer:
            total += operator.cost(load, bytes_of)
    for operator in graph.last:
        total += operator.cost(replace(load, rows=load.sampled), bytes_of)
    return total


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=8, deadline=None)
@given(chunks=CHUNKS)
def test_coefficients_say_what_the_records_say(model: str, chunks: list[tuple[int, int]]) -> None:
    known = dimensions_of(model)
    formats = precisions(known, weights="bf16", kv="bf16")
    cost = StepCost(known, find("b200-sxm"), formats, layout(), fitted(), "none", skew=0.0)
    step, work = cost.estimate(chunks), counted(model, chunks)
    assert step.bytes == pytest.approx(work.bytes, rel=1e-9)
    if model not in (
        "DeepSeek-V3.2",
        "Kimi-K3",
    ):  # take the quicker way, not that of fewer FLOPs
        assert step.flops == pytest.approx(work.flops, rel=1e-9)
    else:
        assert step.flops >= work.flops * (1 - 1e-9)


def test_attention_flops_are_counted_pairs() -> None:
    """Every (query, key) pair within the window, counted one by one: 4 FLOPs for each element of a head."""
    for window, model in ((None, LLAMA), (1024, "gemma-3-27b_text")):
        graph = build(dimensions_of(model))
        tokens, context = 1300, 500
        pairs = sum(min(context + j + 1, window or context + j + 1) for j in range(tokens))
        attention = next(
            op for ops in graph.layers for op in ops if isinstance(op, Attention) and op.window == window
        )
        work = attention.cost(Load.of([(tokens, context)], [window], 2), lambda p: 0)
        assert work.flops == 4 * attention.heads * attention.head_dim * pairs


@settings(max_examples=150, deadline=None)
@given(
    chunks=CHUNKS,
    model=st.sampled_from(sorted(catalog())),
    hardware=st.sampled_from([*accelerators(), *what_ifs()]),
    shape=st.sampled_from(LAYOUTS),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "none"]),
)
def test_no_prediction_beats_its_floor(
    chunks: list[tuple[int, int]], model: str, hardware: str, shape: Layout, engine: str
) -> None:
    """Every model on every part in every layout that the model divides into and whose links are published."""
    known = dimensions_of(model)
    try:
        cost = StepCost(known, find(f"{shape.ranks}x{hardware}"), precisions(known), shape, fitted(), engine)
    except InputError:
        reject()
    step = cost.estimate(chunks)
    part, pp = cost.cluster.accelerator, shape.pipeline
    own = part.weight_memory.bandwidth_bytes_per_s if part.weight_memory else 0.0
    fastest = part.bandwidth_bytes_per_s + own  # the two are read side by side
    assert step.seconds >= step.limit_seconds
    assert step.limit_seconds >= step.bytes / (pp * fastest) / (1 + 1e-9)
    assert step.limit_seconds >= step.flops / (pp * max(part.peaks.values())) / (1 + 1e-9)
    if pp == 1:  # kernels run one after another, each below its own roof
        one_by_one = sum(op.limit_seconds for op in step.operations if op.bound != "link")
        assert step.seconds >= one_by_one * (1 - 1e-9) >= step.limit_seconds * (1 - 2e-9)


@settings(max_examples=150, deadline=None)
@given(
    chunks=CHUNKS,
    model=st.sampled_from(sorted(catalog())),
    hardware=st.sampled_from([*accelerators(), *what_ifs()]),
    shape=st.sampled_from(LAYOUTS),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "none"]),
    tokens=st.integers(1, 2000),
    more=st.integers(1, 4000),
)
def test_more_work_is_never_quicker(
    chunks: list[tuple[int, int]],
    model: str,
    hardware: str,
    shape: Layout,
    engine: str,
    tokens: int,
    more: int,
) -> None:
    """More context, a longer prompt, one more sequence: never less time, on any part and in any layout."""
    known = dimensions_of(model)
    try:
        cost = StepCost(known, find(f"{shape.ranks}x{hardware}"), precisions(known), shape, fitted(), engine)
    except InputError:
        reject()
    least = cost.step_seconds([*chunks, (tokens, 100)]) * (1 - 1e-12)
    assert cost.step_seconds([*chunks, (tokens, 100 + more)]) >= least
    if tokens > 1:
        assert cost.step_seconds([*chunks, (tokens + more, 100)]) >= least
    if shape.pipeline == 1 or len(chunks) >= shape.pipeline:  # fewer sequences than stages leave a bubble
        assert least >= cost.step_seconds(chunks) * (1 - 1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_more_bandwidth_or_arithmetic_is_never_slower(model: str) -> None:
    part = find("h100-sxm").accelerator
    known = dimensions_of(model)
    faster = [
        replace(part, figures={**part.figures, "bandwidth_bytes_per_s": 5e12}),
        replace(part, peaks={rate: 2 * peak for rate, peak in part.peaks.items()}),
    ]
    for chunks in ([(1, 4000)] * 16, [(2000, 0)], [(1, 100)] * 3 + [(512, 1000)]):
        plain, *others = (
            StepCost(known, Cluster(p), precisions(known), layout(), fitted()).step_seconds(chunks)
            for p in (part, *faster)
        )
        assert all(other <= plain for other in others)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2)])
def test_many_steps_at_once_are_the_same_steps(model: str, tp: int, pp: int) -> None:
    cost = built(model, "8xb200-sxm", tp, pp, False)
    random = np.random.default_rng(1)
    sequences, context = random.integers(0, 40, 50), random.integers(0, 9000, 50)
    tokens, cached = random.integers(2, 900, 50) * random.integers(0, 2, 50), random.integers(0, 3000, 50)
    sequences += (sequences + tokens) == 0
    arrays = [values.astype(np.float64) for values in (sequences, context, tokens, cached)]
    many = cost.many_seconds(arrays[0], arrays[1], arrays[2], arrays[3])
    for i in range(50):
        chunk = [(int(tokens[i]), int(cached[i]))] if tokens[i] else []
        alone = cost.step_seconds([(1, int(context[i]))] * int(sequences[i]) + chunk)
        summed: dict[int | None, int] = {None: int(sequences[i] * context[i])}
        for window in cost.features.windows:
            if window is not None:
                summed[window] = int(sequences[i] * min(context[i], window))
        assert many[i] == pytest.approx(alone, rel=1e-9)
        assert cost.decode_seconds(int(sequences[i]), summed, chunk) == pytest.approx(alone, rel=1e-9)


def test_the_head_works_only_for_rows_that_sample() -> None:
    cost = deployment()
    sampling = cost.estimate([(512, 0)])
    silent = cost.estimate([Chunk(512, 0, samples=0)])
    known = dimensions_of(LLAMA)
    assert sampling.flops - silent.flops == 2 * known.vocab * known.hidden
    assert sampling.bytes - silent.bytes == pytest.approx(2 * (known.vocab * known.hidden + known.hidden))


def test_a_window_bounds_what_is_read() -> None:
    cost = deployment("gpt-oss-20b")
    short, long = (cost.estimate([(1, context)]).bytes for context in (10_000, 20_000))
    assert long - short == 10_000 * 12 * 2 * 8 * 64 * 2  # only the 12 layers that see all


def test_absorbed_where_few_queries_share_a_context_expanded_where_many_do() -> None:
    cost = deployment("DeepSeek-V3", "h100-sxm")
    graph = build(dimensions_of("DeepSeek-V3"))
    latent = next(op for op in graph.layers[0] if isinstance(op, LatentAttention))

    def flops(chunk: tuple[int, int]) -> float:
        return next(op.flops for op in cost.estimate([chunk]).operations if op.name == "attn")

    assert flops((1, 8191)) == pytest.approx(61 * latent.absorbed_flops(1, 8192))
    assert flops((4096, 0)) == pytest.approx(61 * latent.expanded_flops(4096, 4096 * 4097 / 2))


@pytest.mark.parametrize(
    ("model", "hardware", "note"),
    [
        ("gpt-oss-120b", "h100-sxm", "mxfp4 weights run weight-only: stored mxfp4, multiplied at bf16"),
        ("DeepSeek-V3.1-NVFP4", "h100-sxm", "nvfp4 weights run weight-only: stored nvfp4, multiplied at fp8"),
        ("DeepSeek-V3", "a100-80-sxm", "fp8 weights run weight-only: stored fp8, multiplied at bf16"),
    ],
)
def test_formats_that_a_part_cannot_multiply_run_weight_only(model: str, hardware: str, note: str) -> None:
    known, part = dimensions_of(model), find(hardware).accelerator
    assert note in precisions(known).notes(part)
    assert precisions(known).notes(find("b200-sxm").accelerator) == [] or "mxfp4" in note


def test_precisions_are_separate() -> None:
    plain, weights, kv = (
        deployment(weights=w, kv=k) for w, k in ((None, None), ("fp8", None), (None, "fp8"))
    )
    chunks = [(1, 4095)] * 8
    kv_bytes = 8 * 4097 * 327_680  # read, and one written
    assert plain.estimate(chunks).bytes - kv.estimate(chunks).bytes == pytest.approx(kv_bytes / 2, rel=1e-9)
    saved = plain.estimate(chunks).bytes - weights.estimate(chunks).bytes
    head = 128_256 * 8192
    assert saved == pytest.approx(70_553_706_496 - 2 * head, rel=1e-4)  # look-up table and head keep 16 bits


def test_every_model_of_the_catalog_has_a_cost() -> None:
    for name in catalog():
        assert 0 < deployment(name, "b200-sxm", fitted()).step_seconds([(1, 1000)] * 4) < 10


@pytest.mark.parametrize(
    ("tp", "pp", "ep", "dp"), [(1, 1, 8, 1), (8, 1, 8, 1), (4, 1, 8, 1), (8, 2, 1, 1), (1, 1, 1, 4)]
)
def test_no_layout_beats_its_floor_or_forgets_work(tp: int, pp: int, ep: int, dp: int) -> None:
    """Ranks together do at least the whole model's work, and none is quicker than its bytes and FLOPs."""
    part = find("h200-sxm").accelerator
    whole = deployment("DeepSeek-V3", "h200-sxm")
    for chunks in ([(1, 2000)] * 8, [(1024, 0)], [(1, 500)] * 3 + [(300, 0)]):
        cost = deployment("DeepSeek-V3", "16xh200-sxm", fitted(), tp, pp, ep, dp)
        step = cost.estimate(chunks)
        floor = step.bytes / cost.layout.pipeline / part.bandwidth_bytes_per_s
        assert step.seconds >= step.limit_seconds >= floor * (1 - 1e-9)
        ranks = cost.layout.tensor * cost.layout.data
        assert step.flops * ranks >= whole.estimate(chunks * cost.layout.data).flops * (1 - 1e-9)
