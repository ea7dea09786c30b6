"""A server of hardware that is not there."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from membound.commands.serve_predicted import DeploymentMeter
from membound.costs.calibration import IDEAL
from membound.costs.deployment import deployment
from membound.costs.parallel import layout
from membound.costs.roofline import StepCost
from membound.server.stand_in import StandIn
from membound.serving.engine import StepRecord

LOAD = ["--concurrency", "1", "--requests", "1", "--prompt", "16", "--output", "40"]
MODEL = ["meta-llama/Llama-3.1-70B", "--on", "4xh100-sxm"]


@contextmanager
def predicted_server(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "membound.cli", "serve", *MODEL, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        try:
            assert found
            yield found[0]
        finally:
            process.terminate()
            errors = process.communicate(timeout=20)[1]
    assert "Traceback" not in errors


def test_time_is_as_predicted_and_the_text_says_what_it_is() -> None:
    simulated = json.loads(
        subprocess.run(
            [sys.executable, "-m", "membound.cli", "simulate", *MODEL, *LOAD, "--json"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    with predicted_server("--output-tokens", "30") as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        client.completions.create(model=MODEL[0], prompt="x", max_tokens=1)
        moments, reason = [], None
        for chunk in client.completions.create(
            model=MODEL[0], prompt="word " * 16, max_tokens=40, stream=True, extra_body={"ignore_eos": True}
        ):
            moments.append(time.perf_counter())
            reason = chunk.choices[0].finish_reason
        gaps = [after - before for before, after in pairwise(moments)]
        # Whoever shares this machine may make gaps longer; benchmarks/pacing.py says by how much.
        predicted = simulated["tpot_s"]["mean"]
        assert statistics.mean(gaps) > 0.9 * predicted
        assert reason == "length"

        answer = client.chat.completions.create(model=MODEL[0], messages=[{"role": "user", "content": "Hi"}])
        assert (answer.choices[0].message.content or "").startswith(" This text is not an answer.")
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 31  # and the end

        for options in ({"logprobs": 1}, {"extra_body": {"guided_regex": "a"}}):
            with pytest.raises(openai.BadRequestError, match=r"(is|are) not supported"):
                client.completions.create(model=MODEL[0], prompt="x", **options)

        place = urlsplit(url)
        connection = HTTPConnection(place.hostname or "", place.port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        steps, bytes_, seconds = (
            float(re.findall(rf"membound:{name}_total{{.*}} (\S+)", text)[0])
            for name in ("steps", "step_bytes", "step_seconds")
        )
        assert bytes_ / steps == pytest.approx(139e9, rel=0.02)
        assert seconds / steps == pytest.approx(predicted, rel=0.05)
        assert "membound:pacing_lag_seconds" in text


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-70B", "gpt-oss-120b", "deepseek-v3"])
def test_the_meter_counts_what_an_estimate_does(model: str) -> None:
    asked = deployment(model, "8xh200-sxm", tp=8)
    meter = DeploymentMeter(asked)
    whole = StepCost(asked.model, asked.cluster, asked.precisions, layout(), IDEAL, "none", asked.skew)
    for chunks, decodes in (
        (((100, 0),), ()),
        ((), (7,)),
        (((300, 1024), (1, 900)), tuple(range(50, 5000, 90))),
    ):
        work = whole.estimate([*chunks, *((1, cached) for cached in decodes)])
        found = meter.of(StepRecord(0.0, 1.0, chunks, decodes))
        assert found == pytest.approx((work.bytes, work.flops), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--on", "h100-sxm"], "does not fit"), ([], "or --on HARDWARE for the same server in predicted time")],
)
def test_what_cannot_be_served_is_one_line(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "membound.cli", "serve", MODEL[0], *options, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@given(st.text(max_size=80))
def test_a_stand_in_gives_its_text_again(text: str) -> None:
    stand_in = StandIn(1000)
    ids = stand_in.encode(text)
    assert stand_in.decode(ids) == text.encode("utf-8", "replace").decode()
    assert stand_in.encode(text) == ids
    assert all(0 < token < 1000 for token in ids)


def test_a_full_stand_in_goes_on() -> None:
    stand_in = StandIn(10)
    ids = stand_in.encode("a b c d e f g h i j k l m n o p")
    assert len(ids) == 16
    assert all(0 < token < 10 for token in ids)
