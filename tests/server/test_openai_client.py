"""What the official client gets."""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.server.conftest import Live
from tests.server.live import wait_until_idle

pytestmark = pytest.mark.models

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hi."}]
FRANCE = "The capital of France is"


def test_completion(live: Live) -> None:
    answer = live.client.completions.create(model="smollm2", prompt=FRANCE, max_tokens=8, temperature=0)
    choice = answer.choices[0]
    assert "Paris" in choice.text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 8)


def test_a_stream_gives_what_a_body_does(live: Live) -> None:
    whole = live.client.completions.create(model="smollm2", prompt=FRANCE, max_tokens=12, seed=3)
    chunks = list(
        live.client.completions.create(
            model="smollm2",
            prompt=FRANCE,
            max_tokens=12,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_several_prompts_stand_in_their_order(live: Live) -> None:
    prompts = [FRANCE, "One two three", "def main():"]
    alone = [
        live.client.completions.create(model="smollm2", prompt=prompt, max_tokens=6, temperature=0)
        .choices[0]
        .text
        for prompt in prompts
    ]
    answer = live.client.completions.create(model="smollm2", prompt=prompts, max_tokens=6, temperature=0)
    assert [choice.text for choice in answer.choices] == alone
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18
    texts = ["", "", ""]
    for chunk in live.client.completions.create(
        model="smollm2", prompt=prompts, max_tokens=6, temperature=0, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == alone


@pytest.mark.parametrize(("prompt", "count", "tokens"), [(FRANCE, 1, 5), ([FRANCE, "One two three"], 2, 8)])
def test_no_tokens_are_an_empty_text_per_prompt(
    live: Live, prompt: str | list[str], count: int, tokens: int
) -> None:
    steps = live.served.engine.engine.steps
    whole = live.client.completions.create(model="smollm2", prompt=prompt, max_tokens=0)
    *chunks, last = live.client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=0, stream=True, stream_options={"include_usage": True}
    )
    ended = [(index, "", "length", None) for index in range(count)]
    for choices in whole.choices, [choice for chunk in chunks for choice in chunk.choices]:
        assert [(each.index, each.text, each.finish_reason, each.logprobs) for each in choices] == ended
    assert len(chunks) == count
    assert last.usage == whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (tokens, 0)
    assert live.served.engine.engine.steps == steps
    wait_until_idle(live.served)
    entry = live.served.ledger.lately[-1]
    assert (entry.reason, entry.output_tokens, entry.admitted) == ("length", 0, None)


def test_token_ids_as_a_prompt(live: Live) -> None:
    ids = live.served.text.encode(FRANCE)
    answer = live.client.completions.create(model="smollm2", prompt=ids, max_tokens=4, temperature=0)
    assert "Paris" in answer.choices[0].text


def test_chat_whole_and_streamed(live: Live) -> None:
    whole = live.client.chat.completions.create(
        model="smollm2", messages=QUESTION, max_completion_tokens=24, temperature=0
    )
    content = whole.choices[0].message.content
    assert content
    chunks = list(
        live.client.chat.completions.create(
            model="smollm2", messages=QUESTION, max_tokens=24, temperature=0, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_prompt_again_is_found_in_the_cache(live: Live) -> None:
    prompt = "Once upon a time there was a small machine that read all its weights for every word. " * 3
    first = live.client.completions.create(model="smollm2", prompt=prompt, max_tokens=2, temperature=0)
    again = live.client.completions.create(model="smollm2", prompt=prompt, max_tokens=2, temperature=0)
    assert again.choices[0].text == first.choices[0].text
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert cached >= 32


def test_stop_strings_end_before_themselves(live: Live) -> None:
    answer = live.client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", max_tokens=30, temperature=0, stop=[" 7", "never"]
    )
    assert answer.choices[0].text == " 5, 6,"
    assert answer.choices[0].finish_reason == "stop"


def test_same_seed_same_text(live: Live) -> None:
    def text(seed: int) -> str:
        answer = live.client.completions.create(
            model="smollm2",
            prompt=FRANCE,
            max_tokens=16,
            temperature=1.5,
            top_p=0.95,
            seed=seed,
            extra_body={"top_k": 50, "min_p": 0.01},
        )
        return answer.choices[0].text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_logprobs(live: Live) -> None:
    answer = live.client.completions.create(
        model="smollm2", prompt=FRANCE, max_tokens=3, temperature=0, logprobs=2
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values()) <= 0
        assert len(top) == 2

    chat = live.client.chat.completions.create(
        model="smollm2", messages=QUESTION, max_tokens=100, temperature=0, logprobs=True, top_logprobs=4
    )
    assert chat.choices[0].finish_reason == "stop"
    content = chat.choices[0].logprobs
    assert content is not None
    assert content.content is not None
    assert "".join(each.token for each in content.content) == chat.choices[0].message.content
    assert {len(each.top_logprobs) for each in content.content} == {4}


def test_penalties_and_stop_ids(live: Live) -> None:
    def text(**options: Any) -> str:
        answer = live.client.completions.create(
            model="smollm2", prompt="ha ha ha ha ha", max_tokens=12, temperature=0, extra_body=options
        )
        return answer.choices[0].text

    free = text()
    assert free.count("ha") > 8
    assert text(frequency_penalty=2).count("ha") < free.count("ha")
    assert text(presence_penalty=2, repetition_penalty=1.5).count("ha") < free.count("ha")
    assert text(stop_token_ids=live.served.text.encode(" ha")) == ""


def test_logit_bias_forbids_and_forces(live: Live) -> None:
    paris = live.served.text.encode(" Paris")[0]
    forbidden = live.client.completions.create(
        model="smollm2", prompt=FRANCE, max_tokens=1, temperature=0, logit_bias={str(paris): -100}
    )
    assert forbidden.choices[0].text != " Paris"
    forced = live.client.completions.create(
        model="smollm2", prompt="x", max_tokens=3, temperature=0, logit_bias={str(paris): 100}
    )
    assert forced.choices[0].text == " Paris" * 3


def test_models(live: Live) -> None:
    assert [model.id for model in live.client.models.list()] == ["smollm2"]
    assert live.client.models.retrieve("smollm2").owned_by == "membound"
    with pytest.raises(openai.NotFoundError, match="'gpt-5' does not exist"):
        live.client.models.retrieve("gpt-5")
    with pytest.raises(openai.NotFoundError, match="serves 'smollm2'"):
        live.client.completions.create(model="gpt-5", prompt="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2}, "n = 2 is not supported"),
        ({"best_of": 3}, "best_of = 3 is not supported"),
        ({"echo": True}, "echo = True is not supported"),
        ({"suffix": "!"}, "suffix = '!' is not supported"),
        ({"stop": [1]}, "stop.0: Input should be a valid string"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"extra_body": {"stop_token_ids": [10**9]}}, "stop_token_ids: 1000000000 is no token id"),
        ({"temperature": 2.1}, "temperature: Input should be less than or equal to 2"),
        ({"top_p": -0.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5000}, "lower max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"logit_bias": {"paris": 1}}, "'paris' is no token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1: not a number from -100 to 100"),
        ({"logit_bias": {"1": True}}, "logit_bias.1: not a number"),
        ({"logit_bias": [1]}, "logit_bias: not an object"),
        ({"extra_body": {"prompt_embeds": "x"}}, "prompt_embeds is not supported"),
        ({"prompt": [10**6]}, "token ids must lie between 0 and"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "word " * 2000}, "shorten the prompt"),
        ({"prompt": "word " * 2000, "max_tokens": 0}, "shorten the prompt"),
    ],
)
def test_refusals_name_the_field(live: Live, options: dict[str, object], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        live.client.completions.create(**{"model": "smollm2", "prompt": "x", **options})  # type: ignore[call-overload]
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "image_url is not supported, only text",
            "messages.0.content",
        ),
        ({"messages": [{"role": "user"}]}, "Field required", "messages.0.content"),
        ({"messages": [*QUESTION * 300, {"role": "user"}]}, "Field required", "messages.300.content"),
        ({"tool_choice": "sometimes"}, "'none', 'auto' or 'required'", "tool_choice"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "should match pattern",
            "response_format.json_schema.name",
        ),
        ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ({"reasoning_effort": "low"}, "reasoning_effort is not supported", "reasoning_effort"),
    ],
)
def test_refusals_in_chat_name_the_place_in_the_body(
    live: Live, fields: dict[str, object], message: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        live.client.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, **fields})  # type: ignore[call-overload]
    assert refused.value.param == param


def test_leaving_a_stream_drops_its_request(live: Live) -> None:
    stream = live.client.completions.create(
        model="smollm2", prompt="1 2", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_until_idle(live.served)
