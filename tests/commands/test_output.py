"""Sizes and counts as users type them."""

import pytest

from membound.commands.output import parse_bytes, parse_counts, size
from membound.errors import InputError


@pytest.mark.parametrize(
    ("text", "count"), [("512MB", 512_000_000), ("2GiB", 2**31), ("1.5 gb", 1_500_000_000), ("4096", 4096)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text, "--kv-memory") == count


@pytest.mark.parametrize("text", ["", "much", "0", "-1GB", "5TBs", "1e9"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--kv-memory"):
        parse_bytes(text, "--kv-memory")


def test_counts() -> None:
    assert parse_counts("1,8,32", "--batch") == [1, 8, 32]
    for text in ("", "0", "1,,2", "a", "1,-2"):
        with pytest.raises(InputError, match="--batch"):
            parse_counts(text, "--batch")


def test_sizes_for_people() -> None:
    assert [size(999), size(98_362_432), size(1_117_320_768)] == ["999 B", "98.4 MB", "1.1 GB"]
