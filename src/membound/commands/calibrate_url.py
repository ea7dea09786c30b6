"""membound calibrate URL: fit the prediction to an endpoint, and test it on traffic that was not used."""

from __future__ import annotations

import json as jsonlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from membound.commands.output import print_json, print_table, status
from membound.costs.deployment import Deployment, deployment
from membound.costs.endpoint_fit import Factors, Sample, fit, predicted_s
from membound.errors import InputError, RunError
from membound.measuring import fine_loop
from membound.measuring.clients import Job, run_job
from membound.measuring.http import Pool, endpoint
from membound.measuring.prepare import Prepared, prepare
from membound.measuring.probing import probe
from membound.measuring.sender import Asking
from membound.measuring.summary import Measured
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.simulate import simulate
from membound.workloads.metrics import Summary
from membound.workloads.offered import Offered

LENGTHS = (32, 128, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SHORT, LONG = 64, 1024  # prompts of the batches
HELD_OUT = Offered(rate=1.0, requests=60, prompt=256, output=48, lengths="uniform", seed=11)
CHANCE = 0.01  # by which the error on unseen traffic differs from one run to the next
SHARE_OF_CAPACITY = 0.4  # at which the held-out traffic comes


@dataclass(frozen=True)
class Question:
    """What is asked: the options of the command."""

    url: str
    model: str
    hardware: str
    tp: int | None = None
    engine: str = "vllm"
    weights: str | None = None
    kv: str | None = None
    asking: Asking = field(default_factory=lambda: Asking(""))
    headers: Mapping[str, str] | None = None
    max_prompt: int = 4096
    max_batch: int = 64
    requests: int = HELD_OUT.requests or 60


@dataclass(frozen=True)
class Row:
    """A figure of the held-out traffic: measured, predicted before and after."""

    metric: str
    measured: float
    before: float
    after: float

    @property
    def errors(self) -> tuple[float, float]:
        return self.before / self.measured - 1, self.after / self.measured - 1


def calibrate_url(question: Question, *, write: Path | None, json: bool) -> None:
    asked = deployment(
        question.model,
        question.hardware,
        tp=question.tp,
        engine=question.engine,
        weights=question.weights,
        kv=question.kv,
    )
    settings = engine_settings(question.engine, asked.cluster.accelerator)
    began = time.perf_counter()
    with status("calibrating", quiet=json) as say:
        job = _job(question)
        samples = _probe(job, question, say)
        factors = fit(asked, samples, step_tokens=settings.max_step_tokens, server_s=settings.server_s)
        after = replace(asked, calibration=factors.applied(asked.calibration))
        say("traffic that the fit has not seen")
        offered, measured = _held_out(job, samples, question.requests)
        rows = _rows(measured, offered, asked, after, settings, factors)
    answer = {
        "url": question.url,
        "model": question.model,
        "hardware": question.hardware,
        "engine": question.engine,
        "parameters": asdict(factors),
        "before": _errors(asked, samples, settings, settings.server_s, [row.errors[0] for row in rows]),
        "after": _errors(after, samples, settings, factors.server_s, [row.errors[1] for row in rows]),
        "held_out": [
            {"metric": row.metric, "measured": row.measured, "before": row.before, "after": row.after}
            for row in rows
        ],
        "held_out_rate": offered.rate,
        "probes": [asdict(sample) for sample in samples],
        "seconds": time.perf_counter() - began,
        "warnings": [*measured.warnings, *_doubts(rows)],
    }
    if write is not None:
        try:
            write.write_text(jsonlib.dumps(answer, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"--write {write}: cannot be written ({error.strerror})") from None
    if json:
        print_json(answer)
    else:
        _print(question, answer, samples, asked, after, settings, factors, rows)


def _job(question: Question) -> Job:
    where = endpoint(question.url)
    headers = dict(question.headers or {})

    async def ask() -> Prepared:
        pool = Pool(where, headers)
        try:
            return await prepare(pool, question.asking)
        finally:
            pool.close()

    prepared = fine_loop.run(ask())
    return Job(where, prepared.asking, HELD_OUT.workload, prepared.prompts, secrets.token_hex(8), headers)


def _probe(job: Job, question: Question, say: Any) -> list[Sample]:
    lengths = [length for length in LENGTHS if length <= question.max_prompt]
    sizes = [batch for batch in BATCHES if batch <= question.max_batch]
    batches = [(batch, SHORT) for batch in sizes]
    if question.max_prompt >= LONG:
        batches += [(batch, LONG) for batch in sizes[::3]]
    say("warming up")
    probe(job, [], [(1, SHORT)], say)
    samples = probe(job, lengths, batches, say)
    if len(samples) < 4 or not any(sample.batch for sample in samples):
        raise RunError(f"{question.url}: only {len(samples)} of the probes succeeded, too few for a fit")
    return samples


def _held_out(job: Job, samples: Sequence[Sample], requests: int) -> tuple[Offered, Measured]:
    """Poisson traffic at a share of what the largest batch showed the server can do."""
    most = max((sample for sample in samples if sample.batch), key=lambda sample: sample.batch)
    longest = max((sample for sample in samples if not sample.batch), key=lambda sample: sample.tokens)
    prompt_s = longest.seconds / longest.tokens
    each = HELD_OUT.output * most.seconds / most.batch + HELD_OUT.prompt * prompt_s
    offered = replace(HELD_OUT, rate=SHARE_OF_CAPACITY / each, requests=requests)
    run = run_job(replace(job, workload=offered.workload, salt=secrets.token_hex(8)))
    measured = Measured(run)
    if len(measured.succeeded) < 2:
        raise RunError(f"the held-out traffic failed: {measured.error_kinds}")
    return offered, measured


def _rows(
    measured: Measured,
    offered: Offered,
    before: Deployment,
    after: Deployment,
    settings: EngineSettings,
    factors: Factors,
) -> list[Row]:
    workload = offered.workload()
    first = simulate(before, workload, settings=settings)
    second = simulate(after, workload, settings=replace(settings, server_s=factors.server_s))
    rows = []
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        for statistic in ("mean", "p50", "p90"):
            found = [_value(result, name, statistic) for result in (measured, first, second)]
            rows.append(Row(f"{name}.{statistic}", *found))
    rates = (measured.output_tok_per_s, first.output_tok_per_s, second.output_tok_per_s)
    return [*rows, Row("output_tok_per_s", *rates)]


def _value(result: Any, name: str, statistic: str) -> float:
    summaries = result.summaries if isinstance(result, Measured) else result.summaries()
    found: Summary | None = summaries[name]
    if found is None:
        raise RunError(f"the held-out traffic has no {name}")
    return float(getattr(found, statistic))


def _errors(
    asked: Deployment,
    samples: Sequence[Sample],
    settings: EngineSettings,
    server_s: float,
    held_out: Sequence[float],
) -> dict[str, float]:
    """Absolute errors as fractions: of the held-out figures, and of the probes."""
    probes = [
        abs(predicted_s(asked, sample, settings.max_step_tokens, server_s) / sample.seconds - 1)
        for sample in samples
    ]
    sizes = [abs(error) for error in held_out]
    return {
        "median_error": median(sizes),
        "largest_error": max(sizes),
        "probes_median_error": median(probes),
        "probes_largest_error": max(probes),
    }


def _doubts(rows: Sequence[Row]) -> list[str]:
    """Whether the fit is worth keeping."""
    before, after = (median(abs(row.errors[place]) for row in rows) for place in (0, 1))
    if after <= before + CHANCE:
        return []
    return [
        f"the fit errs more on unseen traffic ({after:.1%}) than what was shipped ({before:.1%}): the probes "
        "were disturbed, or the endpoint is not what --model, --on and --engine say; do not use it"
    ]


def _print(
    question: Question,
    answer: Mapping[str, Any],
    samples: Sequence[Sample],
    before: Deployment,
    after: Deployment,
    settings: EngineSettings,
    factors: Factors,
    rows: Sequence[Row],
) -> None:
    table = []
    for sample in samples:
        told = [
            predicted_s(asked, sample, settings.max_step_tokens, server_s)
            for asked, server_s in ((before, settings.server_s), (after, factors.server_s))
        ]
        what = f"{sample.batch} x {sample.tokens}" if sample.batch else f"prompt {sample.tokens}"
        table.append((what, *(f"{value * 1e3:,.2f}" for value in (sample.seconds, *told))))
    title = f"{question.model} on {question.hardware} ({question.engine}) at {question.url}, milliseconds"
    print_table(("probe", "measured", "predicted before", "after"), table, title=title)
    print(
        f"  times what was shipped: reading {factors.memory:.3g}, multiplying {factors.math:.3g}, what does "
        f"not depend on the load {factors.fixed:.3g}; the server {factors.server_s * 1e3:.1f} ms a request"
    )
    shown = []
    for row in rows:
        scale = 1e3 if "_s." in row.metric else 1.0
        values = (f"{value * scale:,.2f}" for value in (row.measured, row.before, row.after))
        shown.append((row.metric, *values, *(f"{error:+.1%}" for error in row.errors)))
    columns = ("held out", "measured", "before", "after", "error before", "error after")
    print_table(columns, shown, title=f"traffic not used for the fit: {answer['held_out_rate']:.3g} req/s")
    for warning in answer["warnings"]:
        print(f"note: {warning}")
