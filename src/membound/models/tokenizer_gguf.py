"""A tokenizer from a GGUF file's metadata, with the ids that llama.cpp gives.

Special tokens are cut out first; the rest goes through byte-level BPE (`tokenizer.ggml.model` = gpt2: the
`tokenizers` library with the rule of `tokenizer.ggml.pre`) or SentencePiece BPE (llama: Gemma 3, Llama 2).
Unicode is not normalized, as llama.cpp does not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from membound.errors import InputError
from membound.models.chat import FAMILY_TEMPLATES, ChatTemplate
from membound.models.pretokenizers import pre_tokenizer
from membound.models.sentencepiece import SentencePieceBpe
from membound.models.specials import SpecialTokens
from membound.models.tokenizer_parts import TokenizerParts, library_ids
from membound.models.vocabulary import Kind, Vocabulary


def gguf_parts(metadata: Mapping[str, Any]) -> TokenizerParts:
    """From `tokenizer.ggml.*` (arrays as lists); InputError names what is missing or not supported."""

    def value(key: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    texts, model = value("tokens"), value("model")
    if not texts:
        raise InputError("the file has no vocabulary (tokenizer.ggml.tokens)")
    if model not in ("gpt2", "llama"):
        raise InputError(
            f"tokenizer '{model}' is not supported; known: gpt2 (byte-level BPE), llama (SentencePiece)"
        )
    kinds = _as_long(texts, value("token_type", [Kind.NORMAL] * len(texts)), "token_type")
    vocabulary = Vocabulary(texts, kinds, byte_level=model == "gpt2")

    def token(key: str, default: int | None = None) -> int | None:
        found = value(f"{key}_token_id", default)
        return found if found is not None and 0 <= found < len(texts) else None

    encode_text: Callable[[str], list[int]]
    if model == "llama":
        bos, eos, add_bos, add_space = (
            token("bos", 1),
            token("eos", 2),
            True,
            bool(value("add_space_prefix", True)),
        )
        scores = _as_long(texts, value("scores", ()), "scores")
        encode_text = SentencePieceBpe(vocabulary, scores, token("unknown", 0)).encode
    else:
        rule = pre_tokenizer(value("pre", "default"))
        bos, eos, add_bos, add_space = token("bos"), token("eos"), rule.add_bos, False
        encode_text = _byte_level_bpe(
            vocabulary.ids, value("merges", ()), rule.patterns, ignore_merges=rule.ignore_merges
        )
    ends = {key: token(key) for key in ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")} | {"eos": eos}
    return TokenizerParts(
        vocabulary,
        _with_specials(vocabulary, encode_text, add_space),
        bos,
        eos,
        add_bos=bool(value("add_bos_token", add_bos)) and bos is not None,
        add_eos=bool(value("add_eos_token", False)) and eos is not None,
        strips_leading_space=add_space,
        end_ids=vocabulary.end_ids(ends),
        template=_template(
            metadata, {"bos": bos, "eos": eos, "unk": token("unknown"), "pad": token("padding")}
        ),
    )


def _template(metadata: Mapping[str, Any], named: Mapping[str, int | None]) -> ChatTemplate | None:
    family = FAMILY_TEMPLATES.get(metadata.get("general.architecture", ""))
    source = metadata.get("tokenizer.chat_template") or family
    texts = metadata["tokenizer.ggml.tokens"]
    tokens = {f"{name}_token": texts[i] for name, i in named.items() if i is not None}
    return ChatTemplate(source, {"bos_token": "", "eos_token": ""} | tokens) if source else None


def _as_long(texts: Sequence[str], values: Sequence[Any], key: str) -> Sequence[Any]:
    if len(values) != len(texts):
        raise InputError(f"tokenizer.ggml.{key} has {len(values)} entries for {len(texts)} tokens")
    return values


def _with_specials(
    vocabulary: Vocabulary, encode_text: Callable[[str], list[int]], add_space: bool
) -> Callable[[str, bool], list[int]]:
    """Cut out special tokens, encode what is between. User-defined tokens are found even in plain text.

    `add_space` puts a space before text that begins a sequence or follows a special token.
    """

    def finder(*kinds: Kind) -> SpecialTokens:
        return SpecialTokens(
            {vocabulary.texts[i]: i for i in vocabulary.of_kind(*kinds) if vocabulary.texts[i]}
        )

    plain = finder(Kind.USER_DEFINED)
    full = finder(Kind.USER_DEFINED, Kind.CONTROL, Kind.UNKNOWN)

    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for piece in (full if special else plain).split(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:  # two pieces of text never meet, so each begins the text or follows a special token
                ids += encode_text(" " + piece if add_space else piece)
        return ids

    return encode


def _byte_level_bpe(
    ids: dict[str, int], merges: Sequence[str], patterns: Sequence[str], *, ignore_merges: bool
) -> Callable[[str], list[int]]:
    # no byte is written as a space, so the first one parts the two
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        bpe = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs, ignore_merges=ignore_merges))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"tokenizer.ggml.merges do not fit the vocabulary: {error}") from None
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return lambda text: library_ids(bpe, text)
