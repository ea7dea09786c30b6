"""membound runs: the runs that are kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from membound.commands.output import print_json, print_table
from membound.measuring.runs import Entry, Runs


def runs_command(*, last: int | None, remove: int | None, json: bool) -> None:
    runs = Runs()
    if remove is not None:
        runs.remove(remove)
    entries = runs.entries(last)
    if json:
        print_json({"runs": [entry_json(entry) for entry in entries], "path": str(runs.path)})
        return
    if not entries:
        print(f"no runs yet in {runs.path}: `membound bench URL --rate 1` makes one")
        return
    rows = [
        (
            str(entry.id),
            entry.name,
            f"{datetime.fromtimestamp(entry.at):%Y-%m-%d %H:%M}",
            entry.url,
            f"{entry.summary['requests']}",
            _median_ms(entry, "ttft_s"),
            _median_ms(entry, "tpot_s"),
            f"{entry.summary['output_tok_per_s']:,.1f}",
            f"{entry.summary['errors']}",
        )
        for entry in entries
    ]
    columns = ("run", "name", "when", "url", "requests", "TTFT p50 ms", "TPOT p50 ms", "tokens/s", "failed")
    print_table(columns, rows)


def entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "at": entry.at,
        "url": entry.url,
        "options": entry.options,
        "summary": entry.summary,
    }


def _median_ms(entry: Entry, name: str) -> str:
    found = entry.summary[name]
    return f"{found['p50'] * 1e3:,.1f}" if found else "-"
