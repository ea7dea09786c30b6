"""The native kernels carry steps out, on weights packed in memory and a cache in blocks."""

from __future__ import annotations

import copy
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from membound import _core
from membound.errors import InputError, RunError
from membound.executors.native_model import describe, matrix_types
from membound.models.weights import Tensor, Weights
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.sampling import Sampling, TokenLogprobs
from membound.serving.step import Outcome, Step

Ints = NDArray[np.int32]
KvType = Literal["f32", "f16", "bf16"]
KV_BYTES: dict[KvType, int] = {"f32": 4, "f16": 2, "bf16": 2}  # of one cached element
FLOAT_TYPES = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
FEW_SEQUENCES = 2  # up to which reading integers is quicker than tile registers
READY_BYTES = 512 << 20  # of the cache that are the system's no more before a sequence needs them
READY_BLOCKS = 128  # of a layer readied at a time: some milliseconds
DROP_BYTES = 32 << 20  # of packed weights after which the file's pages are given back


class NativeExecutor:
    """Carries steps out with the kernels of one instruction set and a pool of threads.

    It asks no clock: the time after a step is the time before it.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        blocks: int,
        threads: int | None = None,
        isa: str | None = None,
        kv_type: KvType | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Packs the weights; `progress` is told the bytes of the file that are packed so far.

        `blocks`: of 16 tokens, in the KV cache. `threads`: None takes all processors there are for this
        process. `isa`: None takes the environment's MEMBOUND_ISA, or the strongest. `kv_type`: None takes
        `default_kv_type`. InputError names an operator that the kernels lack; RunError
        says what memory was refused.
        """
        if kv_type is None:
            kv_type = default_kv_type(weights, isa)
        self.blocks = blocks
        self.kv_bytes = KV_BYTES[kv_type]
        dropped = 0

        def packed(done: int) -> None:
            nonlocal dropped
            if done - dropped >= DROP_BYTES:
                drop_pages(weights)
                dropped = done
            if progress is not None:
                progress(done)

        try:
            self.core = _core.Model(describe(weights), blocks, kv_type, threads or 0, isa or "", packed)
        except RuntimeError as error:
            raise RunError(str(error)) from None
        except ValueError as error:
            raise InputError(str(error)) from None
        drop_pages(weights)
        self._own(0)

    def _own(self, first_block: int) -> None:
        self._first_block = first_block  # of the core's cache, which is block 0 here
        self._slots: dict[Request, _Slot] = {}
        self._free: list[int] = []
        self._used = 0  # blocks that sequences had so far, as those of low numbers come first
        self._readied = 0  # times that memory was readied: of some blocks, layer by layer, then of the next
        self._batch: _Batch | None = None  # the last step, if all decoded greedily
        self._tables: Ints = np.zeros((0, 0), np.int32)

    def on_blocks(self, first: int, count: int) -> NativeExecutor:
        """The same weights, threads and cache for another engine, whose blocks are [first, first + count) of
        this one's. Only one of them carries a step out at a time.
        """
        other = copy.copy(self)
        other.blocks = count
        other._own(self._first_block + first)
        return other

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        """Runs the step once."""
        batch, self._batch = self._batch, None  # it goes on if nothing fails
        if batch is None or step.chunks or step.running != batch.requests:
            return self._execute_anew(step, now)
        for request in step.grown:
            self._slot(request)
        return self._decode(batch, now)

    def _decode(self, batch: _Batch, now: float) -> Outcome:
        ids = self.core.decode(batch.rows, self._tables)
        self._batch = batch
        return Outcome(now, tokens=dict(zip(batch.requests, [[id] for id in ids], strict=True)))

    def _execute_anew(self, step: Step, now: float) -> Outcome:
        """A step that is not the one before with a token more each."""
        for request in step.preempted:
            self._release(request)
        if len(self._slots) > 2 * len(step.running) + 16:
            for request in self._slots.keys() - set(step.running):
                self._release(request)

        tokens: list[int] = []
        starts, firsts, slots, sample_rows = [0], [], [], []
        sampling: list[Request] = []
        settings: list[_core.RowSampling | None] = []
        for request, count in step.chunks:
            first = request.computed
            end = first + count
            tokens += request.tokens[first:end]
            starts.append(len(tokens))
            firsts.append(first)
            slot = self._slot(request)
            slots.append(slot.row)
            if end == request.length:
                sample_rows.append(len(tokens) - 1)
                sampling.append(request)
                settings.append(slot.settings_now(request))
        for request in step.decoding():
            known = request.tokens
            firsts.append(len(known) - 1)
            sample_rows.append(len(tokens))
            tokens.append(known[-1])
            starts.append(len(tokens))
            slot = self._slot(request)
            slots.append(slot.row)
            sampling.append(request)
            settings.append(slot.settings_now(request))

        asking = any(settings)
        if not step.chunks and not asking:
            return self._decode(_Batch(list(step.running), _core.DecodingRows(tokens, firsts, slots)), now)
        ids, reports = self.core.step(
            tokens, starts, firsts, slots, self._tables, sample_rows, settings if asking else None
        )
        logprobs = None
        if reports is not None:
            logprobs = {
                request: [TokenLogprobs(chosen, tuple(top))]
                for request, (chosen, top) in zip(sampling, reports, strict=True)
                if request.sampling.logprobs is not None
            }
        chosen_ids = {request: [id] for request, id in zip(sampling, ids, strict=True)}
        return Outcome(now, tokens=chosen_ids, logprobs=logprobs or None)

    def ready_ahead(self) -> bool:
        """Has the system give a little of the cache's memory, when there is nothing else to do: a sequence
        waits milliseconds for a page of it. False once enough is there beyond what was used so far.
        """
        ahead = READY_BYTES // (self.core.kv_bytes // self.core.blocks)
        turn, layer = divmod(self._readied, self.core.layers)
        first = turn * READY_BLOCKS
        if first >= min(self.blocks, self._used + ahead):
            return False
        self.core.ready_blocks(layer, self._first_block + first, min(READY_BLOCKS, self.blocks - first))
        self._readied += 1
        return True

    def logits(self, tokens: Sequence[int], *, last: bool = False) -> NDArray[np.float32]:
        """A sequence from its start, alone and outside any request: (tokens or 1, vocab).

        It uses the first blocks of the cache: call it only while no request holds any.
        """
        count = len(tokens)
        needed = -(-count // BLOCK_TOKENS)
        table = np.arange(self._first_block, self._first_block + needed, dtype=np.int32)[None]
        rows = range(count - 1 if last else 0, count)
        return self.core.logits(list(tokens), [0, count], [0], [0], table, list(rows))

    def _slot(self, request: Request) -> _Slot:
        """The request's row of the block tables, brought up to date."""
        slot = self._slots.get(request)
        if slot is None:
            if not self._free:
                self._grow(rows=max(16, 2 * len(self._tables)))
            slot = self._slots[request] = _Slot(self._free.pop(), row_settings(request))
        blocks = request.blocks
        if slot.count != len(blocks):
            if len(blocks) > self._tables.shape[1]:
                self._grow(width=max(16, 2 * len(blocks)))
            new = np.array(blocks[slot.count :], np.int32)
            self._tables[slot.row, slot.count : len(blocks)] = new + self._first_block
            self._used = max(self._used, 1 + int(new.max()))
            slot.count = len(blocks)
        return slot

    def _release(self, request: Request) -> None:
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._free.append(slot.row)

    def _grow(self, *, rows: int = 0, width: int = 0) -> None:
        old_rows, old_width = self._tables.shape
        tables = np.zeros((max(rows, old_rows), max(width, old_width)), np.int32)
        tables[:old_rows, :old_width] = self._tables
        self._tables = tables
        self._free += range(len(tables) - 1, old_rows - 1, -1)


@dataclass(slots=True)
class _Batch:
    """Requests that decode greedily together, step after step, and are not looked at meanwhile."""

    requests: list[Request]
    rows: _core.DecodingRows


class _Slot:
    """What the executor keeps of a running request: its row of the block tables and its sampling."""

    __slots__ = ("count", "row", "settings")

    def __init__(self, row: int, settings: _core.RowSampling | None) -> None:
        self.row = row
        self.count = 0  # blocks that the row holds
        self.settings = settings

    def settings_now(self, request: Request) -> _core.RowSampling | None:
        """The settings, with all tokens that penalties look at, and what may come next."""
        settings = self.settings
        if settings is not None and settings.penalized:
            settings.extend(request.tokens[settings.history_length :])
        if settings is not None and request.constraint is not None:
            settings.allow(request.constraint.allowed())
        return settings


def default_isa(weights: Weights, sequences: int) -> str:
    """The instruction set for an engine that runs at most so many sequences at a time: the environment's
    MEMBOUND_ISA or the strongest; where that would be AMX, matrix products of few sequences have AVX-512
    and only their attention AMX.

    With AMX, quantized weights become bf16 in every step, whatever its rows, so that no token depends on
    them. Many rows gain by that; for one it takes longer than to read the weights (`docs/design.md`).
    InputError for an instruction set that is not there.
    """
    isa = _usual_isa()
    if isa != "amx" or sequences > FEW_SEQUENCES or "MEMBOUND_ISA" in os.environ:
        return isa
    return "avx512+amx" if matrix_types(weights) - FLOAT_TYPES else isa


def default_kv_type(weights: Weights, isa: str | None = None) -> KvType:
    """What the cache holds unless told otherwise: f32 for a model in float32; of others, bf16 where tile
    registers multiply it, and f16. InputError for an instruction set that is not there.
    """
    if GGMLQuantizationType.F32 in matrix_types(weights):
        return "f32"
    return "bf16" if (isa or _usual_isa()) in ("amx", "avx512+amx") else "f16"


def _usual_isa() -> str:
    """The environment's or the strongest; InputError for one that is not there."""
    try:
        return _core.isa()
    except ValueError as error:
        raise InputError(str(error)) from None


def row_settings(request: Request) -> _core.RowSampling | None:
    """A request's sampling as the kernels take it; None if it is plainly greedy."""
    settings = kernel_settings(request.sampling, request.prompt_length)
    return None if settings.plain and request.constraint is None else settings


def kernel_settings(sampling: Sampling, prompt_length: int) -> _core.RowSampling:
    """Sampling as the kernels take it."""
    return _core.RowSampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=sampling.logit_bias,
        seed=sampling.seed & (2**64 - 1),
        logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
        prompt_length=prompt_length,
    )


def drop_pages(weights: Weights) -> None:
    """Gives back the memory of mapped weight files: what is still needed is read again."""
    for mapped in {id(m): m for m in map(_mapping, weights.tensors.values()) if m is not None}.values():
        mapped.madvise(mmap.MADV_DONTNEED)


def _mapping(tensor: Tensor) -> mmap.mmap | None:
    """The file mapping that its stored array is a view of."""
    data: object = tensor.stored
    while data is not None and not isinstance(data, mmap.mmap):
        data = data.obj if isinstance(data, memoryview) else getattr(data, "base", None)
    return data
