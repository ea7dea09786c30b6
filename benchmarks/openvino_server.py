"""A plain HTTP server around OpenVINO GenAI's continuous batching: /v1/models and streamed /v1/completions.

    python openvino_server.py MODEL PORT THREADS

The package brings no server. Its steps hold Python's lock, so the engine has a process of its own, as
vLLM's has: between steps it takes new requests, and after each it sends what came of it in one message.
"""

import asyncio
import itertools
import json
import multiprocessing
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

News = tuple[int, str, int, bool]  # a request's number, new text, new tokens, whether it has ended


def run_engine(pipe: Connection, path: str, threads: int) -> None:
    """The engine's process: says when it is ready, then steps while there is anything to do."""
    import openvino_genai
    from openvino_worker import Worker

    worker = Worker()
    worker.load(path, threads)
    pipeline = worker.pipeline
    tokenizer = pipeline.get_tokenizer()
    handles: dict[int, Any] = {}
    pipe.send("ready")
    while True:
        while pipe.poll(None if not handles else 0):
            number, prompt, most, fixed = pipe.recv()
            settings = openvino_genai.GenerationConfig()
            settings.max_new_tokens, settings.do_sample = most, False
            if fixed:
                settings.ignore_eos, settings.min_new_tokens = True, most
            handles[number] = pipeline.add_request(number, prompt, settings)
        pipeline.step()
        tokens: dict[int, list[int]] = {}
        for number, handle in handles.items():
            if handle.can_read():
                for output in handle.read().values():
                    tokens.setdefault(number, []).extend(output.generated_ids)
        texts = dict(zip(tokens, tokenizer.decode(list(tokens.values())), strict=True)) if tokens else {}
        running = openvino_genai.GenerationStatus.RUNNING
        ended = {number for number, handle in handles.items() if handle.get_status() != running}
        told = [
            (number, texts.get(number, ""), len(tokens.get(number, ())), number in ended)
            for number in handles
            if number in tokens or number in ended
        ]
        pipe.send(told)
        for number in ended:
            del handles[number]


class Engine:
    """The other end of the pipe, in the server's event loop."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.streams: dict[int, asyncio.Queue[News]] = {}
        self.numbers = itertools.count()

    def read(self) -> None:
        while self.pipe.poll():
            for news in self.pipe.recv():
                self.streams[news[0]].put_nowait(news)

    async def events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        number = next(self.numbers)
        stream = self.streams[number] = asyncio.Queue()
        self.pipe.send((number, body["prompt"], body.get("max_tokens", 16), bool(body.get("ignore_eos"))))
        count, ended = 0, False
        while not ended:
            _, text, tokens, ended = await stream.get()
            count += tokens
            choice = {"index": 0, "text": text, "finish_reason": "length" if ended else None}
            yield f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]})}\n\n"
        del self.streams[number]
        usage = {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}
        yield f"data: {json.dumps({'object': 'text_completion', 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def main() -> None:
    path, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    worker = multiprocessing.get_context("spawn").Process(
        target=run_engine, args=(theirs, path, threads), daemon=True
    )
    worker.start()
    ours.recv()  # ready
    engine = Engine(ours)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().add_reader(ours.fileno(), engine.read)
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": path, "object": "model"}]})

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(engine.events(body), media_type="text/event-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
