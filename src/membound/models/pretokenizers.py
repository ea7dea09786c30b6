"""How each family cuts text into words before byte-pair merges, by the name a GGUF file gives it.

A rule is one or more regular expressions (Oniguruma's dialect, as the `tokenizers` library compiles it)
applied one after another: each match becomes a piece of its own and so does what lies between.
The expressions are those of the models' own tokenizer.json, with llama.cpp's reading of `(?i:...)`
as plain ASCII letters, so that both give the same ids. A name that is not listed is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from membound.errors import InputError


@dataclass(frozen=True)
class PreTokenizer:
    """`patterns` cut the text in turn; `ignore_merges` takes a whole word that is a token as that token."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTION = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _modern(digits: str, symbols_end: str = r"[\r\n]*") -> str:
    """The pattern that Llama 3 and Qwen share; `digits` says how many digits stand together."""
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{_CONTRACTION}|{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{symbols_end}|{_SPACES}"


# Tekken's words change piece where upper case follows lower case.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)

_LLAMA3 = PreTokenizer((_modern(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer((_modern(r"\p{N}"),))
_SMOLLM = PreTokenizer((r"\p{N}", _GPT2))
_PLAIN = PreTokenizer((_GPT2,))

_RULES: dict[PreTokenizer, tuple[str, ...]] = {
    _LLAMA3: (
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    ),
    _QWEN2: ("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open", "kormo"),
    _SMOLLM: ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    _PLAIN: ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "a.x-4.0", "mellum", "exaone4"),
    PreTokenizer((_modern(r"\p{N}{1,3}"),)): ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
    PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True): ("tekken",),
    PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")): ("deepseek-coder",),
    PreTokenizer((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS)): ("deepseek-v3", "hunyuan-dense"),
    PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")): ("default",),
}
_BY_NAME = {name: rule for rule, names in _RULES.items() for name in names}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The rule of `tokenizer.ggml.pre`; InputError for one that is not known."""
    if name not in _BY_NAME:
        raise InputError(f"pre-tokenizer '{name}' is not supported; known: {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[name]


def names() -> Iterator[str]:
    """Every name that `pre_tokenizer` knows."""
    return iter(_BY_NAME)
