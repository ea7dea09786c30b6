"""What a tokenizer is made of, wherever it was read from."""

from collections.abc import Callable
from dataclasses import dataclass

from membound.models.chat import ChatTemplate
from membound.models.vocabulary import Vocabulary


@dataclass(frozen=True)
class TokenizerParts:
    """`encode(text, special)` gives ids without BOS and EOS; `special`: control tokens are read as such."""

    vocabulary: Vocabulary
    encode: Callable[[str, bool], list[int]]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_eos: bool
    strips_leading_space: bool  # text begins with a space that the encoder put there
    end_ids: frozenset[int]  # tokens that end generation
    template: ChatTemplate | None
