"""What the load tester adds of its own, measured against an endpoint whose times are known.

    python benchmarks/load.py

Are TTFT, TPOT and ITL within 1 ms + 1 % of what the endpoint does; how much does the client add at 100
requests/s; does it keep up with 1,000 requests/s and 20,000 stream events/s? Endpoint and client share this
machine: a busy neighbour shows.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from membound.measuring.clients import Job, Run, run_job
from membound.measuring.http import endpoint
from membound.measuring.prompts import COMMON, Vocabulary
from membound.measuring.sender import Asking
from membound.measuring.summary import Measured
from membound.workloads.metrics import Summary
from membound.workloads.offered import Offered

WORDS = Vocabulary([f" {word}" for word in COMMON.split()], added=1)


@contextmanager
def fake_endpoint(first_s: float, gap_s: float) -> Iterator[str]:
    """Its URL; a process of its own."""
    script = Path(__file__).with_name("fake_endpoint.py")
    command = [sys.executable, str(script), "--port", "0", "--first", str(first_s), "--gap", str(gap_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()


def load(url: str, offered: Offered, clients: int = 1) -> Run:
    return run_job(Job(endpoint(url), Asking("fake"), offered.workload, WORDS, "bench"), clients)


def said(held: bool) -> str:
    return "yes" if held else "NO"


def found(measured: Measured, name: str) -> Summary:
    summary = measured.summaries[name]
    assert summary is not None, f"no request succeeded: {measured.error_kinds}"
    return summary


def accuracy(seconds: float) -> bool:
    """Medians against known times, at 20 requests/s of 50 tokens."""
    held = True
    print("  endpoint           figure   known ms   median ms     mean ms   median within 1 ms + 1 %")
    for first_s, gap_s in ((0.02, 0.005), (0.1, 0.02), (0.5, 0.05)):
        with fake_endpoint(first_s, gap_s) as url:
            offered = Offered(rate=20.0, requests=int(20 * seconds), output=50, prompt=64)
            measured = Measured(load(url, offered))
        for name, known in (("ttft_s", first_s), ("tpot_s", gap_s), ("itl_s", gap_s)):
            summary = found(measured, name)
            near = abs(summary.p50 - known) <= 0.001 + 0.01 * known
            held &= near
            print(
                f"  {first_s * 1e3:4.0f} ms, {gap_s * 1e3:3.0f} ms a token  {name[:-2].upper():5}"
                f"{known * 1e3:10.2f}{summary.p50 * 1e3:12.3f}{summary.mean * 1e3:12.3f}   {said(near)}"
            )
    return held


def added_latency(seconds: float) -> bool:
    """Median of TTFT less the endpoint's own time, at 100 requests/s."""
    known = 0.05
    with fake_endpoint(known, 0.01) as url:
        measured = Measured(load(url, Offered(rate=100.0, requests=int(100 * seconds), output=10, prompt=64)))
    added = found(measured, "ttft_s").p50 - known
    delay = found(measured, "dispatch_delay_s")
    print(
        f"\n  at 100 requests/s: {added * 1e3:.3f} ms added to TTFT (median; asked: under 1 ms: "
        f"{said(added < 0.001)}); sent {delay.p50 * 1e3:.3f} ms (p99 {delay.p99 * 1e3:.2f} ms) late; "
        f"{measured.run.overheads[0].cpu_share:.0%} of a core"
    )
    return added < 0.001


def throughput(seconds: float, clients: int) -> bool:
    """1,000 requests/s of 20 tokens each."""
    with fake_endpoint(0.05, 0.01) as url:
        offered = Offered(
            rate=1000.0, burstiness=math.inf, requests=int(1000 * seconds), output=20, prompt=64
        )
        measured = Measured(load(url, offered, clients))
    steady, ttft = measured.steady, found(measured, "ttft_s")
    assert steady is not None
    busiest = max(one.cpu_share for one in measured.run.overheads)
    held = steady.requests_per_s >= 990 and steady.output_tok_per_s >= 19_800
    print(
        f"  {clients} client process{'es' * (clients > 1)}: {steady.requests_per_s:,.0f} requests/s and "
        f"{steady.output_tok_per_s:,.0f} stream events/s (asked: 1,000 and 20,000: {said(held)}), "
        f"{measured.error_kinds or 'none'} failed;\n    TTFT {ttft.p50 * 1e3:.1f} ms (known: 50.0), dispatch "
        f"delay {found(measured, 'dispatch_delay_s').p50 * 1e3:.2f} ms; {busiest:.0%} of a core each"
    )
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    options = parser.parse_args()
    print(f"The load tester against a known endpoint; load of the machine before: {os.getloadavg()[0]:.1f}\n")
    held = [accuracy(options.seconds), added_latency(options.seconds)]
    held += [any(throughput(options.seconds, clients) for clients in (1, 2))]
    print("\n  all held" if all(held) else "\n  NOT all held")


if __name__ == "__main__":
    main()
