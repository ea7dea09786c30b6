"""Chat templates render as Hugging Face renders them, and a template's failure is one line."""

import datetime

import pytest

from membound.errors import InputError
from membound.models.chat import GEMMA3, ChatTemplate

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello <b>&'\""},
    {"role": "user", "content": "More"},
]


def test_gemma_puts_the_system_message_before_the_first_question() -> None:
    template = ChatTemplate(GEMMA3, {"bos_token": "<bos>"})
    assert template.render(TALK) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello <b>&'\"<end_of_turn>\n"
        "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n"
    )
    assert template.render(TALK[1:2], add_generation_prompt=False) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n"
    )


def test_blocks_are_trimmed_and_json_is_not_escaped_for_html() -> None:
    source = (
        "  {% for m in messages %}\n{{ m | tojson }}\n  {% endfor %}\n{% if not tools %}no tools{% endif %}"
    )
    assert ChatTemplate(source, {}).render([{"role": "é", "content": "<&'>"}]) == (
        '{"role": "é", "content": "<&\'>"}\nno tools'
    )
    assert (
        ChatTemplate("{{ tools | tojson(indent=1) }}", {}).render([], tools=[{"a": 1}])
        == '[\n {\n  "a": 1\n }\n]'
    )


def test_functions_extensions_and_variables() -> None:
    year = str(datetime.datetime.now().year)
    source = (
        "{{ strftime_now('%Y') }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}{{ bos_token }}{{ enable_thinking }}"
    )
    rendered = ChatTemplate(source, {"bos_token": "<s>"}).render(TALK, enable_thinking=False)
    assert rendered == f"{year}system<s>False"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{% for %}", "Expected"),
        ("{{ messages[9].content.strip() }}", "no element 9"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages + 1 }}", "list"),
    ],
)
def test_what_a_template_does_wrong_is_one_line(source: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        ChatTemplate(source, {}).render(TALK)
    assert "\n" not in str(raised.value)
