"""Asks an endpoint what steps take: prompts alone of growing length, and batches that decode together.

A batch is sent at once. Between the last first token and the first end all of it decodes: in that window the
seconds between a request's events are those of a step. The window is empty where the server did not run all
at once, and then larger batches are not tried.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from membound.costs.endpoint_fit import Sample
from membound.measuring.clients import Job, Run, run_job
from membound.measuring.record import Record
from membound.workloads.metrics import percentile
from membound.workloads.offered import Offered

ROUNDS, REPEATS = 3, 2
OUTPUT = 64  # tokens of each request of a batch
LEAST_STEPS = 8  # in a window that counts

Say = Callable[[str], None]
Batch = tuple[int, int]  # requests at once, and the tokens of their prompts


def probe(job: Job, lengths: Sequence[int], batches: Sequence[Batch], say: Say) -> list[Sample]:
    """Prompts of these lengths alone, to their first tokens, and steps of these batches.

    All is asked in several rounds, so that a disturbance does not fall on one probe alone, and since
    disturbances only ever add, the lower quartile counts.
    """
    prompts: dict[int, list[float]] = {}
    steps: dict[Batch, list[Sample]] = {}
    refused: set[Batch] = set()
    for number in range(ROUNDS):
        for length in lengths:
            say(f"round {number + 1} of {ROUNDS}: a prompt of {length} tokens")
            offered = Offered(concurrency=1, requests=REPEATS, prompt=length, output=1)
            times = (r.timing.ttft_s for r in _run(job, offered).records if r.succeeded)
            prompts.setdefault(length, []).extend(time for time in times if time is not None)
        for batch in batches:
            if any(batch[0] >= other[0] and batch[1] >= other[1] for other in refused):
                continue  # the server does not run so many at once
            say(f"round {number + 1} of {ROUNDS}: {batch[0]} at once, with {batch[1]} tokens each")
            offered = Offered(concurrency=batch[0], requests=batch[0], prompt=batch[1], output=OUTPUT)
            sample = step_of(_run(job, offered).records)
            if sample is not None:
                steps.setdefault(batch, []).append(sample)
            elif batch not in steps:
                refused.add(batch)
    found = [Sample(0, length, percentile(times, 0.25)) for length, times in prompts.items() if times]
    return found + [
        replace(samples[0], seconds=percentile([one.seconds for one in samples], 0.25))
        for samples in steps.values()
    ]


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
