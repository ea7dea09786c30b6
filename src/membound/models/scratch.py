"""A folder for work in progress, beside where its result will stand: what is in it never outlives the work.

The folder is locked while a process works in it (the lock dies with the process), so two that pull the same
model take turns, and what a killed one left behind is known as such and removed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"


@contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder in `folder`, gone afterwards; waits while another process has the one of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    path = folder / f".{name}{SUFFIX}"
    descriptor = _locked(path)
    try:
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the scratch folders that no living process works in."""
    for path in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # held by another, or just removed
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, descriptor):
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        # os's, since pathlib's looks again at a folder that is there, and fails if it is gone by then
        with suppress(FileExistsError):
            os.mkdir(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner finished in between
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # the owner before us removed the folder that we waited for


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the folder at `path` is the one that was opened: another may have remade it."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
