"""The KV cache takes what there is, and says so in one line where that is not enough."""

from pathlib import Path

import pytest

from membound.errors import InputError
from membound.executors.cache_size import cache_blocks
from membound.hardware.memory import available_memory

GB = 10**9


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    return tmp_path


def test_the_machine_says_what_is_free(machine: Path) -> None:
    assert available_memory(machine) == 8_000_000 * 1024


def test_a_control_group_may_allow_less(machine: Path) -> None:
    write(machine, "proc/self/cgroup", "0::/parent/child\n")
    write(machine, "sys/fs/cgroup/parent/child/memory.max", "max\n")
    write(machine, "sys/fs/cgroup/parent/child/memory.current", "1000\n")
    write(machine, "sys/fs/cgroup/parent/child/memory.stat", "inactive_file 0\n")
    assert available_memory(machine) == 8_000_000 * 1024
    write(machine, "sys/fs/cgroup/parent/memory.max", "5000\n")
    write(machine, "sys/fs/cgroup/parent/memory.current", "3000\n")
    write(machine, "sys/fs/cgroup/parent/memory.stat", "anon 1\ninactive_file 500\n")
    assert available_memory(machine) == 2500


def test_a_control_group_of_the_first_version(machine: Path) -> None:
    write(machine, "proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    write(machine, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9000\n")
    write(machine, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "8000\n")
    write(machine, "sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 100\n")
    assert available_memory(machine) == 1100


def test_this_machine_has_memory() -> None:
    assert available_memory() > 0


def test_blocks_for_all_sequences_if_they_fit() -> None:
    assert cache_blocks(1000, context=100, sequences=4, available=GB) == 7 * 4


def test_blocks_for_half_of_what_is_left() -> None:
    blocks = cache_blocks(1e6, context=10**6, sequences=4, other_bytes=GB, available=5 * GB)
    assert blocks == 2 * GB // 16_000_000


def test_memory_as_asked() -> None:
    assert cache_blocks(1000, context=100, sequences=1, kv_memory=160_000, available=GB) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_memory": 2 * GB}, "more than the 1 GB"),
        ({"kv_memory": 1000}, "give it more memory"),
        ({"asked_context": 50_000}, "a context of 50000 tokens needs 5 GB of KV cache but has 0.5 GB"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        cache_blocks(1e5, context=100, sequences=1, available=GB, **options)
