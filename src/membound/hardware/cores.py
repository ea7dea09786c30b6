"""How many cores there are to take."""

import os

from membound.errors import InputError


def usable_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_more_than_cores(threads: int | None) -> int | None:
    """Threads spin while they wait: more of them than cores would hold each other up for minutes."""
    cores = usable_cores()
    if threads is not None and not 1 <= threads <= cores:
        raise InputError(f"threads = {threads}: this process may use {cores} core{'s' * (cores > 1)}")
    return threads
