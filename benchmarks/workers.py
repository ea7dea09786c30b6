"""An engine in a process of its own, spoken to in lines of JSON; its log goes to a file beside the peers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS, PEERS

HERE = Path(__file__).parent
SCRIPTS = {
    "membound": "membound_worker.py",
    "llama.cpp": "llama_worker.py",
    "openvino": "openvino_worker.py",
    "vllm": "vllm_worker.py",
}


class RefusedError(Exception):
    """What an engine says that it cannot do, in one line."""


class Worker:
    """One process; `call` sends an operation and waits for its answer."""

    def __init__(self, engine: str, threads: int, python: Path | None = None) -> None:
        """Installs the engine if need be, RefusedError if it cannot be; `python` has another build."""
        self.engine = engine
        python = python or (Path(sys.executable) if engine == "membound" else python_of(engine))
        log = PEERS / "logs" / f"{engine}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, HERE / SCRIPTS[engine]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                env=environment_of(engine, threads),
            )

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """RefusedError with the engine's own words where it fails."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RefusedError(f"died at {op} with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def python_of(engine: str) -> Path:
    try:
        return ENVIRONMENTS[engine]() / "bin" / "python"
    except subprocess.CalledProcessError as error:
        raise RefusedError(f"cannot be installed here: {' '.join(map(str, error.cmd))} failed") from None


def environment_of(engine: str, threads: int) -> dict[str, str]:
    """Settings that an engine takes from its environment: nothing asked of a hub, and so many threads."""
    settings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if engine == "vllm":
        processors = sorted(os.sched_getaffinity(0))[:threads]
        settings |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its steps are timed from within
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, processors)),
            "VLLM_CACHE_ROOT": str(PEERS / "vllm-cache"),
            "VLLM_NO_USAGE_STATS": "1",
        }
    return settings
