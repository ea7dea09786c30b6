"""membound serve --on: the server of a machine that is not there, in predicted time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from membound.commands.serve import ServeOptions, run
from membound.costs.calibration import IDEAL
from membound.costs.deployment import Deployment, deployment
from membound.costs.folded_plain import fold
from membound.costs.parallel import layout
from membound.costs.roof import Roof
from membound.costs.roofline import StepCost
from membound.errors import InputError
from membound.executors.paced import PacedExecutor
from membound.executors.predicted import PredictedExecutor
from membound.models.pull import resolve_model
from membound.models.tokenizer import Tokenizer
from membound.models.weights import open_weights
from membound.server.served import Served
from membound.server.stand_in import ANSWER, StandIn, answering
from membound.serving.clock import Paced
from membound.serving.engine import Engine, StepRecord
from membound.serving.request import BLOCK_TOKENS
from membound.simulation.engines import engine_settings
from membound.simulation.replica import Replica
from membound.simulation.simulate import Group, build_engines


@dataclass(frozen=True)
class PredictedOptions:
    """What is served, beside the server's own options."""

    on: str
    tp: int | None
    pp: int
    ep: int
    weights: str | None
    kv: str | None
    activations: str | None
    engine: str
    memory_fraction: float | None
    output_tokens: int


class DeploymentMeter:
    """Bytes and FLOPs of a step of the whole model, whatever its shards."""

    def __init__(self, asked: Deployment) -> None:
        self._whole = StepCost(
            asked.model, asked.cluster, asked.precisions, layout(), IDEAL, "none", asked.skew
        )

    def of(self, record: StepRecord) -> tuple[float, float]:
        sequences = len(record.decodes)
        context: dict[int | None, int] = {None: sum(record.decodes)}
        for window in self._whole.features.windows:
            if window is not None:
                seen = np.minimum(np.array(record.decodes, np.int64) + 1, window)
                context[window] = int(seen.sum()) - sequences
        return self._whole.decode_work(sequences, context, record.chunks)


def serve_predicted_command(options: ServeOptions, predicted: PredictedOptions) -> None:
    settings, listener = options.settings(), options.listen()
    asked = deployment(
        options.model,
        predicted.on,
        tp=predicted.tp,
        pp=predicted.pp,
        ep=predicted.ep,
        weights=predicted.weights,
        kv=predicted.kv,
        activations=predicted.activations,
        engine=predicted.engine,
    )
    part = asked.cluster.accelerator
    setup = engine_settings(
        predicted.engine,
        part,
        max_step_tokens=options.max_batched_tokens,
        max_running=options.max_num_seqs,
        memory_fraction=predicted.memory_fraction,
    )
    replica, *more = build_engines(Group(asked, setup), None, BLOCK_TOKENS)
    if more or not isinstance(replica, Replica):
        raise InputError("serve --on is one engine: leave out data-parallel copies")
    text = _text(options.model, asked.model.vocab)
    end = min(text.end_ids)
    token = answering(text.encode(ANSWER, add_bos=False), end, predicted.output_tokens)
    paced = PacedExecutor(PredictedExecutor(fold(asked.cost), token))
    engine = Engine(
        replica.scheduler,
        paced,
        Paced(),
        text,
        context=options.context or asked.model.context_length,
        vocabulary=asked.model.vocab,
    )
    ranks = asked.layout.ranks
    rate = asked.precisions.rate(asked.precisions.weight_format("output", (1, 1)), part)
    served = Served.of(
        options.served_model_name or options.model,
        engine,
        text,
        DeploymentMeter(asked),
        Roof(part.bandwidth_bytes_per_s * ranks, part.peak(rate) * ranks),
        settings,
        about=f"predicted on {ranks} × {part.id} with the settings of {predicted.engine}, no model behind it",
    )
    served.logprobs = False
    served.before_s = setup.server_s
    served.lag_s = lambda: paced.lag_s
    run(served, listener)


def tokenizer_of(path: Path) -> Tokenizer | None:
    """Of a folder or a GGUF file; None of a bare config.json."""
    if path.is_dir():
        return Tokenizer.from_folder(path)
    return Tokenizer.from_gguf(open_weights(path).metadata) if path.suffix == ".gguf" else None


def _text(model: str, vocabulary: int) -> Tokenizer | StandIn:
    """The model's own tokenizer where its files are here, else a stand-in."""
    try:
        path = resolve_model(model)
        found = tokenizer_of(path)
    except InputError:
        found = None
    return StandIn(vocabulary) if found is None or not found.end_ids else found
