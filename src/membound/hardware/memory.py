"""How much memory there is to take."""

import os
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: what is free, or less if a control group says so."""
    return min([_machine(root), *_control_groups(root)])


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
