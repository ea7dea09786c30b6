"""membound compare: two runs side by side, with what chance alone could make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.commands.output import print_json, print_table
from membound.errors import InputError, RunError
from membound.measuring.gates import COMPARISONS, parse_gate
from membound.measuring.noise import Difference, differences
from membound.measuring.runs import Entry, Runs
from membound.measuring.summary import Measured


@dataclass(frozen=True)
class Side:
    """One or several runs that are taken together."""

    entries: Sequence[Entry]
    runs: Sequence[Measured]

    @property
    def title(self) -> str:
        return ", ".join(f"{entry.id} ({entry.name})" for entry in self.entries)

    @property
    def failed(self) -> float:
        requests = sum(len(run.records) for run in self.runs)
        return 1 - sum(len(run.succeeded) for run in self.runs) / requests


def compare_command(first: str, second: str, *, fail_if: Sequence[str], json: bool) -> None:
    gates = [parse_gate(text) for text in fail_if]
    ours, theirs = _side(first), _side(second)
    found = differences(ours.runs, theirs.runs)
    if not found:
        raise RunError("there is nothing to compare: a side has fewer than two requests that succeeded")
    if json:
        print_json(
            {
                "a": [entry.id for entry in ours.entries],
                "b": [entry.id for entry in theirs.entries],
                "differences": [
                    {
                        "metric": one.metric,
                        "a": one.first,
                        "b": one.second,
                        "difference": one.difference,
                        "ratio": one.second / one.first if one.first else None,
                        "interval": [one.low, one.high],
                        "exceeds_noise": one.exceeds_noise,
                    }
                    for one in found
                ],
                "failed_share": {"a": ours.failed, "b": theirs.failed},
            }
        )
    else:
        _print(ours, theirs, found)
    by_name = {one.metric: one for one in found}
    failures = []
    for gate in gates:
        name = ".".join(gate.path)
        one = by_name.get(name) or by_name.get(name.replace(".", "_s.", 1))
        if one is None:
            raise InputError(f"--fail-if: no figure {name}; there are {', '.join(by_name)}")
        ratio = one.second / one.first if one.first else float("inf")
        if one.exceeds_noise and COMPARISONS[gate.comparison](ratio, gate.limit):
            failures.append(f"{name} is {ratio:.3f} of what it was, beyond the noise")
    if failures:
        raise RunError("the comparison fails: " + "; ".join(failures))


def _side(names: str) -> Side:
    runs = Runs()
    entries = [runs.find(name.strip()) for name in names.split(",")]
    return Side(entries, [runs.load(entry.id) for entry in entries])


def _print(ours: Side, theirs: Side, found: Sequence[Difference]) -> None:
    rows = []
    for one in found:
        scale, form = (1e3, "{:,.2f} ms") if "_s." in one.metric else (1.0, "{:,.1f}")
        change = f"{one.difference / one.first:+.1%}" if one.first else "-"
        rows.append(
            (
                one.metric.replace("_s.", " "),
                form.format(one.first * scale),
                form.format(one.second * scale),
                change,
                f"{one.low * scale:+,.2f} … {one.high * scale:+,.2f}",
                "yes" if one.exceeds_noise else "no",
            )
        )
    columns = ("figure", "A", "B", "change", "95 % interval of the difference", "exceeds the noise")
    print_table(columns, rows, title=f"A: {ours.title}   B: {theirs.title}")
    if ours.failed or theirs.failed:
        print(f"  failed: {ours.failed:.1%} and {theirs.failed:.1%}; the figures are of those that succeeded")
    if len(ours.runs) == len(theirs.runs) == 1:
        print(
            "note: noise here is that within a run; what changes from run to run shows with several: "
            "membound compare 1,2,3 4,5,6"
        )
