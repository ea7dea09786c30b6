"""Streaming text: whole characters, equal to decoding at once; stop strings never show."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from membound.models.detokenize import Detokenizer, StopStrings


@dataclass(frozen=True)
class Pieces:
    """A vocabulary by listing: token i is pieces[i]."""

    pieces: tuple[bytes, ...]
    strips_leading_space: bool = False

    def text_bytes(self, token: int) -> bytes:
        return self.pieces[token]


# every way to cut these characters, broken sequences, spaces, and a control token (no bytes)
AWKWARD = tuple(
    piece
    for whole in (
        *(text.encode() for text in ("é", "你", "😀", " a", "  ", "word")),
        b"\xed\xa0\x80",
        b"\xc0\xff",
    )
    for start in range(len(whole))
    for piece in (whole[:start], whole[start:], whole[start : start + 1])
)


@given(
    st.lists(st.integers(0, len(AWKWARD) - 1), max_size=12),
    st.lists(st.integers(0, len(AWKWARD) - 1), max_size=12),
    st.booleans(),
)
def test_pushes_equal_decoding_at_once(prompt: list[int], tokens: list[int], strips: bool) -> None:
    pieces = Pieces(AWKWARD, strips)

    def decode(ids: list[int], final: bool) -> str:
        detokenizer = Detokenizer(pieces)
        return "".join([detokenizer.push(i) for i in ids]) + (detokenizer.finish() if final else "")

    at_once = b"".join(AWKWARD[i] for i in prompt + tokens)
    at_once = at_once.removeprefix(b" ") if strips else at_once
    assert decode(prompt + tokens, final=True) == at_once.decode(errors="replace")

    follower = Detokenizer(pieces, prompt)
    streamed = "".join([follower.push(i) for i in tokens]) + follower.finish()
    assert decode(prompt, final=False) + streamed == at_once.decode(errors="replace")


def test_no_push_shows_half_a_character() -> None:
    pieces = Pieces(tuple(bytes([byte]) for byte in range(256)))
    detokenizer = Detokenizer(pieces)
    assert [detokenizer.push(byte) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert detokenizer.push(0xF0) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_where_the_first_one_begins(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    so_far = ""
    for piece in pieces:
        so_far += piece
        shown += matcher.push(piece)
        ended = any(stop in so_far for stop in stops)
        assert (matcher.stopped is not None) == ended  # noticed with the piece that completes it
        if ended:
            break
        held = so_far[len(shown) :]  # nothing is held back for longer than it may begin a stop
        assert so_far.startswith(shown)
        assert not held or any(stop.startswith(held) for stop in stops)
    shown += matcher.finish()
    first = min((so_far.find(stop) for stop in stops if stop in so_far), default=len(so_far))
    assert shown == so_far[:first]
