"""The native core, typed by hand. Bad arguments raise ValueError, what the machine refuses RuntimeError."""

import numpy as np
import numpy.typing as npt

def isa() -> str:
    """The instruction set in use: portable, avx2 or avx512; MEMBOUND_ISA overrides."""

def isas() -> list[str]:
    """What this machine can run, weakest first."""

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
