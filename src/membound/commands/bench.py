"""membound bench: load an OpenAI-compatible endpoint, and say what its users would feel."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from membound.commands.bench_point import Point, label, point_json, write_csv
from membound.commands.bench_print import print_found, print_points, print_warnings
from membound.commands.output import print_json, status
from membound.commands.predict import Target, predict
from membound.errors import InputError, RunError
from membound.measuring import fine_loop
from membound.measuring.clients import Job, Progress, Run, run_job
from membound.measuring.gates import Gate, parse_gate
from membound.measuring.http import Pool, endpoint
from membound.measuring.overhead import Overhead
from membound.measuring.prepare import Prepared, prepare
from membound.measuring.prompts_file import read_prompts
from membound.measuring.record import Record
from membound.measuring.runs import Runs
from membound.measuring.sender import Asking
from membound.measuring.summary import Measured
from membound.workloads.goodput import RateSearch
from membound.workloads.offered import DEFAULT_REQUESTS, Offered
from membound.workloads.slo import Slo

PROCESS_REQUESTS_PER_S, PROCESS_TOKENS_PER_S = 1_500, 30_000  # that one client process sends without effort


@dataclass(frozen=True)
class Question:
    """What is asked: the options of the command. `loads` are the points of a sweep, mostly one."""

    url: str
    loads: Sequence[Offered]
    asking: Asking
    slo: Slo = field(default_factory=Slo)
    name: str = ""
    api_key: str | None = None
    headers: Sequence[str] = ()
    tokenizer: str | None = None
    prompts: Path | None = None
    duration_s: float | None = None
    warm_up_s: float = 0.0
    cool_down_s: float = 0.0
    clients: int | None = None
    find_goodput: bool = False
    precision: float = 0.05
    fail_if: Sequence[str] = ()
    target: Target | None = None
    keep: bool = True
    text_seed: str | None = None


def bench_command(question: Question, *, html: Path | None, csv_path: Path | None, json: bool) -> None:
    gates = [parse_gate(text) for text in question.fail_if]
    _check(question)
    _check_gates(gates, question)
    with status("asking the endpoint", quiet=json) as say:
        bench = Bench(question, say)
        points = bench.search() if question.find_goodput else bench.sweep()
    best = _best(points)
    if csv_path is not None:
        write_csv(points, csv_path)
    if html is not None:
        from membound.commands.bench_picture import bench_picture
        from membound.reports.bench import write_html

        try:
            write_html(bench_picture(question.url, question.slo, bench.prepared, points), html)
        except OSError as error:
            raise InputError(f"--html {html}: cannot be written ({error.strerror})") from None
    answer = as_json(question, bench.prepared, points, best)
    if json:
        print_json(answer)
    else:
        print_points(question.url, question.slo, bench.prepared, points)
        if question.find_goodput:
            print_found(question.slo, best)
        print_warnings(points)
    if not any(point.measured.succeeded for point in points):
        raise RunError("no request succeeded")
    judged = [best] if question.find_goodput and best is not None else points
    _judge(gates, judged)


class Bench:
    """An endpoint that was asked what it serves, ready to be loaded."""

    def __init__(self, question: Question, say: Any) -> None:
        self.question = question
        self.say = say
        self.where = endpoint(question.url)
        self.headers = _headers(question)
        self.prepared = fine_loop.run(self._prepare())
        self.runs = Runs()

    async def _prepare(self) -> Prepared:
        question = self.question
        pool = Pool(self.where, self.headers)
        try:
            return await prepare(
                pool,
                question.asking,
                tokenizer=question.tokenizer,
                prompts=read_prompts(question.prompts) if question.prompts else (),
                output_tokens=question.loads[0].output,
            )
        finally:
            pool.close()

    def measure(self, offered: Offered) -> Point:
        """One load, kept in the database."""
        question = self.question
        offered = replace(offered, sizes=self.prepared.sizes)
        job = Job(
            self.where,
            self.prepared.asking,
            offered.workload,
            self.prepared.prompts,
            question.text_seed or secrets.token_hex(8),
            self.headers,
            question.tokenizer,
            question.duration_s,
        )
        what = label(offered)

        def show(now: Progress) -> None:
            self.say(
                f"{what}, {now.elapsed_s:.0f} s: {now.sent} sent, {now.in_flight} under way, {now.ended} "
                f"ended, {now.failed} failed, {now.output_tokens / max(0.1, now.elapsed_s):,.0f} tokens/s"
            )

        run = run_job(job, question.clients or _clients(offered), show)
        measured = Measured(run, question.slo, question.warm_up_s, question.cool_down_s)
        if not measured.records:
            raise RunError(
                "no request was sent within the window: give more --requests, or a shorter warm-up"
            )
        number = None
        if question.keep:
            options = {**asdict(offered), "sizes": [], "asking": asdict(self.prepared.asking)}
            number = self.runs.add(measured, name=question.name or what, url=self.where.url, options=options)
        prediction = None
        if question.target is not None:
            self.say(f"{what}: predicting")
            prediction = predict(question.target, offered, measured, question.slo)
        return Point(offered, measured, number, prediction)

    def sweep(self) -> list[Point]:
        """The loads that were asked for; an interrupt ends it with what there is."""
        points: list[Point] = []
        for load in self.question.loads:
            points.append(self.measure(load))
            if points[-1].measured.run.interrupted:
                break
        return points

    def search(self) -> list[Point]:
        """Loads at the rates that bisection suggests, in its order, all as long as the first."""
        (first,) = self.question.loads
        assert first.rate is not None
        seconds = (first.requests or DEFAULT_REQUESTS) / first.rate
        search = RateSearch(first.rate, precision=self.question.precision)
        points = []
        while (rate := search.next()) is not None:
            point = self.measure(replace(first, rate=rate, requests=max(1, round(rate * seconds))))
            search.tell(rate, point.measured.slo_attainment)
            points.append(point)
            if point.measured.run.interrupted:
                break
        return points


def _check(question: Question) -> None:
    if question.find_goodput:
        if len(question.loads) != 1 or question.loads[0].rate is None:
            raise InputError("--find-goodput begins at one --rate")
        if question.slo == Slo():
            raise InputError("--find-goodput needs an --slo to hold, such as ttft=1,tpot=0.05")
        if not 0 < question.precision < 1:
            raise InputError(f"--precision must be a fraction such as 0.05, it is {question.precision}")
    if min(question.warm_up_s, question.cool_down_s) < 0:
        raise InputError("--warm-up and --cool-down take 0 seconds or more")
    if question.clients is not None and question.clients < 1:
        raise InputError(f"--clients must be at least 1, it is {question.clients}")
    if question.duration_s is not None and question.duration_s <= 0:
        raise InputError(f"--duration must be above 0 seconds, it is {question.duration_s:g}")


def _headers(question: Question) -> dict[str, str]:
    headers = {"Accept": "text/event-stream, application/json", "User-Agent": "membound-bench"}
    if question.api_key:
        headers["Authorization"] = f"Bearer {question.api_key}"
    for header in question.headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or any(c in header for c in "\r\n"):
            raise InputError(f"--header {header}: give it as 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


def _clients(offered: Offered) -> int:
    """As many processes as the load needs, at most one for each core."""
    rate = max(offered.rate or 0.0, *(offered.ramp or (0.0,))[:2]) * offered.rate_scale
    wanted = max(rate / PROCESS_REQUESTS_PER_S, rate * offered.output / PROCESS_TOKENS_PER_S)
    return max(1, min(_cores(), ceil(wanted)))


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _best(points: Sequence[Point]) -> Point | None:
    """The highest rate that held the SLO for enough of the requests, else None."""
    held = [p for p in points if p.offered.rate is not None and p.measured.slo_attainment >= 0.9]
    return max(held, key=lambda point: point.offered.rate or 0.0, default=None)


def as_json(
    question: Question, prepared: Prepared, points: Sequence[Point], best: Point | None
) -> dict[str, Any]:
    """One load: its figures. Several: `points` of them, and those of the best rate that held the SLO."""
    about = {
        "url": question.url,
        "model": prepared.asking.model,
        "slo": str(question.slo),
        "prompt_tokens_counted_by": prepared.counted_by,
    }
    if len(points) == 1 and not question.find_goodput:
        return {**about, **point_json(points[0])}
    rate = best.offered.rate if best is not None else None
    found: dict[str, Any] = {**about, "points": [point_json(point) for point in points]}
    if question.find_goodput:
        return {**about, **(point_json(best) if best else {}), "max_rate_req_per_s": rate, **found}
    return found


def _check_gates(gates: Sequence[Gate], question: Question) -> None:
    """InputError for a figure that there will not be: better told before the load than after it."""
    record = Record(0, 0.0, 0.0, 1.0, 1, 2, (0.5, 1.0), output_tokens=2)
    sample = point_json(Point(question.loads[0], Measured(Run([record], [Overhead(0.0, 0.0, 0.0)], 1.0)), 0))
    for gate in gates:
        if gate.path[0] != "predicted" or question.target is None:
            gate.failure(sample)


def _judge(gates: Sequence[Gate], points: Sequence[Point]) -> None:
    """RunError, so that the command's exit status stops a build."""
    failures = []
    for point in points:
        answer = point_json(point) if gates else {}
        for gate in gates:
            if (failure := gate.failure(answer)) is not None:
                failures.append(f"{point.label}: {failure}" if len(points) > 1 else failure)
    if gates and not points:
        failures.append("no rate held the SLO")
    if failures:
        raise RunError("the run fails: " + "; ".join(failures))
