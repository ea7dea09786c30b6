"""The native forward step against the reference, and against itself however a step is cut.

Bounds are of the relative L2 error of the logits. Batches, chunks, threads and places of blocks change no
bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from membound import _core
from membound.errors import InputError, RunError
from membound.executors import reference
from membound.executors.native import KvType, NativeExecutor, default_isa, default_kv_type
from membound.executors.reference import ReferenceModel
from membound.models.architecture import Architecture
from membound.models.operators import Attention, Linear
from membound.models.rope import Llama3Scaling, YarnScaling
from membound.models.weights import Weights, open_weights
from tests import small_models
from tests.native.test_matmul import rounded_to_bf16
from tests.small_models import FAMILIES, small_architecture, write_gguf, write_safetensors

Floats = NDArray[np.float32]
FLOAT_BOUND, ROUNDED_BOUND, HALF_BOUND, QUANT_BOUND, KL_BOUND = 1e-4, 2e-3, 1e-2, 5e-2, 2e-3
ISAS = _core.isas()


def error(logits: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


def divergence(logits: Floats, expected: Floats) -> float:
    """Mean Kullback-Leibler divergence of the distributions after each token, in nats."""
    p, q = (
        x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (expected.astype(float), logits.astype(float))
    )
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def random_tokens(count: int, vocab: int = 300, seed: int = 0) -> list[int]:
    return list(map(int, np.random.default_rng(seed).integers(0, vocab, count)))


def small(path: Path, family: str, kind: Type = Type.F32, **dims: Any) -> Weights:
    return open_weights(write_gguf(path / "m.gguf", small_architecture(family, **dims), kind))


class Cut:
    """Feeds a model sequences in steps cut as one likes, and takes the logits of every so many positions.

    Its blocks lie scattered over the cache.
    """

    def __init__(
        self, executor: NativeExecutor, sequences: Sequence[Sequence[int]], seed: int = 0, every: int = 1
    ) -> None:
        self.core, self.sequences, self.every = executor.core, sequences, every
        self.done = [0] * len(sequences)
        width = max(-(-len(tokens) // 16) for tokens in sequences)
        order = np.random.default_rng(seed).permutation(self.core.blocks)
        self.tables = order[: len(sequences) * width].reshape(len(sequences), width).astype(np.int32)
        self.logits: list[list[Floats]] = [[] for _ in sequences]

    def step(self, counts: dict[int, int]) -> None:
        """That many further tokens of each sequence."""
        tokens: list[int] = []
        starts = [0]
        samples: dict[int, list[int]] = {}
        for index, count in counts.items():
            tokens += self.sequences[index][self.done[index] : self.done[index] + count]
            first = -self.done[index] % self.every
            samples[index] = [starts[-1] + row for row in range(first, count, self.every)]
            starts.append(len(tokens))
        logits = self.core.logits(
            tokens,
            starts,
            [self.done[index] for index in counts],
            list(counts),
            self.tables,
            [row for rows in samples.values() for row in rows],
        )
        taken = 0
        for index, count in counts.items():
            self.logits[index].append(logits[taken : taken + len(samples[index])])
            taken += len(samples[index])
            self.done[index] += count

    def results(self) -> list[Floats]:
        return [np.concatenate(parts) for parts in self.logits]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_float32(family: str, isa: str, tmp_path: Path) -> None:
    weights = small(tmp_path, family)
    tokens = random_tokens(70)
    logits = NativeExecutor(weights, blocks=8, isa=isa).logits(tokens)
    assert error(logits, ReferenceModel(weights).logits(tokens)) <= FLOAT_BOUND


@pytest.mark.parametrize(
    "dims",
    [
        {"heads": 1, "kv_heads": 1, "head_dim": 2},
        {"heads": 3, "kv_heads": 1, "head_dim": 10},
        {"heads": 7, "kv_heads": 7, "head_dim": 24},
        {"heads": 100, "kv_heads": 2, "head_dim": 8},
        {"heads": 14, "kv_heads": 2, "head_dim": 64},
        {"heads": 16, "kv_heads": 2, "head_dim": 16},
        {"heads": 12, "kv_heads": 2, "head_dim": 80},
        {"heads": 4, "kv_heads": 1, "head_dim": 256},
        {"hidden": 96, "width": 160, "vocab": 273},
    ],
)
def test_awkward_dimensions(dims: dict[str, int], tmp_path: Path) -> None:
    for family in ("qwen3", "llama"):
        weights = small(tmp_path, family, **dims)
        tokens = random_tokens(19, 272)
        logits = NativeExecutor(weights, blocks=2).logits(tokens)
        assert error(logits, ReferenceModel(weights).logits(tokens)) <= FLOAT_BOUND


@pytest.mark.parametrize(
    "scaling",
    [Llama3Scaling(8.0, 1.0, 4.0, 128), YarnScaling(4.0, 128, amplitude=1.1386)],
    ids=lambda s: type(s).__name__,
)
def test_rope_scalings(scaling: Llama3Scaling | YarnScaling, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path, small_architecture("llama", scaling=scaling))
    weights = open_weights(folder)
    tokens = random_tokens(50)
    logits = NativeExecutor(weights, blocks=4).logits(tokens)
    assert error(logits, ReferenceModel(weights).logits(tokens)) <= FLOAT_BOUND


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [None, 5, 300])
def test_contexts_of_several_partitions(window: int | None, isa: str, tmp_path: Path) -> None:
    architecture = small_architecture("mistral", window=window, context_length=1024)
    weights = open_weights(write_gguf(tmp_path / "m.gguf", architecture))
    tokens = random_tokens(777)
    logits = NativeExecutor(weights, blocks=49, isa=isa).logits(tokens)
    assert error(logits, ReferenceModel(weights).logits(tokens)) <= FLOAT_BOUND


class RoundsItsFactor(np.ndarray[Any, np.dtype[np.float32]]):
    """A matrix of BF16 weights: what it multiplies is rounded to bf16 first."""

    def __rmatmul__(self, factor: Any) -> Any:
        return rounded_to_bf16(factor) @ np.asarray(self)


class RoundingModel(ReferenceModel):
    """The reference with activations as products with BF16 weights take them."""

    def _tensor(self, name: str) -> Floats:
        values = super()._tensor(name)
        return values.view(RoundsItsFactor) if values.ndim == 2 else values


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [Type.F16, Type.BF16])
def test_half_precision(kind: Type, isa: str, tmp_path: Path) -> None:
    for family in ("qwen2", "gemma3"):
        weights = small(tmp_path, family, kind)
        tokens = random_tokens(64)
        logits, expected = (
            NativeExecutor(weights, blocks=4, isa=isa, kv_type="f16").logits(tokens),
            ReferenceModel(weights).logits(tokens),
        )
        like = RoundingModel(weights).logits(tokens) if kind == Type.BF16 else expected
        assert error(logits, like) <= HALF_BOUND
        assert divergence(logits, expected) <= KL_BOUND


def attend_in_bf16(queries: Floats, keys: Floats, values: Floats, attention: Attention) -> Floats:
    """The reference's attention with factors rounded to bf16, as a cache of that type has them."""
    rows, heads = len(queries), attention.kv_heads
    grouped = rounded_to_bf16(queries * np.float32(attention.scale)).reshape(rows, heads, -1, keys.shape[-1])
    scores = np.einsum("rhgd,khd->rhgk", grouped, rounded_to_bf16(keys))
    seen = np.arange(len(keys)) <= np.arange(len(keys) - rows, len(keys))[:, None]
    scores = np.where(seen[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attended = np.einsum("rhgk,khd->rhgd", rounded_to_bf16(weights), rounded_to_bf16(values))
    return np.asarray(attended / weights.sum(-1, keepdims=True), np.float32).reshape(rows, -1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "dims",
    [
        {"heads": 3, "kv_heads": 1, "head_dim": 10},
        {"heads": 100, "kv_heads": 2, "head_dim": 8},
        {"heads": 9, "kv_heads": 3, "head_dim": 64},
        {"heads": 12, "kv_heads": 2, "head_dim": 80},
        {"heads": 4, "kv_heads": 1, "head_dim": 256},
    ],
)
def test_a_cache_in_bf16(
    dims: dict[str, int], isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "attend", attend_in_bf16)
    weights = small(tmp_path, "llama", **dims)
    tokens = random_tokens(300)
    logits = NativeExecutor(weights, blocks=19, isa=isa, kv_type="bf16").logits(tokens)
    assert error(logits, ReferenceModel(weights).logits(tokens)) <= ROUNDED_BOUND


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # halves turn, and neighbours
def test_a_large_bias_of_keys_takes_no_bits_from_them(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_tensors = small_models.random_tensors

    def biased(architecture: Architecture, seed: int) -> dict[str, Floats]:
        """A bias of 100 where each head turns by 0.0003 per position: its last pair."""
        tensors = random_tensors(architecture, seed)
        for name, values in tensors.items():
            if name.endswith("attn_k.bias"):
                values.reshape(-1, 16)[:, [7, 15]] += 100
        return tensors

    with monkeypatch.context() as patch:
        patch.setattr(small_models, "random_tensors", biased)
        weights = small(tmp_path, family, bias=True)
    tokens = random_tokens(40)
    logits = NativeExecutor(weights, blocks=19, kv_type="bf16").logits(tokens)
    assert error(logits, ReferenceModel(weights).logits(tokens)) <= HALF_BOUND


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "kind",
    [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K],
    ids=lambda kind: kind.name,
)
def test_quantized_types(kind: Type, isa: str, tmp_path: Path) -> None:
    weights = small(tmp_path, "llama", kind, hidden=256, width=512, head_dim=64)
    tokens = random_tokens(64)
    logits = NativeExecutor(weights, blocks=4, isa=isa).logits(tokens)
    expected = ReferenceModel(weights).logits(tokens)
    assert error(logits, expected) <= QUANT_BOUND
    assert divergence(logits, expected) <= KL_BOUND


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("family", "kind", "kv_type"),
    [
        ("gemma3", Type.Q8_0, "bf16"),
        ("gemma3", Type.Q8_0, "f16"),
        ("llama", Type.F32, "f32"),
        ("qwen2", Type.Q4_1, "bf16"),
        ("qwen2", Type.Q4_1, "f16"),
        ("llama", Type.BF16, "bf16"),
    ],
)
def test_cuts_and_batches_change_no_bit(
    family: str, kind: Type, kv_type: KvType, isa: str, tmp_path: Path
) -> None:
    """One at a time on one thread, against chunks from 1 to 300, mixed with others, on one to three.

    With few logits taken, of several rows of a sequence or none, the last layer computes little else.
    """
    weights = open_weights(
        write_gguf(
            tmp_path / "m.gguf", small_architecture(family, window=100 if family == "gemma3" else None), kind
        )
    )
    lengths = (300, 33, 16, 1, 270, 17, 5, 31)
    sequences = [random_tokens(length, seed=index) for index, length in enumerate(lengths)]
    alone = NativeExecutor(weights, blocks=19, threads=1, isa=isa, kv_type=kv_type)
    expected = [alone.logits(tokens) for tokens in sequences]
    for threads, sizes, every in (
        (3, (7,), 1),
        (2, (64, 1, 7), 1),
        (3, (13, 100), 1),
        (2, (300,), 1),
        (3, (300, 7), 1),
        (2, (1,), 1),
        (1, (300,), 200),
        (3, (300, 7), 20),
        (2, (64, 1, 7), 3),
        (3, (13, 100), 40),
    ):
        executor = NativeExecutor(weights, blocks=200, threads=threads, isa=isa, kv_type=kv_type)
        cut = Cut(
            executor, [tokens[:60] for tokens in sequences] if sizes == (1,) else sequences, threads, every
        )
        turn = 0
        while True:
            counts = {}
            for index, sequence in enumerate(cut.sequences):
                left = len(sequence) - cut.done[index]
                if left and (index + turn) % 4 != 3:
                    counts[index] = min(left, sizes[(turn + index) % len(sizes)])
            turn += 1
            if counts:
                cut.step(counts)
            elif turn > 4 and all(
                done == len(tokens) for done, tokens in zip(cut.done, cut.sequences, strict=True)
            ):
                break
        for logits, whole, tokens in zip(cut.results(), expected, cut.sequences, strict=True):
            np.testing.assert_array_equal(logits, whole[: len(tokens) : every])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q8_0], ids=lambda kind: kind.name)
def test_many_sequences_at_once_change_no_bit(kind: Type, every: int, isa: str, tmp_path: Path) -> None:
    """Each with a token or two, so that a thread takes rows of its own through all layers.

    One has a long context, others have almost none.
    """
    weights = small(tmp_path, "qwen2", kind)
    sequences = [random_tokens(9 + (index * 7) % 25, seed=index) for index in range(59)]
    sequences[3] = random_tokens(250, seed=3)
    alone = NativeExecutor(weights, blocks=19, threads=1, isa=isa)
    expected = [alone.logits(tokens) for tokens in sequences]
    for threads in (2, 3, 5):
        cut = Cut(NativeExecutor(weights, blocks=1000, threads=threads, isa=isa), sequences, threads, every)
        cut.step({index: len(tokens) - 8 for index, tokens in enumerate(sequences)})
        for some in (range(59), range(22, 59), range(22), range(59)):
            cut.step(dict.fromkeys(some, 1))
        cut.step({index: 1 + index % 2 for index in range(59)})
        cut.step({index: len(tokens) - cut.done[index] for index, tokens in enumerate(sequences)})
        for logits, whole in zip(cut.results(), expected, strict=True):
            np.testing.assert_array_equal(logits, whole[::every])


@pytest.mark.skipif("amx" not in ISAS, reason="this processor has no tile registers")
def test_attention_alone_may_run_on_tile_registers(tmp_path: Path) -> None:
    weights = small(tmp_path, "qwen2", Type.Q4_1)
    alone, executor = (
        NativeExecutor(weights, blocks=60, threads=threads, isa="avx512+amx", kv_type="bf16")
        for threads in (1, 2)
    )
    sequences = [random_tokens(length, seed=length) for length in (300, 33, 270)]
    cut = Cut(executor, sequences)
    for sizes in (256, 13, 1, 30):
        cut.step(
            {
                i: min(sizes, len(ids) - cut.done[i])
                for i, ids in enumerate(sequences)
                if cut.done[i] < len(ids)
            }
        )
    for ids, found in zip(sequences, cut.results(), strict=True):
        np.testing.assert_array_equal(found, alone.logits(ids))
    expected = ReferenceModel(weights).logits(sequences[0])
    assert error(alone.logits(sequences[0]), expected) <= QUANT_BOUND


def test_an_engine_for_few_sequences_has_kernels_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMBOUND_ISA", raising=False)
    quantized = small(tmp_path, "llama", Type.Q4_1)
    strongest = ISAS[-1]
    few = "avx512+amx" if strongest == "amx" else strongest
    assert [default_isa(quantized, count) for count in (1, 2, 3)] == [few, few, strongest]
    assert default_kv_type(quantized, few) == ("bf16" if strongest == "amx" else "f16")
    assert default_isa(small(tmp_path, "llama", Type.BF16), 1) == strongest
    monkeypatch.setenv("MEMBOUND_ISA", "portable")
    assert default_isa(quantized, 1) == "portable"


def test_what_a_block_held_before_does_not_matter(tmp_path: Path) -> None:
    weights = small(tmp_path, "qwen3", Type.Q8_0)
    executor = NativeExecutor(weights, blocks=4)
    tokens = random_tokens(37)
    fresh = executor.logits(tokens)
    executor.logits(random_tokens(64, seed=1))
    np.testing.assert_array_equal(executor.logits(tokens), fresh)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 20, 200])
def test_greedy_tokens_of_a_step_are_those_of_its_logits(count: int, threads: int, tmp_path: Path) -> None:
    weights = small(tmp_path, "llama", vocab=1000)
    executor = NativeExecutor(weights, blocks=13, threads=threads)
    tokens = random_tokens(count)
    logits = executor.logits(tokens)
    ids, reports = executor.core.step(
        tokens, [0, count], [0], [0], np.arange(13, dtype=np.int32)[None], list(range(count))
    )
    assert ids == logits.argmax(-1).tolist()
    assert reports is None


def test_the_first_of_equal_logits_is_taken_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_tensors = small_models.random_tensors

    def repeated(architecture: Architecture, seed: int) -> dict[str, Floats]:
        """Every logit eleven or twelve times."""
        return {
            name: values[np.arange(1000) % 90] if len(values) == 1000 else values
            for name, values in random_tensors(architecture, seed).items()
        }

    with monkeypatch.context() as patch:
        patch.setattr(small_models, "random_tensors", repeated)
        weights = small(tmp_path, "llama", Type.Q8_0, vocab=1000)
    executor = NativeExecutor(weights, blocks=13, threads=2)
    tokens = random_tokens(200)
    ids, _ = executor.core.step(
        tokens, [0, 200], [0], [0], np.arange(13, dtype=np.int32)[None], list(range(200))
    )
    assert max(ids) < 90
    assert ids == executor.logits(tokens).argmax(-1).tolist()


def test_two_engines_at_once_and_more_threads_than_processors(tmp_path: Path) -> None:
    weights = small(tmp_path, "llama")
    tokens = random_tokens(40)
    executors = [NativeExecutor(weights, blocks=4, threads=threads) for threads in (2, 4)]
    expected = executors[0].logits(tokens)
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda index: executors[index % 2].logits(tokens), range(12))
    for logits in results:
        np.testing.assert_array_equal(logits, expected)


def test_sizes(tmp_path: Path) -> None:
    weights = small(tmp_path, "llama", Type.Q8_0)
    done: list[int] = []
    core = NativeExecutor(weights, blocks=10, threads=2, progress=done.append).core
    read = sum(
        tensor.data.nbytes
        for name, tensor in weights.tensors.items()
        if len(tensor.shape) == 2 and name != "token_embd.weight"
    )
    assert core.weight_bytes == done[-1] == read
    assert done == sorted(done)
    assert read <= core.arena_bytes <= read + (4 << 20)
    assert (core.threads, core.blocks, core.vocab) == (2, 10, 300)
    assert core.kv_bytes >= 10 * 16 * 2 * 2 * 2 * 16 * 2


STEP: dict[str, Any] = {
    "tokens": [1, 2, 3],
    "starts": [0, 3],
    "first_positions": [0],
    "slots": [0],
    "tables": np.array([[0, 1]], np.int32),
    "sample_rows": [2],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 300, 3]}, "token 300 is not in the vocabulary of 300"),
        ({"tokens": [-1, 2, 3]}, "token -1 is not in the vocabulary"),
        ({"tokens": [], "starts": [0, 0]}, "at least one row"),
        ({"tables": np.array([[2, 1]], np.int32)}, "block 2 is not in the cache"),
        ({"tables": np.array([[-1, 1]], np.int32)}, "block -1 is not in the cache"),
        ({"first_positions": [30]}, "a position lies outside its block table"),
        ({"first_positions": [2**31 - 1]}, "a position lies outside its block table"),
        ({"first_positions": [-1]}, "positions must not be negative"),
        ({"slots": [1]}, "a slot lies outside the block tables"),
        ({"slots": [0, 0]}, "do not fit together"),
        ({"starts": [0, 2]}, "starts do not cover the rows"),
        ({"starts": [0, 3, 3], "slots": [0, 0], "first_positions": [0, 0]}, "starts must ascend"),
        ({"sample_rows": [3]}, "a sampled row is none of the step's"),
        ({"sample_rows": [-1]}, "a sampled row is none of the step's"),
    ],
)
def test_rows_outside_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    core = NativeExecutor(small(tmp_path, "llama"), blocks=2).core
    with pytest.raises(ValueError, match=message):
        core.logits(**{**STEP, **change})
    with pytest.raises(ValueError, match=message):
        core.step(**{**STEP, **change})
    core.logits(**STEP)  # and nothing is broken


def test_memory_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot get \d+\.\d\d GiB of memory for the KV cache"):
        NativeExecutor(small(tmp_path, "llama"), blocks=2**31 - 1)


def test_an_operator_that_the_kernels_lack_is_refused_by_name(tmp_path: Path) -> None:
    weights = small(tmp_path, "llama")
    group = weights.graph.groups[0]
    strange = Linear("attn_compress", 64, 64, source="h", target="c")
    graph = replace(weights.graph, groups=(replace(group, operators=(*group.operators, strange)),))
    with pytest.raises(
        InputError, match=r"operator blk\.0\.attn_compress is not supported by the native kernels"
    ):
        NativeExecutor(replace(weights, graph=graph), blocks=2)
