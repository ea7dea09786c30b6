"""What limits ours: `membound speed --explain` on one model, as it is kept."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peer_models import gguf

MEMBOUND = Path(sys.executable).with_name("membound")


def explain(model: str, threads: int) -> dict[str, dict[str, Any]]:
    command = [str(MEMBOUND), "speed", str(gguf(model, threads)), "--threads", str(threads)]
    command += ["--prefill", "512", "--batch", "1,8,32", "--explain", "--json"]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {"membound": {"version": version("membound"), "steps": answer["explain"]}}
