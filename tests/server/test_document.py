"""Random requests made from the server's own OpenAPI document."""

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from membound import LLM
from tests.server.live import listening, served_model, wait_until_idle
from tests.small_models import small_architecture, write_gguf

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 15
calm = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_the_document_holds(tmp_path: Path) -> None:
    llm = LLM(write_gguf(tmp_path / "m.gguf", small_architecture("gemma3", context_length=64)), max_running=4)
    served = served_model(llm, "m", guided=True)
    answers: dict[str, set[int]] = {}
    with listening(served) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
        assert {operation.path for operation in operations} >= {
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/models",
            "/tokenize",
            "/detokenize",
            "/health",
            "/version",
            "/metrics",
        }
        for operation in operations:
            modes = list(GenerationMode) if operation.body else [GenerationMode.POSITIVE]
            for mode in modes:  # there is nothing to get wrong about a plain GET

                @calm
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: Any) -> None:
                    response = case.call()
                    answers.setdefault(case.operation.path, set()).add(response.status_code)
                    case.validate_response(response, checks=CHECKS)

                check()
        wait_until_idle(served)
    assert 400 in answers["/v1/completions"]  # whether one was good enough for 200 is chance
    assert 400 in answers["/tokenize"]
