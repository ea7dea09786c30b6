"""A worker's side of the line: one JSON command per line in, one JSON answer per line out."""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

# Libraries try optional imports by names that files here have too, such as `kernels`.
sys.path.remove(str(Path(__file__).parent))


def serve(operations: dict[str, Callable[..., dict[str, object]]]) -> None:
    """Answer until standard input ends; a failure is answered as {"error": one line}.

    What a library prints on standard output goes to standard error, where it cannot mix with the answers.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = operations[command.pop("op")](**command)
        except Exception as error:
            lines = [text for text in str(error).splitlines() if text.strip()] or [repr(error)]
            answer = {"error": lines[-1].strip()}
        print(json.dumps(answer), file=answers)


def peak() -> dict[str, object]:
    """The most memory that this process has had resident."""
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
