"""Imports run downwards only, so that one scheduler can drive kernels and predictions alike."""

import ast
from collections.abc import Iterator
from pathlib import Path

import membound

PACKAGE = Path(membound.__file__).parent

LEVELS = {
    "errors": 0,
    "models": 1,
    "hardware": 1,
    "serving": 1,
    "costs": 2,
    "workloads": 2,
    "executors": 3,
    "reports": 3,
    "llm": 4,
    "measuring": 4,
    "simulation": 4,
    "server": 4,
    "planning": 5,
    "scoreboard": 5,
    "commands": 6,
    "cli": 7,
}
APART = {"models", "hardware", "serving"}


def imports(source: Path) -> Iterator[str]:
    """First-level parts of membound that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(source.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "membound":
                names = [f"membound.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "membound" and len(parts) > 1 and parts[1] != "_core":
                yield parts[1]


def parts_and_imports() -> Iterator[tuple[str, Path, str]]:
    for source in sorted(PACKAGE.rglob("*.py")):
        part = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            for imported in imports(source):
                yield part, source, imported


def test_every_part_has_a_level() -> None:
    assert {part for part, _, _ in parts_and_imports()} <= LEVELS.keys()


def test_imports_run_downwards() -> None:
    upwards = [
        f"{source.name}: {part} imports {imported}"
        for part, source, imported in parts_and_imports()
        if part != imported and LEVELS[imported] >= LEVELS[part]
    ]
    assert not upwards


def test_models_hardware_and_serving_know_nothing_of_each_other() -> None:
    assert not [
        (source.name, imported)
        for part, source, imported in parts_and_imports()
        if part in APART and imported in APART - {part}
    ]
