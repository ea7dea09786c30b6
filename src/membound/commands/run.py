"""membound run: text to the terminal as it comes, then how far from the memory wall it ran."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from membound.commands.output import (
    parse_bytes,
    print_json,
    print_notes,
    print_table,
    progress,
    rate,
    size,
    status,
)
from membound.errors import InputError, RunError
from membound.serving.engine import Completion, StepRecord
from membound.serving.sampling import Sampling

if TYPE_CHECKING:
    from membound.costs.roof import Roof
    from membound.costs.roofline import StepCost
    from membound.llm import LLM
    from membound.measuring.ruler import Placed, Ruler


def run_command(
    model: str,
    prompt: str,
    sampling: Sampling,
    *,
    raw: bool,
    threads: int | None,
    kv_memory: str | None,
    context: int | None,
    json: bool,
) -> None:
    llm = open_model(model, threads=threads, kv_memory=kv_memory, context=context, quiet=json, max_running=1)
    text = _standard_input() if prompt == "-" else prompt
    ids = list(llm.engine.encode(text)) if raw else llm.chat_ids([{"role": "user", "content": text}])
    ruler = ruler_of(llm, threads)
    expected = expected_cost(model, threads, quiet=json)
    before = ruler.roof()
    completion, records = stream(llm, ids, sampling, echo=not json)
    told = Told.of(completion, records, ruler, expected, before)
    if json:
        print_json(told.as_json(completion, ruler))
    else:
        told.show(completion, ruler)


def open_model(
    model: str,
    *,
    threads: int | None,
    kv_memory: str | None,
    context: int | None,
    quiet: bool,
    max_running: int = 32,
    max_step_tokens: int = 512,
) -> "LLM":
    """Load with a bar on standard error."""
    room = parse_bytes(kv_memory, "--kv-memory")
    from membound.llm import LLM
    from membound.models.pull import resolve_model

    path = resolve_model(model)
    total = path.stat().st_size if path.is_file() else None
    with progress(f"loading {path.name}", quiet=quiet) as show:
        llm = LLM(
            path,
            threads=threads,
            kv_memory=room,
            context=context,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            progress=lambda done: show(done, total),
        )
    print_notes(llm.weights.notes)
    return llm


def ruler_of(llm: "LLM", threads: int | None) -> "Ruler":
    from membound.measuring.ruler import Ruler

    return Ruler(llm.weights, llm.executor.kv_bytes, threads=threads)


def expected_cost(model: str, threads: int | None, *, quiet: bool) -> "StepCost":
    """What steps should cost here by the cost model and an earlier probe; the first time, this probes."""
    from membound.costs.deployment import deployment
    from membound.costs.this_machine import ENGINE
    from membound.hardware.probe import cached, probe
    from membound.models.pull import resolve_model

    if cached(threads) is None:
        with status("probing this machine, once", quiet=quiet) as say:
            probe(threads=threads, progress=say)
    return deployment(str(resolve_model(model)), "this", engine=ENGINE, threads=threads).cost


def stream(
    llm: "LLM", ids: list[int], sampling: Sampling, *, echo: bool
) -> tuple[Completion, list[StepRecord]]:
    """Generate one completion, written out as it comes if `echo`; and the steps that it took."""
    llm.engine.log.clear()
    request = llm.engine.add(ids, sampling)
    completion = Completion(len(ids), sent=request.arrival)
    while llm.engine.busy:
        for event in llm.engine.step():
            completion.take(event)
            if echo:
                sys.stdout.write(event.text)
                sys.stdout.flush()
    if completion.finish_reason == "error":
        raise RunError(completion.error or "the model stopped without saying why")
    return completion, list(llm.engine.log)


@dataclass(frozen=True, slots=True)
class Told:
    """What `run` says about one completion. None where a single token gives no decode step to time."""

    ttft_s: float
    tpot_s: float | None
    decode: "Placed | None"
    predicted_tpot_s: float | None
    roof: "Roof"

    @classmethod
    def of(
        cls,
        completion: Completion,
        records: list[StepRecord],
        ruler: "Ruler",
        expected: "StepCost",
        before: "Roof",
    ) -> "Told":
        from membound.measuring.ruler import chunks_of, higher

        roof = higher(before, ruler.roof())
        decodes = [record for record in records if not record.chunks]
        predicted = [expected.step_seconds(chunks_of(record)) for record in decodes]
        assert completion.ttft_s is not None, "a completion has at least one token"
        return cls(
            completion.ttft_s,
            completion.tpot_s,
            ruler.place(decodes, roof) if decodes else None,
            sum(predicted) / len(predicted) if predicted else None,
            roof,
        )

    @property
    def limit_tpot_s(self) -> float | None:
        return self.decode.limit_s / self.decode.steps if self.decode else None

    @property
    def share_of_limit(self) -> float | None:
        """The least TPOT over the measured one: what is outside the kernels counts against us."""
        if self.limit_tpot_s is None or self.tpot_s is None:
            return None
        return self.limit_tpot_s / self.tpot_s

    def as_json(self, completion: Completion, ruler: "Ruler") -> dict[str, object]:
        return {
            "text": completion.text,
            "prompt_tokens": completion.prompt_tokens,
            "token_ids": completion.token_ids,
            "finish_reason": completion.finish_reason,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "weight_bytes_per_step": ruler.weight_bytes_per_step,
            "kv_bytes_per_token": ruler.kv_bytes_per_token,
            "read_bandwidth_bytes_per_s": self.roof.bandwidth_bytes_per_s,
            "limit_tpot_s": self.limit_tpot_s,
            "predicted_tpot_s": self.predicted_tpot_s,
            "share_of_limit": self.share_of_limit,
        }

    def show(self, completion: Completion, ruler: "Ruler") -> None:
        print("\n")
        rows = [
            ("prompt", f"{completion.prompt_tokens} tokens, {completion.hit_tokens} of them cached"),
            ("generated", f"{len(completion.token_ids)} tokens, ended by {completion.finish_reason}"),
            ("TTFT", milliseconds(self.ttft_s)),
            ("TPOT measured", milliseconds(self.tpot_s)),
            ("TPOT predicted", milliseconds(self.predicted_tpot_s)),
            ("TPOT limit", f"{milliseconds(self.limit_tpot_s)} at {rate(self.roof.bandwidth_bytes_per_s)}"),
            ("share of the limit", "-" if self.share_of_limit is None else f"{self.share_of_limit:.0%}"),
            ("weights per step", size(ruler.weight_bytes_per_step)),
            ("KV cache per token", size(ruler.kv_bytes_per_token)),
        ]
        print_table(("", ""), rows)


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _standard_input() -> str:
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8 text") from None
    if not text:
        raise InputError("standard input is empty: give a prompt, or pipe one in")
    return text
