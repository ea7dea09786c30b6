"""A plain HTTP loop around OpenVINO GenAI's continuous batching: /v1/models and streamed /v1/completions.

    python openvino_server.py MODEL PORT THREADS

The package brings no server. One thread runs the engine's steps; after each, new tokens go to their streams.
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import openvino_genai
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from openvino_worker import Worker

Stream = asyncio.Queue[list[int] | None]


class Loop:
    """Runs the engine; streams are fed on the server's event loop."""

    def __init__(self, path: str, threads: int) -> None:
        worker = Worker()
        worker.load(path, threads)
        self.pipeline = worker.pipeline
        self.tokenizer = self.pipeline.get_tokenizer()
        self.streams: dict[Any, Stream] = {}
        self.added = 0
        self.work = threading.Condition()

    def add(self, prompt: str | list[int], settings: openvino_genai.GenerationConfig) -> Stream:
        stream: Stream = asyncio.Queue()
        with self.work:
            handle = self.pipeline.add_request(self.added, prompt, settings)
            self.added += 1
            self.streams[handle] = stream
            self.work.notify()
        return stream

    def run(self, events: asyncio.AbstractEventLoop) -> None:
        while True:
            with self.work:
                while not self.pipeline.has_non_finished_requests():
                    self.work.wait()
            self.pipeline.step()
            with self.work:
                current = list(self.streams.items())
            for handle, stream in current:
                while handle.can_read():
                    for output in handle.read().values():
                        events.call_soon_threadsafe(stream.put_nowait, list(output.generated_ids))
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    events.call_soon_threadsafe(stream.put_nowait, None)
                    with self.work:
                        del self.streams[handle]


def settings_of(body: dict[str, Any]) -> openvino_genai.GenerationConfig:
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = body.get("max_tokens", 16)
    settings.do_sample = False
    if body.get("ignore_eos"):
        settings.ignore_eos, settings.min_new_tokens = True, settings.max_new_tokens
    return settings


async def events_of(loop: Loop, body: dict[str, Any]) -> AsyncIterator[str]:
    stream = loop.add(body["prompt"], settings_of(body))
    count = 0
    while (ids := await stream.get()) is not None:
        count += len(ids)
        choice = {"index": 0, "text": loop.tokenizer.decode(ids), "finish_reason": None}
        yield f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]})}\n\n"
    last = {"index": 0, "text": "", "finish_reason": "length"}
    yield f"data: {json.dumps({'object': 'text_completion', 'choices': [last]})}\n\n"
    usage = {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}
    yield f"data: {json.dumps({'object': 'text_completion', 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    path, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    loop = Loop(path, threads)
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": path, "object": "model"}]})

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(events_of(loop, body), media_type="text/event-stream")

    @app.on_event("startup")
    async def start() -> None:
        threading.Thread(target=loop.run, args=(asyncio.get_running_loop(),), daemon=True).start()

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
