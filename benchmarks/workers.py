"""A peer or membound itself in a process of its own, spoken to in lines of JSON."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("MEMBOUND_CACHE") or Path.home() / ".cache" / "membound") / "peers"
LLAMA_CPP = "llama-cpp-python==0.3.36"


class Worker:
    """One process; `call` sends an operation and waits for its answer."""

    def __init__(self, python: Path, script: str) -> None:
        self.process = subprocess.Popen(
            [python, HERE / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} died at {op!r} with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


def membound_worker() -> Worker:
    return Worker(Path(sys.executable), "membound_worker.py")


def llama_worker() -> Worker:
    return Worker(llama_environment() / "bin" / "python", "llama_worker.py")


def llama_environment() -> Path:
    """llama-cpp-python built for this processor, in an environment of its own (about ten minutes, once).

    gcc before 13 drops stores that its own ldtilecfg reads, and llama.cpp's AMX code then faults; where the
    processor has AMX, the peer is built without the two passes that drop them.
    """
    home = PEERS / LLAMA_CPP.replace("==", "-")
    ready = home / ".ready"
    if ready.exists():
        return home
    print(f"building {LLAMA_CPP} for this processor: about ten minutes, once", file=sys.stderr)
    venv.create(home, with_pip=True, clear=True)
    settings = "-DGGML_NATIVE=ON"
    if "amx_int8" in Path("/proc/cpuinfo").read_text():
        settings += " -DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'"
    subprocess.run(
        [home / "bin" / "pip", "install", "--quiet", "--no-cache-dir", LLAMA_CPP],
        check=True,
        env={**os.environ, "CMAKE_ARGS": settings},
    )
    ready.touch()
    return home
