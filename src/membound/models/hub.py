"""Models from the Hugging Face Hub: `org/name`, or `org/name:what` where there are several GGUF files."""

import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.errors import InputError, RunError

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# what a safetensors folder needs to run: weights, configuration, tokenizer, chat template
_SNAPSHOT = re.compile(r"^[^/]+\.(safetensors|json|jinja)$")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; `sha256` where the Hub knows it (large files)."""

    path: str
    bytes: int
    sha256: str | None


def parse(spec: str) -> tuple[str, str | None]:
    """`org/name[:what]` into the repository and what is asked for in it."""
    repository, _, what = spec.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or ".." in repository:
        raise InputError(f"hf:{spec}: write hf:org/name or hf:org/name:file.gguf")
    return repository, what or None


def choose(spec: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files to fetch: all parts of one GGUF model, or a safetensors folder.

    `what` in `org/name:what` is a file's path or a piece of it that only one has, as `q4_k_m`. InputError
    lists the choices where there are several.
    """
    _, what = parse(spec)
    models = [file for file in files if file.path.endswith(".gguf") and "mmproj" not in file.path.lower()]
    firsts = [file for file in models if (part := _PART.search(file.path)) is None or int(part[1]) == 1]
    if what is not None:
        exact = [file for file in firsts if file.path == what]
        wanted = exact or [file for file in firsts if what.lower() in file.path.lower()]
        if not wanted:
            there = ", ".join(sorted(file.path for file in firsts)) or "no GGUF file"
            raise InputError(f"hf:{spec}: no such file; there is {there}")
        firsts = wanted
    if len(firsts) > 1:
        names = ", ".join(sorted(file.path for file in firsts))
        raise InputError(f"hf:{spec} has several models, name one as hf:{parse(spec)[0]}:FILE: {names}")
    if firsts:
        stem = _PART.sub("", firsts[0].path)
        return [
            file for file in models if file == firsts[0] or (_PART.sub("", file.path) == stem != file.path)
        ]
    folder = [file for file in files if _SNAPSHOT.match(file.path)]
    if not any(file.path.endswith(".safetensors") for file in folder):
        raise InputError(f"hf:{spec} has neither GGUF nor safetensors files")
    return folder


def remote_files(repository: str) -> list[RemoteFile]:
    """What the repository holds; one line where it cannot be asked."""
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it would tell of each retry; the outcome is told here, in one line
    try:
        files = HfApi().model_info(repository, files_metadata=True).siblings or []
    except Exception as error:
        raise _explained(repository, error) from None
    return [
        RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None) for file in files
    ]


def download(repository: str, files: Sequence[RemoteFile], scratch: Path) -> None:
    """Bring the files into `scratch`, under their paths in the repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for file in files:
        try:
            hf_hub_download(repository, file.path, local_dir=scratch)
        except OSError as error:
            if error.errno is not None:
                raise  # the disk's complaint, explained where the disk is known
            raise _explained(repository, error) from None
        except Exception as error:
            raise _explained(repository, error) from None
    shutil.rmtree(scratch / ".cache", ignore_errors=True)  # the library's notes on its downloads


def _explained(repository: str, error: Any) -> InputError | RunError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return InputError(f"hf:{repository} asks for its licence to be accepted and a login: hf auth login")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return InputError(f"hf:{repository}: no such model, or a private one (hf auth login)")
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, HfHubHTTPError):
        return RunError(f"hf:{repository}: the Hub refused: {reason}")
    return RunError(f"no network: the Hugging Face Hub cannot be reached for hf:{repository} ({reason})")
