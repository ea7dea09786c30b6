"""What completions and chat share: fields named as vLLM names them, in the ranges of OpenAI's document."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

BIAS_LIMIT = 100
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
# The engine looks whether a prompt's ids lie in the vocabulary: twice would cost milliseconds for long ones.
PromptId = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]
Ids = Annotated[list[PromptId], Field(min_length=1, fail_fast=True)]


def _boolean(value: object) -> object:
    """To Python 0 is False and True is 1; to JSON they are different."""
    if value is not None and not isinstance(value, bool):
        raise PydanticCustomError("literal_error", "Input should be false")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("literal_error", "Input should be 1")
    return value


# Perhaps as many as there are tokens: looked at in a thread, beside the vocabulary.
Biases = dict[str, Annotated[float, Field(ge=-BIAS_LIMIT, le=BIAS_LIMIT)]]
OnlyFalse = Annotated[Literal[False] | None, BeforeValidator(_boolean)]
OnlyOne = Annotated[Literal[1] | None, BeforeValidator(_number)]


class Wire(BaseModel):
    """What is unknown is refused by name, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Wire):
    include_usage: bool = False


class StructuredOutputs(Wire):
    """vLLM's newer spelling of guided decoding; one of them."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None


class JsonSchema(Wire):
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Wire):
    type: Literal["text"]


class JsonObjectFormat(Wire):
    type: Literal["json_object"]


class JsonSchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class GenerationFields(Wire):
    """How to generate."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    logit_bias: SkipValidation[Biases | None] = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None  # goes to the log
    n: OnlyOne = None
    best_of: OnlyOne = None
    use_beam_search: OnlyFalse = None
    store: OnlyFalse = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("needs_stream", "stream_options needs stream to be true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream's last event tells the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage
