"""Runs, kept in an embedded database in the user's data folder, with every request and its events."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from membound.errors import InputError, RunError
from membound.measuring.clients import Run
from membound.measuring.overhead import Overhead
from membound.measuring.record import Record
from membound.measuring.summary import Measured
from membound.workloads.slo import Slo, parse_slo

SCHEMA = """
create table if not exists runs (
    id integer primary key,
    name text not null,
    at real not null,        -- seconds since 1970
    url text not null,
    options text not null,   -- JSON
    summary text not null,   -- JSON, as the command printed it
    slo text not null,
    warm_up_s real not null,
    cool_down_s real not null,
    wall_s real not null,
    interrupted integer not null,
    clients text not null    -- JSON: each client's own overhead
);
create table if not exists requests (
    run integer not null references runs(id),
    events blob not null,    -- float64, seconds since the run began
    {columns},
    primary key (run, number)
) without rowid;
"""
COLUMNS = [field.name for field in fields(Record) if field.name != "events_s"]


@dataclass(frozen=True)
class Entry:
    """A stored run without its requests."""

    id: int
    name: str
    at: float
    url: str
    options: Mapping[str, Any]
    summary: Mapping[str, Any]


def default_path() -> Path:
    """`$MEMBOUND_DATA`, or the user's data folder by the XDG convention."""
    told = os.environ.get("MEMBOUND_DATA")
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return (Path(told) if told else home / "membound") / "runs.db"


class Runs:
    """The database; the file is made with the first run."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=30)
            try:
                with database:
                    database.executescript(SCHEMA.format(columns=", ".join(COLUMNS)))
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"{self.path}: the runs cannot be kept there ({error}); set MEMBOUND_DATA"
            ) from None

    def add(self, measured: Measured, *, name: str, url: str, options: Mapping[str, Any]) -> int:
        """Keep a run; its number."""
        run = measured.run
        with self._open() as database:
            cursor = database.execute(
                "insert into runs (name, at, url, options, summary, slo, warm_up_s, cool_down_s, wall_s, "
                "interrupted, clients) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    time.time(),
                    url,
                    json.dumps(options),
                    json.dumps(measured.as_json()),
                    str(measured.slo),
                    measured.warm_up_s,
                    measured.cool_down_s,
                    run.wall_s,
                    run.interrupted,
                    json.dumps([vars(overhead) for overhead in run.overheads]),
                ),
            )
            number = cursor.lastrowid
            assert number is not None
            places = ", ".join("?" * (2 + len(COLUMNS)))
            database.executemany(
                f"insert into requests (run, events, {', '.join(COLUMNS)}) values ({places})",
                (
                    (number, array("d", record.events_s).tobytes(), *(getattr(record, c) for c in COLUMNS))
                    for record in run.records
                ),
            )
        return number

    def entries(self, last: int | None = None) -> list[Entry]:
        """Newest first."""
        with self._open() as database:
            rows = database.execute(
                "select id, name, at, url, options, summary from runs order by id desc limit ?",
                (-1 if last is None else last,),
            ).fetchall()
        return [_entry(row) for row in rows]

    def find(self, which: str) -> Entry:
        """By its number, by its name (the newest so named), or `last`. InputError if there is none."""
        entries = self.entries()
        for entry in entries:
            if which in (str(entry.id), entry.name) or which == "last":
                return entry
        names = ", ".join(str(entry.id) for entry in entries[:10]) or "none yet"
        raise InputError(f"no run '{which}': `membound runs` lists them ({names})")

    def load(self, number: int) -> Measured:
        """A run as it was measured."""
        with self._open() as database:
            kept = database.execute(
                "select slo, warm_up_s, cool_down_s, wall_s, interrupted, clients from runs where id = ?",
                (number,),
            ).fetchone()
            rows = database.execute(
                f"select events, {', '.join(COLUMNS)} from requests where run = ? order by number", (number,)
            ).fetchall()
        if kept is None:
            raise InputError(f"no run {number}: `membound runs` lists them")
        slo, warm_up_s, cool_down_s, wall_s, interrupted, clients = kept
        overheads = [Overhead(**overhead) for overhead in json.loads(clients)]
        run = Run([_record(row) for row in rows], overheads, wall_s, bool(interrupted))
        return Measured(run, parse_slo(slo) if slo else Slo(), warm_up_s, cool_down_s)

    def remove(self, number: int) -> None:
        """Forget a run; InputError if there is none."""
        with self._open() as database:
            database.execute("delete from requests where run = ?", (number,))
            removed = database.execute("delete from runs where id = ?", (number,)).rowcount
        if not removed:
            raise InputError(f"no run {number}: `membound runs` lists them")


def _entry(row: Sequence[Any]) -> Entry:
    number, name, at, url, options, summary = row
    return Entry(number, name, at, url, json.loads(options), json.loads(summary))


def _record(row: Sequence[Any]) -> Record:
    events: array[float] = array("d")
    events.frombytes(row[0])
    return Record(**dict(zip(COLUMNS, row[1:], strict=True)), events_s=events)
