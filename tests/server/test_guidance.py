"""Output that obeys: schemas, expressions, choices, grammars."""

import json
import re
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.server.conftest import Live

pytestmark = pytest.mark.models

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Describe a person in JSON."}]


def complete(live: Live, seed: int = 0, **guided: Any) -> str:
    answer = live.client.completions.create(
        model="smollm2", prompt="A person:", max_tokens=60, temperature=1.2, seed=seed, extra_body=guided
    )
    return answer.choices[0].text


@pytest.mark.parametrize("seed", range(3))
def test_a_json_schema(live: Live, seed: int) -> None:
    answer = live.client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        temperature=1.0,
        seed=seed,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
    )
    content = answer.choices[0].message.content
    assert content is not None
    person = json.loads(content)
    assert person.keys() == {"name", "age"}
    assert isinstance(person["age"], int)
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(complete(live, seed, guided_json=PERSON)).keys() == {"name", "age"}
    assert json.loads(complete(live, seed, structured_outputs={"json": PERSON})).keys() == {"name", "age"}


def test_a_json_object(live: Live) -> None:
    answer = live.client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_object"},
    )
    content = answer.choices[0].message.content
    assert content is not None
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_expressions_choices_and_grammars(live: Live) -> None:
    for seed in range(3):
        assert re.fullmatch(
            r"[A-Z][a-z]{2,5} \d{2}", complete(live, seed, guided_regex=r"[A-Z][a-z]{2,5} \d{2}")
        )
        assert complete(live, seed, guided_choice=["tall", 'small\nand "old"']) in (
            "tall",
            'small\nand "old"',
        )
        assert re.fullmatch("ab+c?", complete(live, seed, guided_grammar='start: "a" "b"+ "c"'))
        assert complete(live, seed, guided_grammar='root ::= "x" [0-9] "y"')[::2] == "xy"


def test_thousands_of_choices_and_characters_that_mean_something(live: Live) -> None:
    many = [f"choice {number}" for number in range(5000)]
    assert complete(live, guided_choice=many) in many
    strange = "a.b*[c](d){2}^$|e\\f+?"
    assert complete(live, guided_choice=[strange]) == strange


def test_a_stream_obeys_while_others_run_free(live: Live) -> None:
    free = live.client.completions.create(
        model="smollm2", prompt="One two", max_tokens=40, temperature=0, stream=True
    )
    expected = live.client.completions.create(model="smollm2", prompt="One two", max_tokens=40, temperature=0)
    text = "".join(chunk.choices[0].text for chunk in free)
    guided = "".join(
        chunk.choices[0].text
        for chunk in live.client.completions.create(
            model="smollm2",
            prompt="One two",
            max_tokens=40,
            stream=True,
            extra_body={"guided_regex": "[0-9]{9}"},
        )
    )
    assert text == expected.choices[0].text
    assert re.fullmatch("[0-9]{9}", guided)


@pytest.mark.parametrize(
    ("guided", "message"),
    [
        ({"guided_regex": "(a"}, "guided_regex: .*unclosed group"),
        ({"guided_json": "{"}, "JSON schema is not JSON"),
        ({"guided_json": {"type": "nonsense"}}, "guided_json"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "exclude each other"),
    ],
)
def test_faults_are_told(live: Live, guided: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=re.compile(message, re.DOTALL)):
        complete(live, **guided)
