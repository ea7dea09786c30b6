"""What was measured, kept as one JSON file per model, so that several runs can fill one page.

A file holds `columns`: by name, when and where it was taken, and by engine what came out or why it did not.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from environments import PEERS

from membound.hardware.probe import processor_name

FOLDER = PEERS.parent / "bench"
ENGINES = ("membound", "llama.cpp", "openvino", "vllm")

Column = dict[str, Any]
"""{"when", "machine", "threads", "rounds", "engines": {name: {"version"?, …figures} or {"refused": why}}}"""


def file_of(model: str) -> Path:
    return FOLDER / f"{model}.json"


def columns(model: str) -> dict[str, Column]:
    """All that is kept of a model; empty if nothing is."""
    path = file_of(model)
    kept: dict[str, Column] = json.loads(path.read_text())["columns"] if path.exists() else {}
    return kept


def keep(model: str, name: str, engines: dict[str, dict[str, Any]], threads: int, rounds: int) -> None:
    """The newest run of a column takes the place of an older one."""
    column = {
        "when": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "machine": processor_name(),
        "threads": threads,
        "rounds": rounds,
        "engines": engines,
    }
    path = file_of(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"model": model, "columns": columns(model) | {name: column}}, indent=1) + "\n")
    part.replace(path)
