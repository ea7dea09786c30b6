"""Recorded traffic: Azure's CSV, Mooncake's JSONL, and plain files of arrival, input and output.

Files are read as they are sent, so that a million requests need no memory. Packaged traces have names.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from typing import TextIO

from membound.errors import InputError
from membound.workloads import CATALOG
from membound.workloads.arrivals import BLOCK_TOKENS, Arrival, Open

NAMED = {
    "azure-conv": CATALOG / "azure-2023-conv.csv.xz",
    "azure-code": CATALOG / "azure-2023-code.csv.xz",
    "mooncake": CATALOG / "mooncake-synthetic.jsonl.xz",
}
MOONCAKE_TOKENS = 512  # that one of Mooncake's hash ids stands for


def trace(name: str, *, jitter_s: float = 0.0, seed: int = 0) -> Open:
    """A packaged trace by name, or a file whose first line tells its kind.

    `jitter_s` spreads arrivals evenly over the bins of so many seconds into which a trace rounded them.
    """
    path = NAMED.get(name) or Path(name)
    with _opened(path) as file:
        first = file.readline()
    kind = _kind(path, first)
    key_tokens = MOONCAKE_TOKENS if kind is _mooncake else BLOCK_TOKENS
    return Open(partial(_read, path, kind, jitter_s, seed), key_tokens)


def mean_rate(name: str) -> float:
    """Requests per second of a trace, the mean between its first and last."""
    first = last = None
    count = -1
    for arrival in trace(name).begin():
        first = arrival.time_s if first is None else first
        last = arrival.time_s
        count += 1
    if first is None or last is None or not last > first:
        raise InputError(f"{name}: a rate needs requests at more than one time")
    return count / (last - first)


Kind = Callable[[TextIO], Iterator[Arrival]]


def _kind(path: Path, first: str) -> Kind:
    if first.startswith("{"):
        known = json.loads(first)
        return _mooncake if "input_length" in known else _plain_jsonl
    columns = {column.strip().lower() for column in first.split(",")}
    if "contexttokens" in columns:
        return _azure
    if {"arrival", "input", "output"} <= columns:
        return _plain_csv
    raise InputError(
        f"{path}: not a trace: give Azure's CSV, Mooncake's JSONL, or columns arrival,input,output[,prefix"
        "[,prefix_tokens]]"
    )


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with (
            io.TextIOWrapper(lzma.open(path), encoding="utf-8")
            if path.suffix == ".xz"
            else path.open(encoding="utf-8", newline="")
        ) as file:
            yield file
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); packaged traces are {', '.join(NAMED)}"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None


def _read(path: Path, kind: Kind, jitter_s: float, seed: int) -> Iterator[Arrival]:
    with _opened(path) as file:
        last = 0.0
        arrivals = kind(file)
        if jitter_s:
            arrivals = _jittered(arrivals, jitter_s, Random(f"jitter {seed}"))
        number = 1
        try:
            for arrival in arrivals:
                number += 1
                if arrival.time_s < last:
                    raise InputError(f"{path}: about line {number}: arrivals must be in order of time")
                last = arrival.time_s
                if arrival.prompt_tokens > 0 and arrival.output_tokens > 0:  # a few recorded requests failed
                    yield arrival
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: about line {number + 1}: {error!r}") from None


def _azure(file: TextIO) -> Iterator[Arrival]:
    """TIMESTAMP,ContextTokens,GeneratedTokens; the time has seven digits after the point."""
    minute, seconds, first, begin = "", 0, 0, 0.0
    for line in file:
        if line[:17] != minute:
            if line[:1] not in "12":
                continue  # the header, an empty line
            known, minute = minute, line[:17]  # 2023-11-16 18:15:
            days = date.fromisoformat(minute[:10]).toordinal()
            if not known:
                first = days
            seconds = 86_400 * (days - first) + 3600 * int(minute[11:13]) + 60 * int(minute[14:16])
            if not known:
                begin = seconds + float(line[17:].partition(",")[0])
        moment, prompt, output = line[17:].split(",")
        yield Arrival(seconds + float(moment) - begin, int(prompt), int(output))


def _mooncake(file: TextIO) -> Iterator[Arrival]:
    """timestamp (ms), input_length, output_length, hash_ids: one per 512 tokens; equal ids, equal prefix.

    The last id may stand for fewer tokens; it is a key only where its run is full.
    """
    for line in file:
        row = json.loads(line)
        full = row["input_length"] // MOONCAKE_TOKENS
        yield Arrival(
            row["timestamp"] / 1e3, row["input_length"], row["output_length"], tuple(row["hash_ids"][:full])
        )


def _plain_csv(file: TextIO) -> Iterator[Arrival]:
    for row in csv.DictReader(file):
        yield _plain({key.strip().lower(): value for key, value in row.items()})


def _plain_jsonl(file: TextIO) -> Iterator[Arrival]:
    for line in file:
        if line.strip():
            yield _plain(json.loads(line))


def _plain(row: Mapping[str, str | float | None]) -> Arrival:
    """arrival (seconds), input, output; requests of one `prefix` share their first `prefix_tokens` tokens, or
    all that both have where that is not given.
    """
    prompt = int(row["input"] or 0)
    prefix = row.get("prefix")
    keys: Sequence[Hashable] = ()
    if prefix not in (None, ""):
        tokens = min(prompt, int(row.get("prefix_tokens") or prompt))
        keys = tuple((prefix, block) for block in range(tokens // BLOCK_TOKENS))
    return Arrival(float(row["arrival"] or 0), prompt, int(row["output"] or 0), keys)


def _jittered(arrivals: Iterable[Arrival], bin_s: float, random: Random) -> Iterator[Arrival]:
    """Arrivals of one bin, spread over it anew."""
    gathered: list[Arrival] = []
    for arrival in arrivals:
        if gathered and arrival.time_s // bin_s != gathered[0].time_s // bin_s:
            yield from _spread(gathered, bin_s, random)
            gathered = []
        gathered.append(arrival)
    yield from _spread(gathered, bin_s, random)


def _spread(gathered: list[Arrival], bin_s: float, random: Random) -> Iterator[Arrival]:
    if gathered:
        begin = gathered[0].time_s // bin_s * bin_s
        times = sorted(begin + random.random() * bin_s for _ in gathered)
        for arrival, time_s in zip(gathered, times, strict=True):
            yield arrival._replace(time_s=time_s)
