"""C from the modules that run compiled: python generate.py SOURCES OUT MODULE...

A build step of CMakeLists.txt. Types come from these modules and the standard library alone, which takes
seconds; `make lint` checks all of the code, strictly. Beside the C goes compiled.json, by which the package
knows what was compiled, and from which text (src/membound/_sources.py).
"""

import json
import os
import sys
from importlib.util import source_hash
from pathlib import Path

from mypyc.build import mypycify

GROUP = "membound.compiled"  # the library that all of them share, so that calls between them are direct
ALONE = ("--config-file=", "--follow-imports=skip", "--ignore-missing-imports", "--explicit-package-bases")


def main() -> None:
    sources, out, *modules = sys.argv[1:]
    out = os.path.abspath(out)
    os.chdir(sources)
    paths = [f"membound/{module}.py" for module in modules]
    mypycify([*ALONE, f"--cache-dir={os.devnull}", *paths], target_dir=out, group_name=GROUP)
    hashes = {path: source_hash(Path(path).read_bytes()).hex() for path in paths}
    Path(out, "compiled.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
