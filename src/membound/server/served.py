"""What a server serves: one model's name, engine, text and accounts. The routes find it here."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from membound.costs.roof import Roof
from membound.server.errors import ApiError
from membound.server.guidance import Guide
from membound.server.ledger import Ledger
from membound.server.log import logger
from membound.server.metrics import Metrics
from membound.server.monitor import Meter, Monitor
from membound.server.settings import Settings
from membound.serving.async_engine import AsyncEngine
from membound.serving.engine import Engine

LAG_WORTH_A_WORD_S = 0.05
SAY_EVERY_S = 10.0


class TextCodec(Protocol):
    """What the routes ask of a tokenizer."""

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def chat_template(self) -> str: ...

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...

    def text_bytes(self, token: int) -> bytes: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str: ...


@dataclass
class Served:
    """One model behind the endpoints."""

    name: str
    engine: AsyncEngine
    text: TextCodec
    vocabulary: int
    settings: Settings
    ledger: Ledger
    monitor: Monitor
    metrics: Metrics
    guide: Guide | None = None  # None: structured output is off
    about: str = "native kernels on this machine"  # what carries the steps out
    logprobs: bool = True  # whether there are any
    before_s: float = 0.0  # what an engine takes before a request is queued, where that is predicted
    lag_s: Callable[[], float] = lambda: 0.0  # by how much predicted steps begin too late
    _said: float = field(default=float("-inf"), init=False)  # when the lag was last warned of
    late_s: float = 0.0  # the longest that news waited for the event loop since the last look
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        engine: Engine,
        text: TextCodec,
        meter: Meter,
        roof: Roof,
        settings: Settings,
        guide: Guide | None = None,
        about: str = "native kernels on this machine",
        idle: Callable[[], bool] | None = None,
    ) -> "Served":
        """Put together and started: the engine's thread waits for requests, and calls `idle` meanwhile."""
        metrics = Metrics(settings.metrics_prefix, name)
        ledger = Ledger(engine.clock.now, metrics)
        monitor = Monitor(engine, meter, roof)
        vocabulary = engine.vocabulary
        assert vocabulary is not None
        served = cls(
            name,
            AsyncEngine(engine, idle),
            text,
            vocabulary,
            settings,
            ledger,
            monitor,
            metrics,
            guide,
            about,
        )
        metrics.watch(engine.scheduler, monitor, lambda: (served.lag_s(), served.late_s))
        return served

    def heard(self, then: float) -> None:
        """News of that moment came to the event loop now."""
        self.late_s = max(self.late_s, self.ledger.now() - then)

    def look(self) -> None:
        """Take in the latest steps; the delay of news is that since the last look but one, or so."""
        self.late_s *= 0.5
        lag, now = self.lag_s(), self.ledger.now()
        if lag > LAG_WORTH_A_WORD_S and now > self._said + SAY_EVERY_S:
            self._said = now
            logger.warning(json.dumps({"warning": "predicted steps begin late", "lag_s": round(lag, 3)}))
        self.monitor.look(lambda record: self.metrics.stepped(record.tokens))

    @property
    def context(self) -> int:
        """The most tokens of one sequence."""
        return self.engine.engine.context

    @property
    def room(self) -> int:
        """How many requests may be here at once: those that run, and those that wait."""
        return self.engine.engine.scheduler.max_running + self.settings.max_queue

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.engine.alive and not self.draining

    @property
    def ending(self) -> bool:
        """Whether the last request has ended, and there will be no other."""
        return self.draining and (not self.ledger.active or not self.engine.alive)

    def admit(self, count: int = 1) -> None:
        """Raise ApiError where `count` more requests cannot be taken now."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", headers={"Retry-After": "5"})
        if not self.engine.alive:
            raise ApiError(503, "the engine has stopped; restart the server")
        if count > self.room:
            raise ApiError(400, f"{count} prompts in one request; this server takes {self.room} at once")
        here = self.ledger.active
        if here + count > self.room:
            message = f"{here} requests run or wait, and the queue takes no more: try again later"
            wait = self.ledger.seconds_until_room(self.engine.engine.scheduler.max_running)
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})

    def check_logprobs(self) -> None:
        """400 where there are none to tell."""
        if not self.logprobs:
            message = "logprobs are not supported: no model stands behind this server"
            raise ApiError(400, message, param="logprobs", code="unsupported")

    def check_model(self, asked: str | None) -> None:
        """404 where a request names another model."""
        if asked is not None and asked != self.name:
            raise ApiError(
                404,
                f"the model {asked!r} does not exist; this server serves {self.name!r}",
                param="model",
                code="model_not_found",
            )
