"""One model for all tests of the server: loading it again would only cost time."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from openai import OpenAI

from membound import LLM
from membound.server.served import Served
from tests.server.live import listening, served_model


@dataclass
class Live:
    served: Served
    url: str
    client: OpenAI


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    llm = LLM("smollm2", context=1024, max_running=8)
    served = served_model(llm, "smollm2", guided=True)
    with listening(served) as url:
        yield Live(served, url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
