"""The scheduler in its plain form: it visits every running request in every step, one step at a time.

The same policy, written from the rules and without any of the fast form's devices: no buckets, no step count,
no lazy free list, reference counts on every block. Slow, and the oracle of what the fast form decides.
"""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field

Key = Callable[[int], Hashable | None]


@dataclass(eq=False)
class OracleRequest:
    id: Hashable
    length: int
    key: Key
    computed: int = 0
    published: int = 0
    blocks: list[int] = field(default_factory=list)
    samples: bool = False  # whether it has computed all that it knew and sampled


@dataclass
class OracleStep:
    chunks: list[tuple[Hashable, int]]
    decoding: list[Hashable]
    preempted: list[Hashable]
    hits: list[int]  # blocks found, for each request that joined
    tables: dict[Hashable, list[int]]
    free: list[int]  # in the order in which they would be taken


class OracleScheduler:
    def __init__(self, blocks: int, max_step_tokens: int, max_running: int, block_tokens: int) -> None:
        self.free = list(range(blocks))
        self.users = [0] * blocks
        self.names: list[Hashable | None] = [None] * blocks
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.block_tokens = block_tokens
        self.waiting: list[OracleRequest] = []
        self.running: list[OracleRequest] = []
        self.aborted: list[OracleRequest] = []
        self.step: list[tuple[OracleRequest, int]] = []

    def add(self, request: OracleRequest) -> None:
        self.waiting.append(request)

    def abort(self, request: OracleRequest) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.running and request not in self.aborted:
            self.aborted.append(request)

    def schedule(self) -> OracleStep | None:
        self.drop_aborted()
        step: list[tuple[OracleRequest, int]] = []
        preempted: list[OracleRequest] = []
        budget = self.max_step_tokens
        while sum(self.need(request) for request in self.running) > len(self.free):
            victim = self.running.pop()
            self.release(victim)
            victim.computed, victim.samples = 0, False
            self.waiting.insert(0, victim)
            preempted.append(victim)
        for request in self.running:
            if self.need(request):
                self.publish(request)
        for request in self.running:
            self.take(request)
            count = min(request.length - request.computed, budget)
            step.append((request, count))
            budget -= count
        hits = []
        while not preempted and self.waiting and budget and len(self.running) < self.max_running:
            request = self.waiting[0]
            found = self.match(request)
            kept_free = [block for block in self.free if block not in found]
            if -(-request.length // self.block_tokens) - len(found) > len(kept_free):
                break
            self.waiting.pop(0)
            self.running.append(request)
            self.free = kept_free
            for block in found:
                self.users[block] += 1
            request.blocks = list(found)
            request.published = len(found)
            request.computed = len(found) * self.block_tokens
            self.take(request)
            hits.append(len(found))
            count = min(request.length - request.computed, budget)
            step.append((request, count))
            budget -= count
        if not step:
            return None
        self.step = step
        return OracleStep(
            [(request.id, count) for request, count in step if not request.samples],
            [request.id for request, _ in step if request.samples],
            [request.id for request in preempted],
            hits,
            {request.id: list(request.blocks) for request in self.running},
            list(self.free),
        )

    def commit(self, ended: Collection[Hashable]) -> list[Hashable]:
        for request, count in self.step:
            request.computed += count
            if not request.samples:
                self.publish(request)
            if request.computed == request.length:
                request.length += 1
                request.samples = True
        self.drop_aborted()
        gone = [request for request in self.running if request.id in ended]
        for request in gone:
            self.end(request)
        return [request.id for request in gone]

    def drop_aborted(self) -> None:
        for request in self.aborted:
            self.end(request)
        self.aborted = []

    def end(self, request: OracleRequest) -> None:
        self.running.remove(request)
        self.release(request)

    def need(self, request: OracleRequest) -> int:
        """Blocks that it lacks for all that it knows."""
        return -(-request.length // self.block_tokens) - len(request.blocks)

    def take(self, request: OracleRequest) -> None:
        for _ in range(self.need(request)):
            block = self.free.pop(0)
            self.names[block] = None
            self.users[block] = 1
            request.blocks.append(block)

    def match(self, request: OracleRequest) -> list[int]:
        found: list[int] = []
        for index in range((request.length - 1) // self.block_tokens):
            key = request.key(index)
            if key is None or key not in self.names:
                break
            found.append(self.names.index(key))
        return found

    def publish(self, request: OracleRequest) -> None:
        while request.published < request.computed // self.block_tokens:
            key = request.key(request.published)
            if key is None:
                break
            if key not in self.names:
                self.names[request.blocks[request.published]] = key
            request.published += 1

    def release(self, request: OracleRequest) -> None:
        self.publish(request)
        for block in reversed(request.blocks):
            self.users[block] -= 1
            if not self.users[block]:
                self.free.append(block)
        request.blocks = []
        request.published = 0
