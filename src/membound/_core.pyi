"""The native core, typed by hand. Bad arguments raise ValueError, what the machine refuses RuntimeError."""

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
