"""membound simulate: a workload served in virtual time, by a model on described hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membound.commands.output import print_json, print_table, status
from membound.costs.deployment import Deployment, deployment
from membound.costs.endpoint_fit import read_factors
from membound.errors import InputError
from membound.simulation.bars import Bars, bars
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.limits import bound, time_shares, told
from membound.simulation.result import SimulationResult
from membound.simulation.simulate import DoesNotFitError, Group, simulate
from membound.simulation.speculation import Speculation, prediction_head
from membound.simulation.timeline import timeline
from membound.workloads import traces
from membound.workloads.arrivals import Workload
from membound.workloads.goodput import ENOUGH
from membound.workloads.offered import Offered
from membound.workloads.slo import Slo

if TYPE_CHECKING:
    from membound.reports.simulation import Picture

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")


@dataclass(frozen=True)
class Question:
    """What is asked: the options of the command, but for the workload's."""

    model: str
    hardware: str
    tp: int | None = None
    pp: int = 1
    ep: int = 1
    dp: int = 1
    weights: str | None = None
    kv: str | None = None
    activations: str | None = None
    engine: str = "vllm"
    skew: float | None = None
    ideal: bool = False
    max_num_seqs: int | None = None
    max_batched_tokens: int | None = None
    memory_fraction: float | None = None
    kv_tokens: int | None = None
    prefix_caching: bool = True
    replicas: int = 1
    routing: str = "round-robin"
    prefill_replicas: int = 0
    prefill_on: str | None = None
    prefill_tp: int | None = None
    transfer_gbs: float | None = None
    speculate: int = 0
    acceptance: str = "0.7"
    draft: str = "ngram"
    slo: Slo = field(default_factory=Slo)
    calibration: Path | None = None  # of an endpoint, as `membound calibrate URL --write` has it


@dataclass(frozen=True)
class Answer:
    """A run, and what is said about it."""

    question: Question
    settings: EngineSettings
    result: SimulationResult
    shares: Mapping[str, float]
    bars: Bars


def answer(question: Question, workload: Workload, *, ends: bool = True) -> Answer:
    """Simulates, with `ends` twice more at the ends of the interval of a step's time; DoesNotFitError where
    there is no room, InputError for what cannot be.
    """
    names = [name.strip() for name in question.hardware.split(",")]
    first, *beside = [_group(question, name, question.tp, question.replicas) for name in names]
    prefill = None
    if question.prefill_replicas:
        name = question.prefill_on or names[0]
        tp = question.prefill_tp or (question.tp if name == names[0] else None)
        prefill = _group(question, name, tp, question.prefill_replicas)
    elif question.prefill_on or question.prefill_tp or question.transfer_gbs:
        raise InputError("--prefill-replicas says how many engines compute prompts only: give it")
    run = partial(
        simulate,
        first.deployment,
        workload,
        settings=first.settings,
        slo=question.slo,
        replicas=question.replicas,
        routing=question.routing,
        kv_tokens=question.kv_tokens,
        beside=beside,
        prefill=prefill,
        transfer_bytes_per_s=None if question.transfer_gbs is None else question.transfer_gbs * 1e9,
        speculation=_speculation(question, first.deployment),
    )
    result = run()
    again = (lambda pace: run(pace=pace)) if ends else None
    return Answer(
        question, first.settings, result, time_shares(result.watched), bars(result, first.deployment, again)
    )


def _speculation(question: Question, target: Deployment) -> Speculation | None:
    """The drafts of the options: of a draft model, of a prediction head, or looked up (n-gram)."""
    if not question.speculate:
        plain = Question(question.model, question.hardware)
        if (question.acceptance, question.draft) != (plain.acceptance, plain.draft):
            raise InputError("--speculate says how many tokens are guessed ahead: give it")
        return None
    try:
        chances = tuple(float(part) for part in question.acceptance.split(","))
    except ValueError:
        chances = ()
    drafter = None
    if question.draft == "mtp":
        drafter = prediction_head(target)
    elif question.draft != "ngram":
        drafter = deployment(
            question.draft, target.cluster.name, tp=target.layout.tensor, engine="none", ideal=question.ideal
        )
    return Speculation(question.speculate, chances, drafter)


def _group(question: Question, hardware: str, tp: int | None, replicas: int) -> Group:
    asked = deployment(
        question.model,
        hardware,
        tp=tp,
        pp=question.pp,
        ep=question.ep,
        dp=question.dp,
        weights=question.weights,
        kv=question.kv,
        activations=question.activations,
        engine=question.engine,
        skew=question.skew,
        ideal=question.ideal,
    )
    settings = engine_settings(
        question.engine,
        asked.cluster.accelerator,
        max_step_tokens=question.max_batched_tokens,
        max_running=question.max_num_seqs,
        memory_fraction=question.memory_fraction,
        prefix_reuse=question.prefix_caching,
    )
    if question.calibration is not None:
        factors = read_factors(question.calibration)
        asked = replace(asked, calibration=factors.applied(asked.calibration))
        settings = replace(settings, server_s=factors.server_s)
    return Group(asked, settings, replicas)


def offered_workload(offered: Offered, rate: float | None) -> Workload:
    """The workload of the options; a trace may be asked to come at a `rate` of its own."""
    if offered.trace is not None and rate is not None:
        if offered.rate_scale != 1:
            raise InputError("give --rate or --rate-scale, not both")
        offered = replace(offered, rate_scale=rate / traces.mean_rate(offered.trace))
    return offered.workload()


def simulate_command(
    question: Question,
    offered: Offered,
    rate: float | None,
    *,
    explain: bool,
    png: Path | None,
    html: Path | None,
    csv: Path | None,
    json: bool,
) -> None:
    workload = offered_workload(offered, rate)
    try:
        with status("simulating", quiet=json):
            found = answer(question, workload)
            without = _without(question, workload, found) if explain else None
    except DoesNotFitError as error:
        if json:
            print_json({"fits": False, "why": str(error)})
        else:
            print(error)
        return
    if png is not None or html is not None:
        from membound.reports.simulation import write_html, write_png

        drawn = picture(found)
        if png is not None:
            _written("--png", png, partial(write_png, drawn))
        if html is not None:
            _written("--html", html, partial(write_html, drawn))
    if csv is not None:
        _written("--csv", csv, partial(_write_csv, found.result))
    if json:
        print_json({**as_json(found), **({} if without is None else {"explained": without})})
    else:
        _print(found, without)


def _written(option: str, path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror or error})") from None


SWITCHES = (
    "weights", "kv", "activations", "engine", "skew", "max_num_seqs", "max_batched_tokens",
    "memory_fraction", "kv_tokens", "prefix_caching", "replicas", "routing", "ep", "prefill_replicas",
    "speculate",
)  # fmt: skip


def _without(question: Question, workload: Workload, found: Answer) -> list[dict[str, Any]]:
    """For each switch that was set: the same run without it, and what it changed."""
    plain = Question(question.model, question.hardware)
    asked = [name for name in SWITCHES if getattr(question, name) != getattr(plain, name)]
    if question.prefix_caching and found.result.hit_tokens:
        asked.append("prefix_caching")
    explained = []
    for name in asked:
        value = getattr(question, name)
        default = not value if isinstance(value, bool) else getattr(plain, name)
        entry: dict[str, Any] = {"switch": name.replace("_", "-"), "with": value, "without": default}
        change: dict[str, Any] = {name: default}
        if name == "prefill_replicas":  # the same engines, all doing both
            change |= {"prefill_on": None, "prefill_tp": None, "transfer_gbs": None}
            change["replicas"] = question.replicas + question.prefill_replicas
        elif name == "speculate":
            change |= {"acceptance": "0.7", "draft": "ngram"}
        try:
            other = answer(replace(question, **change), workload, ends=False).result
        except InputError as error:
            explained.append({**entry, "fits": False, "why": str(error)})
            continue
        explained.append({**entry, "change": _changes(other, found.result)})
    return explained


def _changes(before: SimulationResult, after: SimulationResult) -> dict[str, list[float | None]]:
    """Without and with, side by side."""

    def both(name: str, of: str) -> list[float | None]:
        pair = (one.summaries()[name] for one in (before, after))
        return [None if summary is None else float(getattr(summary, of)) for summary in pair]

    return {
        "ttft_p50_s": both("ttft_s", "p50"),
        "ttft_p99_s": both("ttft_s", "p99"),
        "tpot_mean_s": both("tpot_s", "mean"),
        "output_tok_per_s": [before.output_tok_per_s, after.output_tok_per_s],
        "goodput_req_per_s": [before.goodput_req_per_s, after.goodput_req_per_s],
        "running": [before.running, after.running],
    }


def as_json(found: Answer) -> dict[str, Any]:
    """The stable keys, and those beside."""
    result, question = found.result, found.question
    latencies = {
        name: None if one is None else {"mean": one.mean, "p50": one.p50, "p90": one.p90, "p99": one.p99}
        for name, one in result.summaries().items()
    }
    return {
        "model": question.model,
        "hardware": question.hardware,
        "engine": question.engine,
        "fits": True,
        "requests": result.requests,
        "completed": result.completed,
        "rejected": result.rejected,
        **latencies,
        "output_tok_per_s": result.output_tok_per_s,
        "total_tok_per_s": result.total_tok_per_s,
        "req_per_s": result.req_per_s,
        "slo": {"ttft_s": _finite(question.slo.ttft_s), "tpot_s": _finite(question.slo.tpot_s),
                "e2e_s": _finite(question.slo.e2e_s)},
        "slo_attainment": result.slo_attainment,
        "goodput_req_per_s": result.goodput_req_per_s,
        "accelerators": result.accelerators,
        "preemptions": result.preemptions,
        "prefix_hit_rate": result.prefix_hit_rate,
        "kv_occupancy": {"mean": result.kv_occupancy, "peak": result.kv_occupancy_peak},
        "bound": bound(result, found.shares),
        "limits": {"busy": result.busy_share, "steps": found.shares, "waiting": result.held_share},
        "steps": result.steps,
        "mean_batch": result.mean_batch,
        "settings": {
            "max_batched_tokens": found.settings.max_step_tokens,
            "max_num_seqs": result.max_running,
            "memory_fraction": found.settings.memory_fraction,
            "kv_tokens": result.kv_tokens,
        },
        "simulated_s": result.simulated_s,
        "wall_s": result.wall_s,
        "interval": found.bars.as_json(),
    }  # fmt: skip


def _finite(limit: float) -> float | None:
    return limit if limit < float("inf") else None


def picture(found: Answer) -> Picture:
    """What the HTML report and the PNG show."""
    from membound.reports.simulation import Picture

    result, slo = found.result, found.question.slo
    points = timeline(result.watches, result.began_s + result.simulated_s)
    tpot = result.tpot_s
    limits = {"TTFT": slo.ttft_s, "TPOT": slo.tpot_s, "end to end": slo.e2e_s}
    return Picture(
        title=_title(found),
        time_s=[point.time_s for point in points],
        running=[point.running for point in points],
        waiting=[point.waiting for point in points],
        used_share=[point.used_share for point in points],
        distributions={
            "TTFT": result.ttft_s.tolist(),
            "TPOT": tpot[tpot == tpot].tolist(),
            "end to end": result.e2e_s.tolist(),
        },
        limits={name: limit for name, limit in limits.items() if limit < float("inf")},
        lines=[*_sums(found), *told(result, found.shares), _bound(found), *found.bars.notes],
        rows=[("latency", "mean", "p50", "p90", "p99", "90 % interval of the mean"), *_rows(found)],
    )


def _title(found: Answer) -> str:
    question = found.question
    copies = f", {question.replicas} replicas" if question.replicas > 1 else ""
    if question.prefill_replicas:
        copies += f", {question.prefill_replicas} for prompts"
    return f"{question.model} on {question.hardware}{copies}, predicted for {question.engine}"


def _rows(found: Answer) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, one in found.result.summaries().items():
        if one is not None:
            known = found.bars.around.get(name)
            around = f"{_time(known[0])} to {_time(known[1])}" if known else ""
            rows.append(
                (NAMES[name], _time(one.mean), _time(one.p50), _time(one.p90), _time(one.p99), around)
            )
    return rows


NAMES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "end to end",
    "queue_s": "of it queueing",
}


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _sums(found: Answer) -> list[str]:
    result, slo = found.result, found.question.slo
    around = found.bars.around
    lines = [
        f"{result.completed:,} of {result.requests:,} requests completed in {result.simulated_s:,.1f} s:"
        f" {result.req_per_s:.2f} requests/s,"
        f" {result.output_tok_per_s:,.0f}{_range(around, 'output_tok_per_s', ',.0f')} output tokens/s",
        f"KV cache of {result.kv_tokens:,} tokens:"
        f" {result.kv_occupancy:.0%}{_range(around, 'kv_occupancy', '.0%')} in use in the mean,"
        f" {result.kv_occupancy_peak:.0%} at most;"
        f" {result.prefix_hit_rate:.0%}{_range(around, 'prefix_hit_rate', '.0%')} of prompt tokens found in"
        f" it; {result.preemptions:,}{_range(around, 'preemptions', ',.0f')} preemptions",
    ]
    if str(slo):
        chance = found.bars.attainment
        lines.append(
            f"SLO {slo}: held by {result.slo_attainment:.1%} ({chance[0]:.0%} to {chance[1]:.0%}) of"
            f" requests, by {ENOUGH:.0%} with a probability of {found.bars.holds:.0%};"
            f" goodput {result.goodput_req_per_s:.2f}{_range(around, 'goodput_req_per_s', '.2f')} requests/s,"
            f" {result.goodput_req_per_s / result.accelerators:.3f} per accelerator"
        )
    return lines


def _range(around: Mapping[str, tuple[float, float]], name: str, form: str) -> str:
    """The interval in brackets, if there is any width to it."""
    low, high = (format(end, form) for end in around.get(name, (0.0, 0.0)))
    return f" ({low} to {high})" if low != high else ""


def _bound(found: Answer) -> str:
    """What bounded the run, and what would at the ends of the interval, where that differs."""
    here = bound(found.result, found.shares)
    others = [
        f"{what} if steps are as {how} as may be"
        for what, how in zip(found.bars.bounds, ("quick", "slow"), strict=False)
        if what != here
    ]
    return f"bound by: {'; '.join([here, *others])}"


def _print(found: Answer, explained: list[dict[str, Any]] | None) -> None:
    print(_title(found))
    for line in _sums(found):
        print(f"  {line}")
    print_table(("latency", "mean", "p50", "p90", "p99", "90 % interval of the mean"), _rows(found))
    for line in told(found.result, found.shares):
        print(f"  {line}")
    print(f"  {_bound(found)}")
    for entry in explained or ():
        _print_switch(entry)
    if explained == []:
        print("  nothing to explain: all switches are as they are without options")
    for note in found.bars.notes:
        print(f"note: {note}")
    wall = found.result.wall_s
    print(f"  simulated in {wall:.2f} s, {found.result.requests / max(wall, 1e-9):,.0f} requests/s")


def _print_switch(entry: Mapping[str, Any]) -> None:
    what = f"{entry['switch']}: {entry['with']} instead of {entry['without'] or 'the default'}"
    if "change" not in entry:
        print(f"  {what}: without it, {entry['why']}")
        return
    parts = []
    for name, (before, after) in entry["change"].items():
        if before is not None and after is not None:
            title, unit = CHANGES[name]
            ratio = f" ({after / before - 1:+.0%})" if before else ""
            parts.append(f"{title} {unit(before)} → {unit(after)}{ratio}")
    print(f"  {what}:")
    print(f"    {', '.join(parts)}")


def _plain(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


CHANGES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "ttft_p50_s": ("TTFT p50", _time),
    "ttft_p99_s": ("p99", _time),
    "tpot_mean_s": ("TPOT", _time),
    "output_tok_per_s": ("output tokens/s", _plain),
    "goodput_req_per_s": ("goodput", _plain),
    "running": ("requests running", _plain),
}


def _write_csv(result: SimulationResult, path: Path) -> None:
    """A row for each completed request, in order of sending."""
    import csv

    order = result.sent_s.argsort(kind="stable")
    columns = {
        "sent_s": result.sent_s,
        "queue_s": result.queue_s,
        "ttft_s": result.ttft_s,
        "tpot_s": result.tpot_s,
        "e2e_s": result.e2e_s,
        "prompt_tokens": result.log.column("prompt").astype(int),
        "output_tokens": result.output_tokens.astype(int),
        "good": result.good.astype(int),
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for place in order:
            writer.writerow("" if v[place] != v[place] else v[place] for v in columns.values())
