"""What an operator decides about a server."""

from dataclasses import dataclass

from membound.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults suit one machine on its loopback."""

    api_key: str | None = None  # asked for as `Authorization: Bearer …`
    cors_origins: tuple[str, ...] = ()  # * allows all
    max_body_bytes: int = 1 << 20
    max_queue: int = 256  # requests that may wait beside those that run; more get 429
    deadline_s: float | None = None  # the longest that a request may take
    drain_s: float = 30.0  # how long requests may go on after a signal to stop
    metrics_prefix: str = "membound"
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if self.max_queue < 0 or self.max_body_bytes < 1 or self.drain_s < 0:
            raise InputError("--max-queue, --max-body and --drain are not negative")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise InputError("--deadline is above 0 seconds")
        if self.metrics_prefix not in ("membound", "vllm"):
            raise InputError(f"--metrics-prefix {self.metrics_prefix}: use membound or vllm")
