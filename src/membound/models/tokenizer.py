"""Text to token ids and back, as the model's own files say: a GGUF file or a Hugging Face folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.errors import InputError
from membound.models.detokenize import Detokenizer, StopStrings
from membound.models.tokenizer_folder import folder_parts
from membound.models.tokenizer_gguf import gguf_parts
from membound.models.tokenizer_parts import TokenizerParts

if TYPE_CHECKING:
    from membound.models.weights import Weights


class Tokenizer:
    """Text to ids and back. `bos_id`, `eos_id` are None where a model has none; `end_ids` end generation."""

    def __init__(self, parts: TokenizerParts) -> None:
        self._parts = parts
        self.vocab_size = len(parts.vocabulary)
        self.bos_id, self.eos_id, self.end_ids = parts.bos_id, parts.eos_id, parts.end_ids
        self._shown: dict[int, bytes] = {}  # what text_bytes has answered: it is asked for every token made
        self.strips_leading_space = parts.strips_leading_space

    @classmethod
    def of(cls, weights: "Weights") -> "Tokenizer":
        """The one that a model's own file or folder brings."""
        if weights.path.is_dir():
            return cls.from_folder(weights.path)
        return cls.from_gguf(weights.metadata)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From a GGUF file's metadata, arrays as lists; InputError names what is missing or not supported."""
        return cls(gguf_parts(metadata))

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """From tokenizer.json and what stands beside it in a Hugging Face folder."""
        return cls(folder_parts(Path(path)))

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]:
        """Ids of `text`. `special` reads control tokens such as <|im_end|> in it as such, else as plain text.

        `add_bos` None puts BOS and EOS around it as the model's files say; True BOS only, False neither.
        A surrogate that pairs with nothing becomes U+FFFD.
        """
        before = self._parts.add_bos if add_bos is None else add_bos
        if before and self.bos_id is None:
            raise InputError("this model has no BOS token")
        after = add_bos is None and self._parts.add_eos
        ids = [self.bos_id] if before and self.bos_id is not None else []
        ids += self._parts.encode(_well_formed(text), special)
        return [*ids, self.eos_id] if after and self.eos_id is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; control tokens do not show, broken UTF-8 becomes U+FFFD."""
        detokenizer = self.detokenizer()
        return "".join([detokenizer.push(token) for token in ids]) + detokenizer.finish()

    def detokenizer(self, prompt_ids: Sequence[int] = ()) -> Detokenizer:
        """Decodes the tokens that follow a prompt as they come."""
        return Detokenizer(self, prompt_ids)

    def stops(self, strings: Sequence[str]) -> StopStrings:
        """Ends a text at the first of these strings."""
        return StopStrings(strings)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, a control token's text too; InputError outside the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise InputError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return self._parts.vocabulary.bytes_of(token)

    def text_bytes(self, token: int) -> bytes:
        """The bytes a token adds to decoded text: none for a control token."""
        shown = self._shown.get(token)
        if shown is None:
            piece = self.token_bytes(token)
            shown = self._shown[token] = piece if self._parts.vocabulary.is_text(token) else b""
        return shown

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can work."""
        return self._parts.template is not None

    @property
    def chat_template(self) -> str:
        """The template's source; empty where there is none."""
        return "" if self._parts.template is None else self._parts.template.source

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as the model's template has it; encode it with `special=True, add_bos=False`."""
        if self._parts.template is None:
            raise InputError("this model has no chat template: use --raw to send the prompt as it is")
        return self._parts.template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )


def _well_formed(text: str) -> str:
    """`text` with surrogate pairs joined and lone ones replaced, so that it has a UTF-8 form."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
