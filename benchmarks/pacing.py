"""How well a predicted server keeps its own time: streams at once, against the same load in virtual time.

    python benchmarks/pacing.py --streams 200,1000

starts `membound serve MODEL --on HARDWARE`, opens all streams together, and compares the mean TPOT that the
client saw with the one that `membound simulate` gives for the same burst: within 5 % up to 200 streams,
and beyond the server says by how much it lags.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

ASKED, UP_TO = 0.05, 200  # share of the prediction within which TPOT is asked to be, up to so many streams
MEMBOUND = [sys.executable, "-m", "membound.cli"]


async def stream(url: str, number: int, prompt: str, tokens: int) -> tuple[float, float]:
    """(TTFT, TPOT) of one stream; the client reads in large pieces, so as not to be the bottleneck."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    fields = {"prompt": f"{number} {prompt}", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    sent = time.perf_counter()
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    first = last = 0.0
    while True:
        piece = await reader.read(1 << 16)
        assert piece, "the server closed a stream"
        now = time.perf_counter()
        if b'"text":' in piece:
            first = first or now
            last = now
        if b"[DONE]" in piece:
            writer.close()
            return first - sent, (last - first) / (tokens - 1)


def gauge(url: str, name: str) -> float:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^(?:membound:)?{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-70B")
    parser.add_argument("--on", default="4xh100-sxm")
    parser.add_argument("--streams", default="200,1000", help="at once; several runs, with commas")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    asked = parser.parse_args()
    for streams in map(int, asked.streams.split(",")):
        measure(asked, streams)


def measure(asked: argparse.Namespace, streams: int) -> None:
    """So many streams at once, in one line."""
    shape = ["--prompt", str(asked.prompt_tokens), "--output", str(asked.tokens)]
    simulated = subprocess.run(
        [*MEMBOUND, "simulate", asked.model, "--on", asked.on, *shape, "--concurrency", str(streams),
         "--requests", str(streams), "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    predicted = json.loads(simulated.stdout)
    command = [*MEMBOUND, "serve", asked.model, "--on", asked.on, "--port", "0", "--max-queue", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, "the server did not start"
        url = found[0]
        prompt = " ".join(["word"] * (asked.prompt_tokens - 1))

        async def all_streams() -> list[tuple[float, float]]:
            return await asyncio.gather(
                *(stream(url, number, prompt, asked.tokens) for number in range(streams))
            )

        asyncio.run(stream(url, -1, prompt, 2))
        cpu = gauge(url, "process_cpu_seconds_total")
        began = time.perf_counter()
        times = asyncio.run(all_streams())
        seconds = time.perf_counter() - began
        lag = {name: gauge(url, name) for name in ("pacing_lag_seconds", "delivery_lag_seconds")}
        cpu = gauge(url, "process_cpu_seconds_total") - cpu
        server.terminate()
    tpot = statistics.mean(tpot for _, tpot in times)
    ttft = statistics.mean(ttft for ttft, _ in times)
    expected = predicted["tpot_s"]["mean"]
    within = "yes" if abs(tpot / expected - 1) <= ASKED else "NO"
    verdict = f"; asked: within {ASKED:.0%}: {within}" if streams <= UP_TO else ""
    print(
        f"{streams} streams: TPOT {tpot * 1e3:.2f} ms, predicted {expected * 1e3:.2f} ms"
        f" ({tpot / expected - 1:+.1%}{verdict}); TTFT {ttft * 1e3:.0f} ms, predicted"
        f" {predicted['ttft_s']['mean'] * 1e3:.0f} ms; {streams * asked.tokens / seconds:.0f} tokens/s,"
        f" server CPU {cpu / seconds:.0%}; lag at the end: pacing {lag['pacing_lag_seconds'] * 1e3:.1f} ms,"
        f" delivery {lag['delivery_lag_seconds'] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
