"""A peer or membound itself in a process of its own, spoken to in lines of JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from environments import llama_environment

HERE = Path(__file__).parent


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
