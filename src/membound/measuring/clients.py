"""A load sent by one client in this process, or by several processes where one is the bottleneck."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import NamedTuple

from membound.errors import RunError
from membound.measuring import fine_loop
from membound.measuring.counting import load_tokenizer, plain_count
from membound.measuring.http import Connect, Endpoint, Pool, connect
from membound.measuring.load import Load, Prompts, Share
from membound.measuring.overhead import Overhead, Watch
from membound.measuring.prompts import Given, Made, Vocabulary
from membound.measuring.record import Record
from membound.measuring.sender import Asking, Sender
from membound.workloads.arrivals import Workload
from membound.workloads.shares import share

REPORT_S = 0.25
ALL = Share()
STARTING_S = 0.05  # from everyone being ready to the first possible arrival


@dataclass(frozen=True)
class Job:
    """All that a client process must know; it can be sent to one."""

    where: Endpoint
    asking: Asking
    workload: Callable[[], Workload]
    prompts: Vocabulary | Given
    salt: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None  # to count outputs where the server does not
    duration_s: float | None = None


class Progress(NamedTuple):
    """How far one client is."""

    elapsed_s: float = 0.0
    sent: int = 0
    in_flight: int = 0
    ended: int = 0
    failed: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Run:
    """What was measured."""

    records: Sequence[Record]  # in order of their numbers
    overheads: Sequence[Overhead]  # of each client
    wall_s: float
    interrupted: bool = False


Show = Callable[[Progress], None]


def run_job(job: Job, clients: int = 1, show: Show = lambda progress: None) -> Run:
    """Send it all; `show` is called a few times a second. An interrupt ends it early, with what there is."""
    _allow_connections()
    if clients == 1:
        run = fine_loop.run(drive(job, show=show))
    else:
        run = _run_in_processes(job, clients, show)
    return Run(sorted(run.records, key=lambda r: r.number), run.overheads, run.wall_s, run.interrupted)


def _allow_connections() -> None:
    """As many open sockets as the system lets this process have: each request under way is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def drive(
    job: Job,
    part: Share = ALL,
    *,
    begin: float | None = None,
    show: Show = lambda progress: None,
    connect: Connect = connect,
) -> Run:
    """One client's part in this process. Cancelled, it returns what there is."""
    loop = asyncio.get_running_loop()
    start = loop.time() + STARTING_S if begin is None else begin
    pool = Pool(job.where, job.headers, connect)
    count = plain_count(load_tokenizer(job.tokenizer)) if job.tokenizer else None
    sender = Sender(pool, job.asking, start, count)
    workload = share(job.workload(), part.index, part.of)
    failed = output_tokens = 0

    def ended(record: Record) -> None:
        nonlocal failed, output_tokens
        failed += not record.succeeded
        output_tokens += record.output_tokens

    load = Load(
        workload.begin(),
        _prompts(job, workload),
        sender,
        begin=start,
        duration_s=job.duration_s,
        share=part,
        ended=ended,
    )

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            now = max(0.0, loop.time() - start)
            show(Progress(now, load.sent, sender.in_flight, len(load.records), failed, output_tokens))

    watch, reporting = Watch(), loop.create_task(report())
    interrupted = False
    try:
        await load.run()
    except asyncio.CancelledError:
        interrupted = True
    finally:
        reporting.cancel()
        pool.close()
    return Run(load.records, [watch.stop()], max(0.0, loop.time() - start), interrupted)


def _prompts(job: Job, workload: Workload) -> Prompts:
    if isinstance(job.prompts, Given):
        return job.prompts
    return Made(job.prompts, workload.key_tokens, job.salt, chat=job.asking.chat)


def _run_in_processes(job: Job, clients: int, show: Show) -> Run:
    """Fresh processes; all begin at the same moment of the machine's monotonic clock."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Pipe] = []
    processes = []
    for index in range(clients):
        ours, theirs = context.Pipe()
        process = context.Process(target=_client, args=(theirs, job, Share(index, clients)), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return _gather(pipes, show)
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def _gather(pipes: Sequence[Pipe], show: Show) -> Run:
    try:
        for pipe in pipes:
            pipe.recv()  # ready
        begin = time.monotonic() + STARTING_S
        for pipe in pipes:
            pipe.send(begin)
        parts: dict[int, Run] = {}
        places: dict[object, int] = {pipe: place for place, pipe in enumerate(pipes)}
        latest = [Progress()] * len(pipes)
        while len(parts) < len(pipes):
            try:
                for ready in wait([pipe for place, pipe in enumerate(pipes) if place not in parts]):
                    place = places[ready]
                    told = pipes[place].recv()
                    if isinstance(told, Run):
                        parts[place] = told
                    else:
                        latest[place] = told
                show(_together(latest))
            except KeyboardInterrupt:
                for pipe in pipes:
                    pipe.send("stop")
    except (EOFError, BrokenPipeError):
        raise RunError("a client process ended before its work: start with --clients 1") from None
    runs = list(parts.values())
    return Run(
        [record for run in runs for record in run.records],
        [overhead for run in runs for overhead in run.overheads],
        max(run.wall_s for run in runs),
        any(run.interrupted for run in runs),
    )


def _together(each: Sequence[Progress]) -> Progress:
    elapsed, *counts = zip(*each, strict=True)
    return Progress(max(elapsed), *(int(sum(column)) for column in counts))


def _client(pipe: Pipe, job: Job, part: Share) -> None:
    """A client process: says that it is ready, hears when to begin, then reports until it is done."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and says stop
    _allow_connections()
    pipe.send("ready")
    begin = pipe.recv()

    async def main() -> Run:
        loop = asyncio.get_running_loop()
        driving = loop.create_task(drive(job, part, begin=begin, show=pipe.send))

        def stop() -> None:  # told to, or the parent is gone
            loop.remove_reader(pipe.fileno())
            driving.cancel()

        loop.add_reader(pipe.fileno(), stop)
        return await driving

    pipe.send(fine_loop.run(main()))
