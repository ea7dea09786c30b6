"""Structured output: JSON schemas, regular expressions, choices and grammars, held by llguidance."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from membound.server.errors import ApiError
from membound.server.fields import GenerationFields, JsonObjectFormat, JsonSchemaFormat

SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")  # characters that mean something in an expression
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as models write it. Free white space invites a small model to write nothing else."""


class Vocabulary(Protocol):
    """What grammars need of a tokenizer."""

    eos_id: int | None
    bos_id: int | None
    end_ids: frozenset[int]
    vocab_size: int

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...

    def text_bytes(self, token: int) -> bytes: ...


class _Tokens:
    """A vocabulary in the form that llguidance reads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = range(vocabulary.vocab_size)
        self.tokens = [vocabulary.token_bytes(id) for id in ids]
        self.special_token_ids = [id for id in ids if self.tokens[id] and not vocabulary.text_bytes(id)]
        self.eos_token_id = vocabulary.eos_id if vocabulary.eos_id is not None else min(vocabulary.end_ids)
        self.bos_token_id = vocabulary.bos_id
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, add_bos=False)


class Guide:
    """Makes constraints for one vocabulary; building it takes a second or so, and holds the interpreter."""

    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        """`size`: the ids that the model has logits for."""
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary)), n_vocab=size, eos_token=sorted(vocabulary.end_ids)
        )
        ends = np.zeros(-(-size // 32) * 32, np.uint8)
        ends[list(vocabulary.end_ids)] = 1
        self._ends = np.packbits(ends, bitorder="little").view(np.int32)

    def constraint(self, grammar: str, param: str) -> "GrammarConstraint":
        """A request's own state of the grammar; ApiError where it has a fault. Large ones take their time."""
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            fault = matcher.get_error().strip()
            if param == "tools":
                fault = fault.partition("\n")[0]  # below it stands the grammar, which no client wrote
            raise ApiError(400, f"{param}: {fault}", param=param)
        constraint = GrammarConstraint(matcher, self._ends)
        constraint.allowed()  # some grammars turn out to be too large only here
        if constraint.error:
            raise ApiError(400, f"{param}: {constraint.error}", param=param)
        return constraint


class GrammarConstraint:
    """Follows one output. A fault on the way lets only end tokens through, and stays in `error`."""

    def __init__(self, matcher: LLMatcher, ends: NDArray[np.int32]) -> None:
        self._matcher = matcher
        self._ends = ends
        self._bits = np.zeros_like(ends)
        self.error: str | None = None

    def allowed(self) -> NDArray[np.int32]:
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            self.error = self._matcher.get_error().partition("\n")[0]  # below it stands the whole grammar
        return self._ends if self._matcher.is_stopped() else self._bits

    def accept(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def grammar_of(fields: GenerationFields) -> tuple[str, str] | None:
    """The grammar that a request asks for, and the field that does; ApiError if several do."""
    found: list[tuple[str, str]] = []
    form = fields.response_format
    schema: dict[str, Any] | None = None
    if isinstance(form, JsonObjectFormat):
        schema = {"type": "object"}
    elif isinstance(form, JsonSchemaFormat):
        schema = form.json_schema.json_schema or {}
    newer = fields.structured_outputs
    asked: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("response_format", schema, json_grammar),
        ("guided_json", fields.guided_json, json_grammar),
        ("guided_regex", fields.guided_regex, LLMatcher.grammar_from_regex),
        ("guided_choice", fields.guided_choice, _choice_grammar),
        ("guided_grammar", fields.guided_grammar, _text_grammar),
    ]
    if newer is not None:
        anything = {"type": "object"} if newer.json_object else None
        asked += [
            ("structured_outputs.json", newer.json_schema, json_grammar),
            ("structured_outputs.json_object", anything, json_grammar),
            ("structured_outputs.regex", newer.regex, LLMatcher.grammar_from_regex),
            ("structured_outputs.choice", newer.choice, _choice_grammar),
            ("structured_outputs.grammar", newer.grammar, _text_grammar),
        ]
    for name, value, make in asked:
        if value is not None:
            try:
                found.append((make(value), name))
            except ValueError as error:
                raise ApiError(400, f"{name}: {error}", param=name) from None
    if len(found) > 1:
        names = " and ".join(name for _, name in found)
        raise ApiError(400, f"{names} exclude each other", param=found[1][1])
    return found[0] if found else None


def json_grammar(schema: Mapping[str, Any] | str) -> str:
    """A grammar of the JSON values of a schema; ValueError where it is none."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError("the JSON schema is not an object")
    return LLMatcher.grammar_from_json_schema(schema, overrides=SPACING)  # type: ignore[arg-type]


def _choice_grammar(choices: Sequence[str]) -> str:
    """As one expression: thousands of choices are too many for rules."""
    return LLMatcher.grammar_from_regex("|".join(SPECIAL.sub(r"\\\g<0>", choice) for choice in choices))


def _text_grammar(grammar: str) -> str:
    """Lark's notation, or GBNF; ValueError where it is neither."""
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(grammar))
    except Exception as error:  # the converter names no class of its own
        raise ValueError(f"the grammar cannot be read: {error}") from None
