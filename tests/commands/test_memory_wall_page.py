"""Every number of docs/the-memory-wall.md comes out of the command beside it."""

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from membound.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "the-memory-wall.md"
X = "membound roofline meta-llama/Llama-3.1-70B --on h100-sxm --ideal --context 1 --json"
ROWS = re.findall(r"^\| (.+?) \| `(.+?)` \| `(.+?)` \| (\S+) \|$", PAGE.read_text(), re.MULTILINE)


@cache
def answer(command: str) -> Any:
    words = shlex.split(re.sub(r"^X\b", X, command))
    assert words[0] == "membound"
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    return json.loads(result.stdout)


def evaluated(expression: str, values: Any) -> Any:
    """An arithmetic expression over dotted keys."""

    def number(found: re.Match[str]) -> str:
        value = values
        for key in re.findall(r"\w+", found[0]):
            value = value[int(key)] if key.isdigit() else value[key]
        return repr(value)

    return eval(re.sub(r"(?<![\w.])[a-z_][a-z_0-9]*(?:\[\d+\]|\.[a-z_0-9]+)*", number, expression))


def test_the_page_has_its_chain() -> None:
    assert len(ROWS) > 25
    assert f"`{X}`" in PAGE.read_text()


@pytest.mark.parametrize(("what", "command", "expression", "printed"), ROWS)
def test_the_number_comes_out(what: str, command: str, expression: str, printed: str) -> None:
    value = evaluated(expression, answer(command))
    if printed in ("True", "False"):
        assert str(value) == printed
    else:
        digits = len(printed.partition(".")[2])
        assert round(float(value), digits) == float(printed), what
