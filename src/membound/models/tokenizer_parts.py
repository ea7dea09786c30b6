"""What a tokenizer is made of, wherever it was read from."""

from collections.abc import Callable
from dataclasses import dataclass

import tokenizers

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


def library_ids(library: tokenizers.Tokenizer, text: str) -> list[int]:
    """Ids of a text without special tokens around it.

    As a batch of one: that way the library leaves the interpreter to other threads, which a long text would
    hold up by half a second, and it works out no offsets.
    """
    return library.encode_batch_fast([text], add_special_tokens=False)[0].ids
