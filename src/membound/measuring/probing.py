"""Asks an endpoint what steps take: prompts alone of growing length, and batches that decode together.

A batch is sent at once. Between the last first token and the first end all of it decodes: in that window the
seconds between a request's events are those of a step. The window is empty where the server did not run all
at once, and then larger batches are not tried.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from membound.costs.endpoint_fit import Sample
from membound.measuring.clients import Job, Run, run_job
from membound.measuring.record import Record
from membound.workloads.metrics import percentile
from membound.workloads.offered import Offered

REPEATS = 3
OUTPUT = 64  # tokens of each request of a batch
LEAST_STEPS = 8  # in a window that counts

Say = Callable[[str], None]


def probe_prompts(job: Job, lengths: Sequence[int], say: Say) -> list[Sample]:
    """Seconds to the first token of prompts that have the server for themselves: the median of three."""
    samples = []
    for length in lengths:
        say(f"a prompt of {length} tokens")
        offered = Offered(concurrency=1, requests=REPEATS, prompt=length, output=1)
        times = [r.timing.ttft_s for r in _run(job, offered).records if r.succeeded]
        known = [time for time in times if time is not None]
        if not known:
            break
        samples.append(Sample(0, length, median(known)))
    return samples


def probe_batches(job: Job, batches: Sequence[int], prompt: int, say: Say) -> list[Sample]:
    """Seconds of a step of each batch size, at contexts around `prompt` and half of the output."""
    samples = []
    for batch in batches:
        say(f"{batch} at once, with {prompt} tokens each")
        offered = Offered(concurrency=batch, requests=batch, prompt=prompt, output=OUTPUT)
        sample = step_of(_run(job, offered).records)
        if sample is None:
            break
        samples.append(sample)
    return samples


def step_of(records: Sequence[Record]) -> Sample | None:
    """The step that requests sent at once had in common; None if they did not decode together."""
    if not records or not all(record.succeeded for record in records):
        return None
    start = max(record.events_s[0] for record in records)
    end = min(record.events_s[-1] for record in records)
    seconds, contexts = [], []
    for record in records:
        inside = [place for place, moment in enumerate(record.events_s) if start <= moment <= end]
        if len(inside) <= LEAST_STEPS:
            return None
        first, last = inside[0], inside[-1]
        tokens_per_event = record.output_tokens / len(record.events_s)
        steps = (last - first) * tokens_per_event
        seconds.append((record.events_s[last] - record.events_s[first]) / steps)
        prompt = record.prompt_tokens or record.asked_prompt_tokens
        contexts.append(prompt + (first + last) / 2 * tokens_per_event)
    return Sample(len(records), round(sum(contexts) / len(contexts)), percentile(seconds, 0.5))


def _run(job: Job, offered: Offered) -> Run:
    """Of texts that no cache has seen."""
    return run_job(replace(job, workload=offered.workload, salt=secrets.token_hex(8)))
