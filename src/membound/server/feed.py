"""GET /: the page, its files, and the stream of frames that it lives on.

A frame is made once for all who look, at most five times a second, and not at all while nobody looks.
"""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from membound.server.errors import ApiError
from membound.server.ledger import Entry
from membound.server.monitor import Point
from membound.server.served import Served
from membound.server.streams import EventStream, sse

router = APIRouter()

FRAME_S = 0.2
WINDOW_S = 5.0  # rates are of so many seconds
FILES = {"page.css": "text/css", "page.js": "text/javascript", "plotly.js": "text/javascript"}
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; base-uri 'none'"


@router.get("/", response_class=Response, include_in_schema=False)
async def index() -> Response:
    return await _file("index.html", "text/html")


@router.get("/page/events", include_in_schema=False)
async def events(request: Request) -> Response:
    """Frames as server-sent events."""
    feed: Feed = request.app.state.feed
    return EventStream(feed.frames(), request.state.told)


@router.get("/page/{name}", include_in_schema=False)
async def file(name: str) -> Response:
    """What the page is made of."""
    if name not in FILES:
        raise ApiError(404, "Not Found")
    return await _file(name, FILES[name])


async def _file(name: str, kind: str) -> Response:
    body = await asyncio.to_thread(_packed, name)
    headers = {
        "Content-Encoding": "gzip",
        "Cache-Control": "max-age=86400" if name == "plotly.js" else "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
    }
    return Response(body, media_type=kind, headers=headers)


@cache
def _packed(name: str) -> bytes:
    path = Path(__file__).parent / "page" / name
    if name == "plotly.js":
        spec = find_spec("plotly")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return gzip.compress(path.read_bytes(), 5)


@dataclass
class Feed:
    """Makes the frames."""

    served: Served
    _viewers: int = 0
    _maker: asyncio.Task[None] | None = None
    _made: asyncio.Event = field(default_factory=asyncio.Event)
    _latest: bytes = b""
    _shown: int = 0  # steps that are in earlier frames
    _ended: float = 0.0  # requests that ended up to then are in earlier frames

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """All there is first, then what is new."""
        self._viewers += 1
        try:
            self.served.look()
            yield sse(self._frame(after=-1, since=0.0) | self._hello())
            if self._maker is None:
                self._shown, self._ended = self.served.monitor.steps, self.served.ledger.now()
                self._maker = asyncio.create_task(self._make())
            while not self.served.ending:
                await self._made.wait()
                yield self._latest
        finally:
            self._viewers -= 1

    async def _make(self) -> None:
        while self._viewers:
            await asyncio.sleep(FRAME_S)
            self.served.look()
            frame = self._frame(after=self._shown, since=self._ended)
            self._shown, self._ended = self.served.monitor.steps, frame["now"]
            self._latest = sse(frame)
            self._made.set()
            self._made = asyncio.Event()
        self._maker = None

    def _hello(self) -> dict[str, Any]:
        served = self.served
        scheduler = served.engine.engine.scheduler
        return {
            "hello": {
                "model": served.name,
                "about": served.about,
                "chat": served.text.has_chat_template,
                "context": served.context,
                "cache_tokens": scheduler.pool.blocks * scheduler.block_tokens,
                "max_running": scheduler.max_running,
                "bandwidth": served.monitor.roof.bandwidth_bytes_per_s,
                "flops": served.monitor.roof.flops_per_s,
            }
        }

    def _frame(self, *, after: int, since: float) -> dict[str, Any]:
        served = self.served
        scheduler, monitor, ledger = served.engine.engine.scheduler, served.monitor, served.ledger
        now = ledger.now()
        lately = [point for point in monitor.points if point.began > now - WINDOW_S]
        busy = sum(point.seconds for point in lately)
        least = sum(point.share * point.seconds for point in lately)
        moved = sum(point.bytes for point in lately)
        done = sum(point.flops for point in lately)
        ended = [entry for entry in ledger.lately if entry.ended is not None and entry.ended > since]
        return {
            "now": now,
            "points": [_point(point) for point in monitor.points if point.number >= after],
            "requests": [_request(entry) for entry in (*ended, *ledger.here)],
            "share": least / busy if busy else None,
            "bandwidth_used": moved / busy if busy else None,
            "flops_used": done / busy if busy else None,
            "step_s": busy / len(lately) if lately else None,
            "tokens": served.metrics.output_tokens,
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "cache": 1 - scheduler.pool.free / scheduler.pool.blocks,
            "hits": scheduler.hit_tokens / scheduler.prompt_tokens if scheduler.prompt_tokens else None,
            "preemptions": scheduler.preemptions,
            "lag": max(served.lag_s(), served.late_s),
        }


def _point(point: Point) -> list[float]:
    """Number, intensity, FLOP/s, share of prompt tokens, tokens, share of the limit, seconds."""
    seconds = max(point.seconds, 1e-9)
    return [
        point.number,
        round(point.flops / point.bytes, 3),
        round(point.flops / seconds),
        round(point.prefill, 3),
        point.tokens,
        round(point.share, 4),
        round(point.seconds, 6),
    ]


def _request(entry: Entry) -> list[Any]:
    """Name, times (arrived, admitted, first token, last token, end), prompt and output tokens, its end."""
    admitted = entry.admitted
    if admitted is None and entry.request is not None:
        admitted = entry.request.admitted
    times = [entry.arrived, admitted, entry.first, entry.last, entry.ended]
    return [
        f"{id(entry):x}",
        *(None if moment is None else round(moment, 4) for moment in times),
        entry.prompt_tokens,
        entry.output_tokens,
        entry.reason,
    ]
