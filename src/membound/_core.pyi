"""The native core, typed by hand. Bad arguments raise ValueError, what the machine refuses RuntimeError."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

def isa() -> str:
    """The instruction set in use: the strongest of `isas`; MEMBOUND_ISA overrides."""

def isas() -> list[str]:
    """What this machine can run, weakest first; `avx512+amx` may be asked for besides where there is amx."""

def default_threads() -> int:
    """Processors that this process may use: affinity mask and control-group quota."""

def probe_read(bytes: int, threads: int = 0, seconds: float = 0.2) -> float:
    """Bytes per second read by all threads from a working set of that size; threads 0 means all."""

def probe_flops(kind: str, threads: int = 0, seconds: float = 0.2) -> float | None:
    """Operations per second in registers for fp32, bf16 or int8; None without an instruction for it."""

class PackedMatrix:
    """A weight matrix of a GGUF file, packed for the kernels of one instruction set (empty: the one in use).

    `type` is GGUF's id, `file` the bytes of (rows, cols) as they stand in the file.
    """

    def __init__(
        self, type: int, file: npt.NDArray[np.uint8], rows: int, cols: int, isa: str = ""
    ) -> None: ...
    @property
    def bytes(self) -> int:
        """Size when packed."""

    def multiply(self, x: npt.NDArray[np.float32], parts: int = 1) -> npt.NDArray[np.float32]:
        """x (m, cols) times the transposed matrix: (m, rows), computed in so many ranges of rows."""

    def seconds(self, x: npt.NDArray[np.float32], rounds: int = 1) -> float:
        """Time of so many products on one thread, without preparing x."""

def dequantize(type: int, file: npt.NDArray[np.uint8], rows: int, cols: int) -> npt.NDArray[np.float32]:
    """Rows as they stand in a GGUF file, as float32 (rows, cols)."""

class RowSampling:
    """The sampling of one request; `logprobs` of -1 reports nothing."""

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Sequence[tuple[int, float]] = (),
        seed: int = 0,
        logprobs: int = -1,
        prompt_length: int = 0,
    ) -> None: ...
    @property
    def plain(self) -> bool:
        """Greedy, without biases, penalties or log-probabilities."""

    @property
    def penalized(self) -> bool: ...
    @property
    def history_length(self) -> int: ...
    def extend(self, tokens: Sequence[int]) -> None:
        """Further tokens of the sequence, prompt and output, for the penalties."""
    def allow(self, bits: npt.NDArray[np.int32]) -> None:
        """Only these may come next: bit t % 32 of word t // 32 is token t; tokens beyond its end may not."""

Report = tuple[float, list[tuple[int, float]]]
"""Log-probability of the chosen token, and the most probable ids with theirs."""

def sample(
    settings: RowSampling, position: int, logits: npt.NDArray[np.float32], isa: str = ""
) -> tuple[int, Report]:
    """The token at `position` of a sequence from (vocab,) logits."""

MatrixSpec = tuple[int, int, int, npt.NDArray[np.uint8] | Callable[[], npt.NDArray[np.uint8]]]
"""GGUF's type id, rows, columns, the bytes as they stand in the file or a function that makes them."""

class LayerSpec(TypedDict):
    """Named by tensors without their prefix and suffix, as `attn_q`."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int  # 0 sees all
    scale: float
    rope_adjacent: bool
    rope_amplitude: float
    rope_frequencies: npt.NDArray[np.float32]
    activation: str  # silu or gelu_tanh
    matrices: dict[str, MatrixSpec]
    vectors: dict[str, npt.NDArray[np.float32]]
    biases: dict[str, npt.NDArray[np.float32]]

class ModelSpec(TypedDict):
    hidden: int
    vocab: int
    norm_eps: float
    embedding_scale: float
    embedding: MatrixSpec
    head: MatrixSpec
    output_norm: npt.NDArray[np.float32]
    layers: list[LayerSpec]

class DecodingRows:
    """One row of each sequence that decodes greedily, and where its blocks stand in the tables."""

    def __init__(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> None: ...

class Model:
    """A model in memory: its weights packed, a KV cache in blocks of 16 tokens, and the threads that run it.

    A step's rows are the new tokens of its sequences, one sequence after the other: those of sequence s are
    rows starts[s] … starts[s + 1] - 1, at positions from first_positions[s]; row slots[s] of `tables`
    (any, width) holds the ids of its blocks. ValueError for what lies outside vocabulary, tables or cache.
    """

    def __init__(
        self,
        spec: ModelSpec,
        blocks: int,
        kv_type: str = "f16",
        threads: int = 0,
        isa: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`kv_type` is f32, f16 or bf16. `threads` of 0 takes all. `progress` is told the bytes packed."""

    def step(
        self,
        tokens: Sequence[int],
        starts: Sequence[int],
        first_positions: Sequence[int],
        slots: Sequence[int],
        tables: Ints,
        sample_rows: Sequence[int],
        settings: Sequence[RowSampling | None] | None = None,
    ) -> tuple[list[int], list[Report] | None]:
        """Samples the token after each of `sample_rows`; None among the settings is greedy.

        The reports come with settings only; those of rows that did not ask are empty.
        """

    def ready_blocks(self, layer: int, first: int, count: int) -> None:
        """Has the system give the memory of some blocks of a layer's cache now; ValueError for others."""

    def decode(self, rows: DecodingRows, tables: Ints) -> list[int]:
        """Chooses each row's next token greedily; the rows are then those after them."""

    def logits(
        self,
        tokens: Sequence[int],
        starts: Sequence[int],
        first_positions: Sequence[int],
        slots: Sequence[int],
        tables: Ints,
        sample_rows: Sequence[int],
    ) -> npt.NDArray[np.float32]:
        """Logits after each of `sample_rows`: (samples, vocab)."""

    def explain(self, counting: bool) -> None:
        """Counts the time of steps by phase from now on, from zero, or no longer."""

    def phase_seconds(self) -> dict[str, list[float]]:
        """Seconds since `explain`, by phase and thread; each thread's add up to all the time that passed.

        `outside` is the time between steps, `waiting` that at barriers. Empty unless counting.
        """

    @property
    def vocab(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def kv_bytes(self) -> int:
        """Reserved for the KV cache; memory is taken as blocks are first written."""

    @property
    def weight_bytes(self) -> int:
        """Of the matrices that a step reads, as the file has them."""

    @property
    def arena_bytes(self) -> int:
        """Of the same matrices, packed."""

    @property
    def pages(self) -> str:
        """What pages the weights lie on."""
