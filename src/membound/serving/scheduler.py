"""The scheduler: which requests compute how many tokens in the next step, and in which blocks.

It knows no clock, no memory and no kernels: ids and integers only. The policy is that of vLLM V1: a budget
of tokens per step, running requests first, preemption from the tail by recomputation, no admission in a step
that preempted, and prefixes shared by block.

Nothing is done per step for a request that is caught up. Such a request computes one token in every step, so
it stores its distance to the step count once, and stands in the bucket of that distance modulo the block
size: all requests of one bucket need a new block in the same step, and only that bucket is visited.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from membound.errors import InputError
from membound.serving.blocks import NO_BLOCKS, BlockPool
from membound.serving.context import ContextSum
from membound.serving.request import BLOCK_TOKENS, Request, State, StepCount
from membound.serving.step import Outcome, Step

_ORDER: Final = attrgetter("order")
_WAITING: Final = State.WAITING
_RUNNING: Final = State.RUNNING
_ENDED: Final = State.ENDED


class Scheduler:
    """Turns requests into steps: `add`, then `schedule` and `commit` in turn until there is no step."""

    def __init__(
        self,
        blocks: int,
        *,
        max_step_tokens: int = 2048,
        max_running: int = 256,
        windows: Iterable[int] = (),
        prefix_reuse: bool = True,
        block_tokens: int = BLOCK_TOKENS,
        prompts_first: bool = False,
        drafts: int = 0,
        tables: bool = True,
    ) -> None:
        """`blocks` of KV cache; `windows`: the attention windows whose context sums the executor needs.

        With `prompts_first`, as SGLang does unasked, a step computes either chunks or decodes: whoever is
        caught up waits while others can catch up. With `drafts` a request that samples computes so many
        guessed tokens beyond its newest, and keeps those that prove right: every request is visited in every
        step then. Without `tables` nobody reads which blocks a request has: they are counted until one of the
        requests can share a prefix.
        """
        if blocks < 1:
            raise InputError(f"the KV cache has {blocks} blocks; it needs at least one: give it more memory")
        if not 1 <= max_running * (1 + drafts) <= max_step_tokens:
            raise InputError(
                f"{max_running} requests may run with {drafts} drafts each, but a step has room for"
                f" {max_step_tokens} tokens: allow at least one request, and as many tokens as they compute"
            )
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.prefix_reuse = prefix_reuse
        self.prompts_first = prompts_first
        self.drafts = drafts
        self.block_tokens = block_tokens
        self.pool = BlockPool(blocks, counted=not (tables or drafts))
        self.waiting: deque[Request] = deque()  # preempted requests first, then by arrival
        self.running: list[Request] = []  # in order of admission; at most the last is part of the way
        self._orders: list[int] = []  # theirs, to find one among them
        self.preemptions = 0
        self.prompt_tokens = 0  # of requests when first admitted
        self.hit_tokens = 0  # of these, found in the cache
        self._count = StepCount()
        self._decodes = 0  # caught-up requests: the head of `running`
        # Caught-up requests with their blocks, each bucket in running order.
        self._buckets: list[dict[Request, array[int]]] = [{} for _ in range(block_tokens)]
        self._ring = self._buckets * 2  # so that buckets in turn are a slice
        self._cached = 0  # tokens of the caught-up requests
        self._windowed = [ContextSum(window) for window in windows]  # the same within windows
        self._sharing = False  # whether any request ever had a prefix to share
        self._admissions = 0
        self._aborted: list[Request] = []
        self._step: Step | None = None

    @property
    def busy(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queue a new request; one that could never fit in the cache is refused."""
        if request.prompt_length < 1:
            raise InputError("the prompt is empty: give at least one token")
        # The last sampled token is never computed, but drafts beyond it may be.
        most = request.prompt_length + request.max_tokens - 1 + self.drafts
        if most > self.pool.blocks * self.block_tokens:
            raise InputError(
                f"{request.prompt_length} prompt tokens and up to {request.max_tokens} new ones never fit in"
                f" a KV cache of {self.pool.blocks * self.block_tokens} tokens: shorten the prompt, lower"
                " max_tokens or give the cache more memory"
            )
        if request.shareable:
            request.shareable = self._sharing = self.prefix_reuse
        request.state = _WAITING
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Drop a request; one that runs keeps its blocks until no step can be using them."""
        if request.state is _WAITING:
            self.waiting.remove(request)
            request.state = _ENDED
        elif request.state is _RUNNING and request not in self._aborted:
            self._aborted.append(request)

    def schedule(self) -> Step | None:
        """The next step, to be committed before the next one; None if there is nothing to do."""
        assert self._step is None, "commit the last step first"
        if self._aborted:
            self._drop_aborted()
        if self.drafts:
            return self._verify()
        if self._sharing and self.pool.counted:
            self._number_blocks()
        if self.prompts_first:
            stalled = self._stall()
            if stalled is not None:
                return stalled
        bucket = self._buckets[self._count.steps % self.block_tokens]
        preempted: list[Request] = []
        if bucket:  # each of it needs a block; from the tail, others give way
            while len(bucket) > self.pool.free:
                preempted.append(self._preempt())
            self._grow(bucket)
        chunks: list[tuple[Request, int]] = []
        budget = self.max_step_tokens - self._decodes
        if len(self.running) > self._decodes:
            budget = self._catch_up(chunks, budget)
        if self.waiting and not preempted:
            budget = self._admit(chunks, budget)
        if not self.running:
            return None
        context: dict[int | None, int] = {None: self._cached}
        growth: dict[int | None, int] = {None: self._decodes}
        for windowed in self._windowed:
            context[windowed.window], growth[windowed.window] = windowed.total, windowed.growing
        repeat = 1 if chunks or preempted else self._repeatable(budget)
        tokens = self.max_step_tokens - budget
        step = Step(chunks, self.running, self._decodes, context, growth, preempted, tokens, repeat, bucket)
        self._step = step
        return step

    def _verify(self) -> Step | None:
        """Make a step in which whoever samples has drafts verified: all that run are chunks."""
        preempted: list[Request] = []
        chunks: list[tuple[Request, int]] = []
        budget = self.max_step_tokens
        for request in list(self.running):
            if request.state is not _RUNNING:
                break  # it gave way, and so did all after it
            known = request.length - request.computed
            drafts = self.drafts if known == 1 and request.output_length else 0
            count = min(known + drafts, budget)
            if self._make_room_for(request, count, preempted):
                chunks.append((request, count))
                budget -= count
        if self.waiting and not preempted:
            budget = self._admit(chunks, budget)
        if not self.running:
            return None
        self._step = step = self._of_chunks(chunks, preempted, budget)
        return step

    def _of_chunks(self, chunks: list[tuple[Request, int]], preempted: list[Request], left: int) -> Step:
        """A step in which nobody is caught up, with so much of the budget left."""
        nothing = dict.fromkeys([None, *[context.window for context in self._windowed]], 0)
        tokens = self.max_step_tokens - left
        return Step(chunks, self.running, 0, nothing, dict(nothing), preempted, tokens)

    def _make_room_for(self, request: Request, count: int, preempted: list[Request]) -> bool:
        """Blocks for so many tokens more; from the tail, others give way, in the end the request itself."""
        missing = -(-(request.computed + count) // self.block_tokens) - len(request.blocks)
        while missing > self.pool.free:
            preempted.append(self._preempt())
            if preempted[-1] is request:
                return False
        if missing > 0:
            request.blocks.extend(self.pool.take(missing))
        return True

    def _stall(self) -> Step | None:
        """Make a step of chunks alone, if there are any: the caught-up keep their tokens and blocks."""
        chunks: list[tuple[Request, int]] = []
        budget = self.max_step_tokens
        if len(self.running) > self._decodes:
            budget = self._catch_up(chunks, budget)
        budget = self._admit(chunks, budget)
        if not chunks:
            return None
        self._step = step = self._of_chunks(chunks, [], budget)
        return step

    def _catch_up(self, chunks: list[tuple[Request, int]], budget: int) -> int:
        """The one request that is part of the way goes on; the tokens that are left."""
        request = self.running[-1]
        count = min(request.length - request.computed, budget)
        chunks.append((request, count))
        return budget - count

    def commit(self, outcome: Outcome) -> list[Request]:
        """Take in what came of the step; the requests that ended, in running order, without aborted ones."""
        step = self._step
        assert step is not None, "schedule a step first"
        assert 0 <= outcome.times <= step.repeat, f"the step ran {outcome.times} times of {step.repeat}"
        self._step = None
        if outcome.tokens:
            for request, tokens in outcome.tokens.items():
                request.tokens.extend(tokens)
        if outcome.times:
            if step.decodes or not (self.prompts_first or self.drafts):
                if outcome.times > 1:
                    self._take_for(outcome.times - 1)
                self._count.steps += 1
                self._cached += outcome.times * self._decodes
                for context in self._windowed:
                    context.advance(outcome.times, self._count.steps)
            if step.chunks:
                for request, count in step.chunks:
                    if self.drafts:
                        self._take_in(request, count, outcome)
                    else:
                        self._advance(request, count, outcome)
        if self._aborted:
            self._drop_aborted()
        if not outcome.ended:
            return []
        ended = [request for request in outcome.ended if request.state is _RUNNING]
        if len(ended) > 1:
            ended.sort(key=_ORDER)
        for request in ended:
            request.last_token = outcome.now
            self._end(request)
        return ended

    def _take_for(self, steps: int) -> None:
        """So many further steps of a repeated one began, and took their blocks one after the other."""
        count = self._count
        if self._sharing:
            for _ in range(steps):
                count.steps += 1
                bucket = self._buckets[count.steps % self.block_tokens]
                if bucket:
                    self._grow(bucket)
            return
        begin = (count.steps + 1) % self.block_tokens
        rounds, rest = divmod(steps, self.block_tokens)
        buckets = self._ring[begin : begin + rest]
        if self.pool.counted:
            self.pool.take(rounds * self._decodes + sum(map(len, buckets)))
            count.steps += steps
            return
        if rounds:
            buckets = self._ring[begin : begin + self.block_tokens] * rounds + buckets
        tables = [blocks for bucket in buckets if bucket for blocks in bucket.values()]
        if tables:
            for _ in map(array.append, tables, self.pool.take(len(tables))):
                pass
        count.steps += steps

    def _advance(self, request: Request, tokens: int, outcome: Outcome) -> None:
        """A chunk was computed; if it reached the end of what is known, a token was sampled."""
        steps = self._count.steps
        complete = request.compute(tokens, self._count)
        if request.shareable:
            self._publish(request)
        if complete:
            if request.first_token is None:
                request.first_token = outcome.now
            offset = request.offset
            self._buckets[offset % self.block_tokens][request] = request.blocks
            self._decodes += 1
            self._cached += steps - offset
            for context in self._windowed:
                context.add(steps - offset, steps)

    def _take_in(self, request: Request, tokens: int, outcome: Outcome) -> None:
        """A chunk was computed, perhaps with drafts, of which only those that proved right count."""
        verified = outcome.counts.get(request) if outcome.counts else None
        if request.advance(tokens if verified is None else 1):
            if request.first_token is None:
                request.first_token = outcome.now
            request.sampled(1)
            if verified is not None:
                request.sampled(verified - 1)
                request.advance(verified - 1)
        if request.shareable:
            self._publish(request)

    def _grow(self, bucket: Mapping[Request, array[int]]) -> None:
        """One more block for each; the one before it is full, so that others may share it."""
        if self._sharing:
            for request in bucket:
                if request.shareable:
                    self._publish(request)
        for _ in map(array.append, bucket.values(), self.pool.take(len(bucket))):
            pass

    def _preempt(self) -> Request:
        """The last to be admitted gives up its blocks and waits, first of all."""
        request = self.running.pop()
        self._orders.pop()
        self._leave(request)
        request.reset()
        request.state = _WAITING
        self.waiting.appendleft(request)
        self.preemptions += 1
        return request

    def _admit(self, chunks: list[tuple[Request, int]], budget: int) -> int:
        """Waiting requests join in order while slots, tokens and blocks last; the tokens that are left."""
        pool, waiting, running = self.pool, self.waiting, self.running
        while waiting and budget and len(running) < self.max_running:
            request = waiting[0]
            shared = self._match(request) if request.shareable else ()
            length = request.length
            blocks = pool.acquire(shared, -(-length // self.block_tokens) - len(shared))
            if blocks is None:
                break
            waiting.popleft()
            request.blocks = blocks
            hit = request.received
            if shared:
                request.published = len(shared)
                hit = max(len(shared) * self.block_tokens, hit)
            if hit:
                request.advance(hit)
            if not request.preemptions and not request.received:
                request.hit_tokens = hit
                self.hit_tokens += hit
                self.prompt_tokens += request.prompt_length
            request.state = _RUNNING
            self._admissions += 1
            request.order = self._admissions
            running.append(request)
            self._orders.append(self._admissions)
            count = length - hit if length - hit < budget else budget
            chunks.append((request, count))
            budget -= count
        return budget

    def _match(self, request: Request) -> Sequence[int]:
        """The longest cached prefix, in whole blocks, that leaves at least one token to compute."""
        shared: list[int] = []
        for index in range((request.length - 1) // self.block_tokens):
            key = request.key(index, self.block_tokens)
            block = None if key is None else self.pool.find(key)
            if block is None:
                break
            shared.append(block)
        return shared

    def cached_tokens(self, step: Step) -> tuple[int, ...]:
        """How many each caught-up request has before the step, in running order."""
        steps = self._count.steps
        return tuple([steps - request.offset for request in step.decoding()])

    def cached_blocks(self, request: Request) -> int:
        """How many of its leading blocks are in the cache now."""
        return len(self._match(request)) if request.shareable and self.prefix_reuse else 0

    def _publish(self, request: Request) -> None:
        """Offer each full block once for sharing."""
        begin, full = request.published, request.computed // self.block_tokens
        if begin < full and (keys := request.keys(begin, full, self.block_tokens)):
            request.published += len(keys)
            self.pool.name(request.blocks[begin : request.published], keys)

    def _repeatable(self, budget: int) -> int:
        """How many such steps can follow each other before the next could differ in more than its context."""
        if self.waiting and self.waiting[0].shareable and budget and len(self.running) < self.max_running:
            return 1  # what is cached, and so whether it fits, may change
        repeat = 1 + self.block_tokens * (self.pool.free // self._decodes)
        for context in self._windowed:
            steady = context.steady(self._count.steps)
            if steady is not None:
                repeat = min(repeat, steady)
        return repeat

    def _drop_aborted(self) -> None:
        for request in self._aborted:
            self._end(request)
        self._aborted.clear()

    def _end(self, request: Request) -> None:
        place = bisect_left(self._orders, request.order)
        del self.running[place], self._orders[place]
        self._leave(request)
        request.state = _ENDED

    def _held(self, request: Request) -> int:
        """How many blocks a request has while no step is under way."""
        return -(-(request.computed if request.caught_up else request.length) // self.block_tokens)

    def _number_blocks(self) -> None:
        """From now on it matters which block is whose."""
        tables = self.pool.number(map(self._held, self.running))
        for request, blocks in zip(self.running, tables, strict=True):
            request.blocks = blocks
            if request.caught_up:
                self._buckets[request.offset % self.block_tokens][request] = blocks

    def _leave(self, request: Request) -> None:
        """Give up the place among the caught-up requests, and the blocks; full ones stay to be found."""
        counted = self.pool.counted
        if counted:
            self.pool.free += self._held(request)
        if request.caught_up:
            self._decodes -= 1
            del self._buckets[request.offset % self.block_tokens][request]
            cached = request.settle()
            self._cached -= cached
            for context in self._windowed:
                context.remove(cached, self._count.steps)
        if counted:
            return
        if request.shareable:
            self._publish(request)
        self.pool.release(request.blocks, request.published)
        request.blocks = NO_BLOCKS
        request.published = 0

    def check(self) -> None:
        """Assert the invariants S1 to S8 of docs/scheduler.md, and those of the pool."""
        self.pool.check([request.blocks for request in self.running])
        everyone = [*self.waiting, *self.running]
        assert len(set(everyone)) == len(everyone), "S1: no request is in two places"
        assert all(r.state is State.WAITING and not r.blocks and not r.computed for r in self.waiting), (
            "S2: waiting requests hold nothing"
        )
        assert all(r.state is State.RUNNING for r in self.running), "S2: running requests run"
        assert [r.order for r in self.running] == sorted(set(self._orders)), "S3: running order"
        caught_up = [request for request in self.running if request.caught_up]
        assert caught_up == self.running[: self._decodes], "S4: caught-up requests stand first"
        assert len(self.running) <= self.max_running, "S5: no more run than may"
        if self._step is not None:
            counted = self._step.decodes + sum(count for _, count in self._step.chunks)
            assert 0 < counted == self._step.tokens <= self.max_step_tokens, "S5: the budget holds"
            assert [r for r, _ in self._step.chunks] == self.running[self._decodes :], "S4: chunks stand last"
        else:
            behind = [request for request in self.running if request.length - request.computed > 1]
            assert len(behind) <= 1, "S4: at most one is part of the way"
            assert self.drafts or len(self.running) - self._decodes <= 1, "S4: the others are caught up"
        for request in self.running:
            assert 0 <= request.computed < request.length, "S6: computed stays behind what is known"
            assert not request.tokens or len(request.tokens) == request.length, "S6: tokens are what is known"
            room = len(request.blocks) * self.block_tokens
            runs = self._step is not None and (self._step.decodes or not request.caught_up)
            needed = request.length if runs else request.computed
            assert self.pool.counted or needed <= room < request.length + self.drafts + self.block_tokens, (
                "S7: blocks are what it needs"
            )
        for residue, bucket in enumerate(self._buckets):
            members = [r for r in caught_up if r.offset % self.block_tokens == residue]
            assert list(bucket) == members, "S8: buckets hold the caught-up requests in running order"
        assert self._cached == sum(r.computed for r in caught_up), "S8: context sums are sums"
        for context in self._windowed:
            cached = [min(r.computed, context.window) for r in caught_up]
            assert context.total == sum(cached), "S8: context sums are sums"
            assert context.growing == sum(c < context.window for c in cached), "S8: growth is exact"
