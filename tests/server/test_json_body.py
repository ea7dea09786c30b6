"""How much a body holds, told without parsing it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from membound.server.json_body import count

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
