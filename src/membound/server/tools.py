"""Tools: how a model is made to call one, and how its calls are read from its text.

A model writes calls in the form that its chat template showed it. Two forms are known: JSON between
`<tool_call>` tags (Hermes, Qwen), and the whole message as one JSON object with `parameters` (Llama 3.1).
"""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from membound.server.errors import ApiError
from membound.server.fields import Wire
from membound.server.guidance import SPACING

Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]


class Function(Wire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    name: Name


class NamedTool(Wire):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True, slots=True)
class Call:
    """A function's name and its arguments as JSON."""

    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        return {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How calls stand in the text: between the tags, or as the whole of it."""

    arguments: str  # the key of the arguments
    begin: str = ""
    end: str = ""

    def read(self, text: str) -> Call | None:
        """The call that a piece of JSON is, if it is one."""
        try:
            found = json.loads(text)
        except ValueError:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get(self.arguments, {})
        return Call(found["name"], json.dumps(arguments, ensure_ascii=False))

    def grammar(self, functions: Sequence[Function]) -> str:
        """Lark's notation of one call of one of these."""
        around = [json.dumps(f"{self.begin}\n"), json.dumps(f"\n{self.end}")] if self.begin else ["", ""]
        places = range(len(functions))
        lines = [f"start: {around[0]} ({' | '.join(f'call_{place}' for place in places)}) {around[1]}"]
        for place, function in enumerate(functions):
            before = json.dumps(f'{{"name": "{function.name}", "{self.arguments}": ')
            # A rule for each schema: what refers to its own $defs finds them.
            schema = {**(function.parameters or {"type": "object"}), "x-guidance": SPACING}
            lines += [
                f'call_{place}: {before} arguments_{place} "}}"',
                f"arguments_{place}: %json {json.dumps(schema)}",
            ]
        return "\n".join(lines) + "\n"


HERMES = ToolForm("arguments", "<tool_call>", "</tool_call>")
LLAMA3 = ToolForm("parameters")


def form_of(template: str) -> ToolForm:
    """How a model of this chat template calls; ApiError where it does not, or in an unknown form."""
    if "tools" not in template:
        raise ApiError(400, "the chat template of this model has no place for tools", param="tools")
    if HERMES.begin in template:
        return HERMES
    if '"parameters"' in template and "<|start_header_id|>" in template:
        return LLAMA3
    raise ApiError(400, "this model calls tools in a form that this server cannot read", param="tools")


class ToolReader:
    """Parts text from calls as it comes; without a form all is text.

    Some models leave the tags out: a message that is nothing but a call of one of `names` is one as well.
    """

    def __init__(self, form: ToolForm | None, names: Collection[str] = (), *, parallel: bool = True) -> None:
        self._form = form
        self._names = names
        self._bare = True  # whether all of the message may yet be a call without tags
        self._most = None if parallel else 1
        self._inside = ""  # what may become a call
        self._within = False
        self._after = False  # a call stands before what comes; the space between is no content
        self.calls = 0

    def push(self, text: str, *, last: bool = False) -> tuple[str, list[Call]]:
        """Text that can be shown now, and calls that are complete."""
        form = self._form
        if form is None:
            return text, []
        if not form.begin:
            return self._whole(form, text, last)
        shown, calls = "", []
        self._inside += text
        if self._bare:
            begun = self._inside.lstrip()
            if not last and (not begun or begun.startswith("{")):
                return "", []
            self._bare = False
            call = form.read(begun)
            if call is not None and call.name in self._names:
                self.calls += 1
                return "", [call]
        while True:
            if not self._within:
                before, begun, rest = self._inside.partition(form.begin)
                held = 0 if begun or last else _overlap(before, form.begin)
                shown += self._content(before[: len(before) - held])
                self._inside = rest if begun else before[len(before) - held :]
                if not begun:
                    break
                self._within = True
            body, end, rest = self._inside.partition(form.end)
            if not end and not last:
                break
            call = form.read(body)
            if call is None:
                shown += self._content(form.begin + body + end)
            else:
                self._after = True
                if self._most is None or self.calls < self._most:
                    self.calls += 1
                    calls.append(call)
            self._within, self._inside = False, rest
            if not end:
                break
        return shown, calls

    def _whole(self, form: ToolForm, text: str, last: bool) -> tuple[str, list[Call]]:
        """The message is one call if it begins like one."""
        self._inside += text
        begun = self._inside.lstrip()
        if not last and (not begun or begun.startswith("{")) and not self._within:
            return "", []
        shown, self._inside = self._inside, ""
        call = form.read(shown) if not self._within else None
        self._within = True
        if call is None:
            return shown, []
        self.calls += 1
        return "", [call]

    def _content(self, text: str) -> str:
        if self._after:
            text = text.lstrip()
            self._after = not text
        return text


def _overlap(text: str, tag: str) -> int:
    """How much of the text's end may be the beginning of the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arguments of earlier calls as values, which is how templates take them."""
    found = []
    for message in messages:
        calls = message.get("tool_calls")
        if calls:
            message = {**message, "tool_calls": [_with_values(call) for call in calls]}
        found.append(dict(message))
    return found


def _with_values(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        raise ApiError(400, f"the arguments of {function['name']} are not JSON", param="messages") from None
    return {**call, "function": {**function, "arguments": arguments}}
