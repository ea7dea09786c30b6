"""How much memory there is, and how many blocks of KV cache fit in it."""

import os
from pathlib import Path

from membound.errors import InputError
from membound.serving.request import BLOCK_TOKENS

SHARE = 0.5
"""Of the memory that is left beside the weights, what the KV cache may take unasked."""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what is free, or less if a control group says so."""
    return min([_machine(root), *_control_groups(root)])


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


def _machine(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # no such file: not Linux


def _control_groups(root: Path) -> list[int]:
    """What each control group above this process, of either version, still allows."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, usage, idle = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = (
                root / "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
            idle = "total_inactive_file"
        else:
            continue
        group = top / path.lstrip("/")
        while group.is_relative_to(top):
            room = _room(group / limit, group / usage, group / "memory.stat", idle)
            rooms += [] if room is None else [room]
            group = group.parent
    return rooms


def _room(limit: Path, usage: Path, statistics: Path, idle: str) -> int | None:
    """Bytes up to the limit, counting files that nobody uses as free; None without a limit."""
    try:
        most, used = limit.read_text().strip(), int(usage.read_text())
        counts = dict(line.split(" ", 1) for line in statistics.read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else max(0, int(most) - used + int(counts.get(idle, 0)))


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
