"""Damaged GGUF files from end to end: an error of one line, or a model that generates; never anything else.

What the header says decides how much native code reads and where, so this runs under the sanitizers too.
"""

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from membound import LLM, Sampling
from membound.errors import MemboundError
from tests.small_models import small_architecture, write_gguf

KINDS = {"qwen3": Type.Q4_0, "gemma3": Type.Q8_0, "llama": Type.Q5_1}
DAMAGE = st.one_of(
    st.binary(min_size=1, max_size=1),
    st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\x7f"]),
    st.integers(0, 1 << 16).map(lambda number: number.to_bytes(8, "little")),
)
SHARE = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / f"{request.param}.gguf"
    return write_gguf(path, small_architecture(request.param), KINDS[request.param])


@settings(max_examples=150, deadline=None)
@given(
    damages=st.lists(st.tuples(SHARE, DAMAGE), min_size=1, max_size=3),
    anywhere=st.booleans(),
    kept=st.one_of(st.just(1.0), SHARE),
)
def test_damage_ends_in_one_line_or_in_text(
    whole: Path, damages: list[tuple[float, bytes]], anywhere: bool, kept: float
) -> None:
    """Bytes overwritten in the header, or anywhere, and the end cut off."""
    stored = bytearray(whole.read_bytes())
    reach = len(stored) if anywhere else stored.rindex(b"output_norm.weight") + 64
    for share, damage in damages:
        place = int(share * reach)
        stored[place : place + len(damage)] = damage
    path = whole.with_name("damaged.gguf")
    path.write_bytes(stored[: max(1, int(kept * len(stored)))])
    try:
        llm = LLM(path, kv_memory=1 << 22, max_running=2, max_step_tokens=16)
        found = llm.generate([[1, 2, 3], "ab <|im_end|>\n"], Sampling(max_tokens=3))
        assert all(len(one.token_ids) <= 3 for one in found)
    except MemboundError as error:
        assert str(error).isprintable()  # noqa: PT017
