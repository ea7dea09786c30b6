"""The messages of a conversation, as chat templates take them."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SkipValidation, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from membound.server.errors import of_validation
from membound.server.fields import Wire

AT_ONCE = 256  # messages that are looked at before other threads have their turn


class TextPart(Wire):
    type: Literal["text"]
    text: str


def _text_alone(content: object) -> object:
    """Images, sound and files are refused by name."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise PydanticCustomError("unsupported", "{kind} is not supported, only text", {"kind": kind})
    return content


Content = Annotated[str | Annotated[list[TextPart], Field(min_length=1)], BeforeValidator(_text_alone)]


class SystemMessage(Wire):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Wire):
    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Wire):
    name: str
    arguments: str


class ToolCall(Wire):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None


class ToolMessage(Wire):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
# A conversation may have thousands: `for_template` looks at them, in a thread.
Messages = Annotated[list[SkipValidation[Message]], Field(min_length=1)]
_part = TypeAdapter(list[Message])


def for_template(messages: Messages) -> list[dict[str, Any]]:
    """As chat templates take them; ApiError where one is none."""
    return [_for_template(message) for message in _checked(messages)]


def _checked(messages: Messages) -> Iterator[Message]:
    for start in range(0, len(messages), AT_ONCE):
        try:
            yield from _part.validate_python(messages[start : start + AT_ONCE])
        except ValidationError as error:
            faults = [_placed(fault, start) for fault in error.errors()]
            raise of_validation(faults, {"messages": messages}) from None


def _placed(fault: Any, start: int) -> dict[str, Any]:
    """A fault of a part as one of the body."""
    place, *within = fault["loc"]
    return {**fault, "loc": ("body", "messages", start + place, *within)}


def _for_template(message: Message) -> dict[str, Any]:
    """Content as one text, a developer as the system, what is absent left out."""
    role = "system" if message.role == "developer" else message.role
    found: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if isinstance(message, AssistantMessage) and message.tool_calls is not None:
        found["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        found["tool_call_id"] = message.tool_call_id
    return found


def _text(content: Content | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""
