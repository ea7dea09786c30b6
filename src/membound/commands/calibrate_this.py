"""membound calibrate this: the native engine's own steps fitted, then runs beside their simulations."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import median
from typing import Any

from membound.commands.output import print_json, print_table, status
from membound.costs.this_machine import parameters_file, remember, unmeasured
from membound.measuring.speed import SpeedTest
from membound.models.pull import resolve_model
from membound.scoreboard import this_machine as here
from membound.scoreboard import this_machine_run as trial

SHARES = (0.5, 0.8)  # of saturation
RUNS = 2  # at each, or one where that takes longer than LONG_S
LONG_S = 60.0
ROUNDS = 2  # of steps before the runs, and one before each
TRIES = 3  # of a run beside which other work was done
PROMPTS, BATCHES = (16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32)  # that are shown
OTHERS = 0.05  # share of the processor that other work may take of a run that counts


def calibrate_this(model: str, *, threads: int | None, json: bool) -> None:
    path = resolve_model(model)
    with status("calibrating", quiet=json) as say:
        asked, usual = here.this_deployment(path, threads), unmeasured()
        test = SpeedTest(
            path,
            threads=threads,
            rows=here.RUNNING,
            row_tokens=trial.PROMPT + trial.OUTPUT + 1,
            tokens=here.STEP_TOKENS + 2 * here.AFTER,
            engines=2,
        )
        here.time_steps(test)  # warms up
        say("steps of prompts and batches")
        rounds = [here.time_steps(test) for _ in range(ROUNDS)]
        first = here.fit_steps(asked, here.averaged(rounds), usual)
        here.refuse_implausible(asked, here.averaged(rounds), first, usual)
        most = trial.saturation(replace(asked, calibration=first.applied(asked.calibration)))
        served: dict[float, list[trial.Served]] = {}
        for number in range(RUNS):
            for share in SHARES:
                if any(run.felt.seconds > LONG_S for run in served.get(share, ())):
                    continue
                say(f"{trial.COUNT} requests at {share:.0%} of saturation, {number + 1} of {RUNS}")
                rounds.append(here.time_steps(test))
                served.setdefault(share, []).append(_run(test, share * most, number))
        samples = here.averaged(rounds)
        traffic = here.together([step for runs in served.values() for run in runs for step in run.beside])
        parameters = here.fit_steps(asked, [*samples, *traffic], usual)
        here.refuse_implausible(asked, samples, parameters, usual)
        before = replace(asked, calibration=usual.applied(asked.calibration))
        after = replace(asked, calibration=parameters.applied(asked.calibration))
        tests = [trial.compared(after, share, share * most, runs) for share, runs in served.items()]
    remember(parameters, model, parameters_file(threads), tests=[asdict(one) for one in tests])
    each = zip(samples, *(here.predicted_s(one, samples).tolist() for one in (before, after)), strict=True)
    steps = [
        {
            "steps": sample.steps,
            "measured_s": sample.seconds,
            "before_s": before_s,
            "after_s": after_s,
        }
        for sample, before_s, after_s in each
    ]
    answer: dict[str, Any] = {
        "model": model,
        "parameters": asdict(parameters),
        "before": {"median_error": here.median_error(before, samples)},
        "after": {"median_error": here.median_error(after, samples)},
        "steps": steps,
        "saturation_req_per_s": most,
        "tests": [
            {**asdict(one), "error": {k: one.predicted[k] / v - 1 for k, v in one.measured.items()}}
            for one in tests
        ],
    }
    if json:
        print_json(answer)
    else:
        _show(answer)


def _run(test: SpeedTest, rate: float, seed: int) -> trial.Served:
    """The one of a few tries beside which the least other work was done; one will do where that is little."""
    tries: list[trial.Served] = []
    while len(tries) < TRIES and not any(run.others <= OTHERS for run in tries):
        tries.append(trial.served(test, rate, seed))
    return min(tries, key=lambda one: one.others)


def _named(steps: tuple[here.Chunks, ...]) -> str | None:
    """Of a sample that is shown: a prompt alone, or one step of sequences that decode."""
    first, *others = steps
    if len(first) == 1 and first[0][0] in PROMPTS:
        return f"prompt of {first[0][0]}" + (f" and {len(others)} steps after" if others else "")
    if len(first) in BATCHES and not others and all(new == 1 for new, _ in first):
        return f"{len(first)} sequences"
    return None


def _show(answer: dict[str, Any]) -> None:
    shown: dict[str, list[dict[str, Any]]] = {}
    for step in answer["steps"]:
        if (name := _named(step["steps"])) is not None:
            shown.setdefault(name, []).append(step)
    rows = [
        (
            name,
            *(f"{median(s[key] for s in same) * 1e3:.2f}" for key in ("measured_s", "before_s", "after_s")),
        )
        for name, same in shown.items()
    ]
    print_table(("milliseconds, median", "measured", "before", "after"), rows, title=answer["model"])
    units = {"tpot_s": 1e3, "ttft_p50_s": 1e3, "throughput": 1.0}
    names = {"tpot_s": "TPOT, ms", "ttft_p50_s": "TTFT p50, ms", "throughput": "output token/s"}
    rows = [
        (
            f"{test['rate']:.2f} req/s, {test['share']:.0%} of saturation: {names[key]}",
            f"{test['measured'][key] * unit:.1f}",
            f"{test['predicted'][key] * unit:.1f}",
            f"{test['error'][key]:+.1%}",
        )
        for test in answer["tests"]
        for key, unit in units.items()
    ]
    print_table((f"runs of {trial.COUNT} Poisson requests", "measured", "simulated", "error"), rows)
    for test in answer["tests"]:
        print(f"the steps that ran at {test['share']:.0%}, predicted one by one: {test['priced']:+.1%}")
        print(f"  beside them the machine's pace varied by {test['unsteady']:.0%}")
        if test["others"] > OTHERS:
            print(
                f"note: other work took {test['others']:.0%} of the processor in the run at"
                f" {test['share']:.0%} of saturation: compare again when the machine is quiet"
            )
