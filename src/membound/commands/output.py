"""How commands speak: results on standard output, progress on standard error, JSON alone if asked."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from membound.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def print_json(answer: Mapping[str, Any]) -> None:
    """One object, and nothing else on standard output."""
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error while the block runs; call it with (bytes done, bytes in all or None)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield show


def print_notes(notes: Sequence[str]) -> None:
    """What a user should know beside the answer, on standard error."""
    for note in notes:
        print(f"membound: note: {note}", file=sys.stderr)


@contextmanager
def status(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A line on standard error that says what goes on; call it with what is next."""
    if quiet or not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as shown:
        yield lambda text: shown.update(f"{what}: {text}")


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str = "") -> None:
    """First column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


def parse_bytes(text: str | None, option: str) -> int | None:
    """`512MB`, `2GiB` or a plain number of bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(found[2].upper()) if found else None
    if not found or unit is None or float(found[1]) <= 0:
        raise InputError(f"{option} {text}: give a size such as 512MB or 2GiB")
    return int(float(found[1]) * unit)


def parse_counts(text: str, option: str) -> list[int]:
    """Whole numbers above zero, comma-separated."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise InputError(f"{option} {text}: give whole numbers above 0, such as 1,8,32")
    return counts


def rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.1f} GB/s"


def size(count: float) -> str:
    """Bytes as people read them: powers of ten."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"
