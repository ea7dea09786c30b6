"""How much a body holds, told without parsing it."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.server.json_body import PART, count, in_parts

VALUES = st.recursive(
    st.none() | st.integers() | st.text('[]{}:,"\\\\ ä\n') | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('{:",\\\\'), inner),
    max_leaves=30,
)


def held(value: Any) -> tuple[int, int]:
    """Arrays, objects and members; and what separates items and members."""
    if not isinstance(value, list | dict):
        return 0, 0
    inner = [held(each) for each in (value.values() if isinstance(value, dict) else value)]
    members = len(value) if isinstance(value, dict) else 0
    return 1 + members + sum(parts for parts, _ in inner), max(0, len(value) - 1) + sum(n for _, n in inner)


@given(value=VALUES, ascii=st.booleans())
def test_marks_within_texts_do_not_count(value: Any, ascii: bool) -> None:
    assert count(json.dumps(value, ensure_ascii=ascii).encode()) == held(value)


@given(body=st.binary() | st.text('"\\\\[{', min_size=1).map(str.encode))
def test_what_is_no_json_is_counted_without_a_fault(body: bytes) -> None:
    parts, items = count(body)
    assert 0 <= parts + items <= len(body)


@pytest.mark.parametrize("more", [0, 1, PART - 1, PART, 5 * PART + 7])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_long_lists_of_numbers_are_read_part_by_part(more: int, separators: tuple[str, str]) -> None:
    chance = random.Random(more)
    body = {
        "model": "[1, 2]",
        "prompt": [chance.randrange(50_000) for _ in range(PART + 1 + more)],
        "stop": ["[", "]"],
        "logit_bias": {"1": 2},
    }
    assert in_parts(json.dumps(body, separators=separators).encode()) == body


NUMBERS = ",".join(map(str, range(2 * PART)))


@pytest.mark.parametrize(
    "body",
    [
        f'{{"prompt": [{",".join(map(str, range(PART)))}]}}',  # short
        f"[{NUMBERS}]",
        f'{{"prompt": "{NUMBERS}"}}',
        f'{{"prompt": "[{NUMBERS}]"}}',
        f'{{"prompt": [[{NUMBERS}]]}}',
        f'{{"prompt": [{NUMBERS}, 1.5]}}',
        f'{{"prompt": [{NUMBERS},]}}',
        f'{{"prompt": [,{NUMBERS}]}}',
        f'{{"prompt": [{NUMBERS},,1]}}',
        f'{{"prompt": [{NUMBERS} 1]}}',
        f'{{"prompt": [{NUMBERS}, 01]}}',
        f'{{"prompt": [{NUMBERS}',
        f'{{"prompt": [{NUMBERS}}}',
        NUMBERS,
        " " * PART * 8,
        "",
    ],
)
def test_other_bodies_are_not(body: str) -> None:
    assert in_parts(body.encode()) is None
