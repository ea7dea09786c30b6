"""How many blocks of KV cache fit in memory."""

from membound.errors import InputError
from membound.hardware.memory import available_memory
from membound.serving.request import BLOCK_TOKENS

SHARE = 0.5
"""Of the memory that is left beside the weights, what the KV cache may take unasked."""


def cache_blocks(
    bytes_per_token: float,
    *,
    context: int,
    sequences: int,
    asked_context: int | None = None,
    kv_memory: int | None = None,
    other_bytes: int = 0,
    available: int | None = None,
) -> int:
    """Blocks of KV cache: as many as `sequences` of `context` tokens can fill, or as fit.

    `kv_memory` bytes are taken as asked, as far as they exist; unasked, `SHARE` of what is left beside
    `other_bytes` yet to be taken, weights above all. `asked_context` tokens of one sequence must fit.
    InputError where nothing useful fits.
    """
    free = max(0, (available_memory() if available is None else available) - other_bytes)
    if kv_memory is not None and kv_memory > free:
        raise InputError(
            f"a KV cache of {_gb(kv_memory)} is more than the {_gb(free)} of memory that are free"
        )
    room = int(SHARE * free) if kv_memory is None else kv_memory
    block_bytes = bytes_per_token * BLOCK_TOKENS
    fits = int(room // block_bytes)
    wanted = -(-context // BLOCK_TOKENS)
    if fits < 1:
        raise InputError(
            f"the KV cache has {_gb(room)}, less than {BLOCK_TOKENS} tokens need ({_gb(block_bytes)}):"
            " give it more memory"
        )
    if asked_context is not None and fits * BLOCK_TOKENS < asked_context:
        raise InputError(
            f"a context of {asked_context} tokens needs {_gb(bytes_per_token * asked_context)} of KV cache"
            f" but has {_gb(room)}: lower the context or give the cache more memory"
        )
    return min(fits, wanted * sequences) if kv_memory is None else fits


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
