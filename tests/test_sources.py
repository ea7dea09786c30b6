"""Compiled modules and their sources: which run, and that both find the same."""

import json
import os
import subprocess
import sys
from importlib.util import source_hash
from pathlib import Path

import pytest

import membound
from membound._sources import RECORD, SourceFinder, finder

ROOT = Path(__file__).parents[1]
COMPILED = (ROOT / "cmake/compiled.txt").read_text().split()

SIMULATION = """
from membound.costs.deployment import deployment
from membound.serving import scheduler
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import limited, scaled
from membound.workloads.traces import trace
print(scheduler.__file__)
for name, rate in ("mooncake", 0.5), ("azure-conv", 4):
    found = simulate(deployment("Llama-3.1-8B", "h100-sxm"), scaled(limited(trace(name), 500), rate))
    print(found.log.column("first").tobytes().hex(), found.log.column("last").tobytes().hex())
    print(found.preemptions, found.hit_tokens, found.steps, found.summaries(), found.held_share)
"""


def records() -> list[Path]:
    """What the build says that it compiled. It skips the test where the environment told the build not to."""
    if os.environ.get("MEMBOUND_COMPILE") == "OFF":
        pytest.skip("built without compiled modules")
    found = [Path(folder, RECORD) for folder in membound.__path__ if Path(folder, RECORD).exists()]
    assert found, "nothing is compiled: make build"
    return found


def simulated(plain: str) -> tuple[str, str]:
    """The file that the scheduler was loaded from, and all that a simulation found."""
    said = subprocess.run(
        [sys.executable, "-c", SIMULATION],
        env={**os.environ, "MEMBOUND_PLAIN": plain},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    file, _, found = said.partition("\n")
    return file, found


def test_compiled_modules_find_what_their_sources_find() -> None:
    records()
    file, found = simulated(plain="")
    assert not file.endswith(".py"), "sources were edited since they were compiled: make build"
    source, expected = simulated(plain="1")
    assert source.endswith(".py")
    assert found == expected


def test_all_that_is_listed_is_compiled() -> None:
    assert json.loads(records()[0].read_text()).keys() == {f"membound/{module}.py" for module in COMPILED}


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Those of an editable install with two compiled modules."""
    texts = {"membound/a.py": "A = 1\n", "membound/part/b.py": "B = 2\n"}
    record = {path: source_hash(text.encode()).hex() for path, text in texts.items()}
    for path, text in texts.items():
        file = tmp_path / "source" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    installed = tmp_path / "installed" / "membound"
    installed.mkdir(parents=True)
    (installed / RECORD).write_text(json.dumps(record))
    return [str(installed), str(tmp_path / "source" / "membound")]


def origin(found: SourceFinder, name: str) -> str | None:
    spec = found.find_spec(name)
    return None if spec is None else spec.origin


def test_what_was_compiled_runs_as_long_as_its_sources_are_the_same(folders: list[str]) -> None:
    assert finder(folders, plain=False) is None


def test_all_sources_run_once_one_was_edited(folders: list[str]) -> None:
    edited = Path(folders[1], "part/b.py")
    edited.write_text("B = 3\n")
    found = finder(folders, plain=False)
    assert found is not None
    assert origin(found, "membound.part.b") == str(edited)
    assert origin(found, "membound.a") == str(Path(folders[1], "a.py"))
    assert origin(found, "membound.other") is None


def test_sources_run_where_the_environment_says_so(folders: list[str]) -> None:
    found = finder(folders, plain=True)
    assert found is not None
    assert origin(found, "membound.a") == str(Path(folders[1], "a.py"))


def test_nothing_is_looked_up_where_nothing_was_compiled(folders: list[str]) -> None:
    Path(folders[0], RECORD).unlink()
    assert finder(folders, plain=True) is None
