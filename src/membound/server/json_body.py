"""Bodies read by pydantic's own parser: several times quicker, and as strict as JSON is."""

import asyncio
import gc
import json
import secrets
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

LARGE = 1 << 16  # bytes; what is smaller is read within a millisecond or two
MOST_PARTS = 16_384  # arrays, objects and their members, which take 0.1 to 0.2 µs each to read
MOST_ITEMS = 65_536  # of arrays, token ids above all: 0.03 to 0.05 µs; or as many as the context holds
PART = 8192  # items of a list that are read at once
MARK = secrets.token_hex()  # in the place of a list that is read by itself
ORD = {mark: ord(mark) for mark in '"\\[]{:, 09'}


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) <= LARGE:
                self._json = _parsed(body)
            else:
                await asyncio.to_thread(_check, body, max(MOST_ITEMS, self.app.state.served.context))
                self._json = await asyncio.to_thread(in_parts, body)
                if self._json is not None:
                    return self._json
                async with self.app.state.reading:
                    self._json = _parsed(body)
                    await asyncio.sleep(0)  # others have their turn before the fields are looked at
        return self._json


def _parsed(body: bytes) -> Any:
    gc.disable()  # thousands of small lists would have it go through them again and again
    try:
        return from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise json.JSONDecodeError(str(error), "", 0) from None
    finally:
        gc.enable()


def in_parts(body: bytes) -> dict[str, Any] | None:
    """An object of which a field is a long list of whole numbers, token ids above all: these are read part by
    part, in a thread, since the parser does not let go of the interpreter. None where it is something else.
    """
    read = np.frombuffer(body, np.uint8)
    within = ((read >= ORD["0"]) & (read <= ORD["9"])) | (read == ORD[","]) | (read == ORD[" "])
    ends = np.flatnonzero(~within)  # of stretches of whole numbers
    if len(ends) < 2:
        return None
    longest = int(np.diff(ends).argmax())
    begin, end = int(ends[longest]), int(ends[longest + 1])
    commas = begin + np.flatnonzero(read[begin:end] == ORD[","])
    if body[begin] != ORD["["] or len(commas) < PART:
        return None
    numbers: list[int] = []
    try:
        for start, stop in pairwise((begin, *commas[PART - 1 :: PART].tolist(), end)):
            part = from_json(b"[" + body[start + 1 : stop] + b"]")
            if not part:
                return None
            numbers += part
        whole = _parsed(body[:begin] + b'"' + MARK.encode() + b'"' + body[end + 1 :])
    except ValueError:
        return None
    if body[end] != ORD["]"] or not isinstance(whole, dict) or MARK not in whole.values():
        return None
    return {name: numbers if value == MARK else value for name, value in whole.items()}


def _check(body: bytes, most_items: int) -> None:
    """413 where parsing would hold up everyone else: the parser does not let go of the interpreter."""
    parts, items = count(body)
    for found, most, what in (
        (parts, MOST_PARTS, "arrays, objects and members of objects"),
        (items, most_items, "items"),
    ):
        if found > most:  # of Starlette's errors, since routes pass no others on
            raise HTTPException(413, f"the body holds {found} {what}; this server takes {most}")


def count(body: bytes) -> tuple[int, int]:
    """Arrays, objects and members of objects; and commas. None of those within texts."""
    read = np.frombuffer(body, np.uint8)
    quotes = read == ORD['"']
    escapes = read == ORD["\\"]
    if escapes.any():
        # A quote counts unless an odd number of backslashes stands before it.
        places = np.arange(len(read), dtype=np.int32)
        others = np.maximum.accumulate(np.where(escapes, np.int32(-1), places))
        quotes[1:] &= (places[:-1] - others[:-1]) % 2 == 0
    outside = ~np.logical_xor.accumulate(quotes)
    found = {mark: int(np.count_nonzero((read == ORD[mark]) & outside)) for mark in "[{:,"}
    return found["["] + found["{"] + found[":"], found[","]


class JsonRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read
