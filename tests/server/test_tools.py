"""Calls of tools: read from text in whatever pieces it comes, forced by a grammar, told as OpenAI does."""

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from membound import LLM
from membound.server.errors import ApiError
from membound.server.tools import (
    HERMES,
    LLAMA3,
    Call,
    Function,
    ToolForm,
    ToolReader,
    form_of,
    template_messages,
)
from tests.real_models import real_model
from tests.server.conftest import Live
from tests.server.live import listening, served_model

WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the weather in Paris now? Use the tool."}
]


def read(form: ToolForm | None, pieces: list[str], *, parallel: bool = True) -> tuple[str, list[Call]]:
    reader = ToolReader(form, ["f"], parallel=parallel)
    shown, calls = "", []
    for place, piece in enumerate(pieces):
        text, found = reader.push(piece, last=place == len(pieces) - 1)
        shown += text
        calls += found
    return shown, calls


CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("form", "text", "shown", "calls"),
    [
        (HERMES, "Just text, < and <tool", "Just text, < and <tool", []),
        (HERMES, CALL, "", [Call("f", '{"x": 1}')]),
        (HERMES, f"I will.\n{CALL}\n{CALL}", "I will.\n", [Call("f", '{"x": 1}')] * 2),
        (HERMES, CALL.removesuffix("\n</tool_call>"), "", [Call("f", '{"x": 1}')]),
        (HERMES, "<tool_call>nonsense</tool_call>!", "<tool_call>nonsense</tool_call>!", []),
        (HERMES, '<tool_call>{"name": "f"', '<tool_call>{"name": "f"', []),
        (HERMES, '{"name": "f", "arguments": {"x": 1}}\n', "", [Call("f", '{"x": 1}')]),
        (HERMES, '{"name": "g", "arguments": {}}', '{"name": "g", "arguments": {}}', []),
        (HERMES, '{"a": 1} is JSON.', '{"a": 1} is JSON.', []),
        (HERMES, f'{{"a": 1}}{CALL}', '{"a": 1}', [Call("f", '{"x": 1}')]),
        (LLAMA3, '{"name": "f", "parameters": {"x": 1}}', "", [Call("f", '{"x": 1}')]),
        (LLAMA3, ' {"a": 1}', ' {"a": 1}', []),
        (LLAMA3, 'Well, {"name": "f"}', 'Well, {"name": "f"}', []),
        (None, CALL, CALL, []),
    ],
)
@given(data=st.data())
def test_pieces_do_not_matter(
    form: ToolForm | None, text: str, shown: str, calls: list[Call], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(form, pieces) == (shown, calls)


def test_without_parallel_calls_the_first_one_counts() -> None:
    assert read(HERMES, [CALL + CALL], parallel=False) == ("", [Call("f", '{"x": 1}')])


def test_templates_tell_the_form() -> None:
    assert form_of("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert form_of('<|start_header_id|>{{ tools }}"parameters"') is LLAMA3
    with pytest.raises(ApiError, match="no place for tools"):
        form_of("{{ messages }}")
    with pytest.raises(ApiError, match="in a form that this server cannot read"):
        form_of("[AVAILABLE_TOOLS]{{ tools }}")


@pytest.mark.models
def test_a_model_without_tools_refuses_them(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        live.client.chat.completions.create(model="smollm2", messages=QUESTION, tools=[WEATHER])
    with pytest.raises(openai.BadRequestError, match="tool_choice needs tools"):
        live.client.chat.completions.create(model="smollm2", messages=QUESTION, tool_choice="auto")


@pytest.mark.models
@pytest.mark.parametrize("form", [HERMES, LLAMA3])
def test_each_tools_schema_finds_its_own_definitions(live: Live, form: ToolForm) -> None:
    size = {"$defs": {"size": {"enum": ["S", "L"]}}}
    parameters = {"type": "object", "properties": {"size": {"$ref": "#/$defs/size"}}, "required": ["size"]}
    grammar = form.grammar([Function(name="order", parameters=parameters | size), Function(name="leave")])
    guide = live.served.guide
    assert guide is not None

    def fits(call: str) -> bool:
        constraint = guide.constraint(grammar, "tools")
        for token in live.served.text.encode(call, add_bos=False):
            if not constraint.allowed()[token // 32] >> token % 32 & 1:
                return False
            constraint.accept(token)
        return True

    for name, arguments, right in (
        ("order", '{"size": "L"}', True),
        ("order", '{"size": "XL"}', False),
        ("leave", "{}", True),
        ("stay", "{}", False),
    ):
        around = [f"{form.begin}\n", f"\n{form.end}"] if form.begin else ["", ""]
        call = f'{around[0]}{{"name": "{name}", "{form.arguments}": {arguments}}}{around[1]}'
        assert fits(call) == right
    with pytest.raises(ApiError, match=r"^tools: [^\n]*Invalid type: nonsense$"):
        guide.constraint(form.grammar([Function(name="f", parameters={"type": "nonsense"})]), "tools")


@pytest.mark.models
def test_a_model_with_tools_calls_them() -> None:
    llm = LLM(real_model("qwen0.5b"), context=2048, max_running=4)
    with listening(served_model(llm, "qwen", guided=True)) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def ask(**options: Any) -> Any:
            return client.chat.completions.create(
                model="qwen", messages=QUESTION, tools=[WEATHER], temperature=0, max_tokens=80, **options
            )

        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = ask(tool_choice=choice)
            [call] = answer.choices[0].message.tool_calls
            assert call.function.name == "get_weather"
            assert json.loads(call.function.arguments).keys() == {"city"}
            assert answer.choices[0].finish_reason == ("tool_calls" if choice == "required" else "stop")

        name, arguments = "", ""
        for chunk in ask(tool_choice="required", stream=True):
            for piece in chunk.choices[0].delta.tool_calls or ():
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
            last = chunk.choices[0].finish_reason
        assert (name, last) == ("get_weather", "tool_calls")
        assert json.loads(arguments) == json.loads(call.function.arguments)

        said = ask(tool_choice="none").choices[0].message
        assert said.tool_calls is None
        assert said.content

        answered: list[Any] = [
            *QUESTION,
            {"role": "assistant", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "Rain, 11 degrees."},
        ]
        final = client.chat.completions.create(
            model="qwen", messages=answered, tools=[WEATHER], temperature=0, max_tokens=8
        )
        assert final.choices[0].message.content
        prompt = llm.tokenizer.chat(template_messages(answered), tools=[WEATHER])
        assert '"arguments": {"city"' in prompt  # a value, not a string of JSON
        assert "<tool_response>\nRain, 11 degrees.\n</tool_response>" in prompt
        with pytest.raises(openai.BadRequestError, match="there is no tool 'other'"):
            ask(tool_choice={"type": "function", "function": {"name": "other"}})
