"""Which of the compiled modules run from their sources instead.

The modules that every step passes through are compiled when membound is built; cmake/compiled.txt names them.
Their sources, installed beside them, run instead, all together, where MEMBOUND_PLAIN is set in the
environment, and in an editable install once one of them differs from what was compiled, until `make build`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

RECORD = "compiled.json"  # of the build: source files of compiled modules, and the hashes of their texts


class SourceFinder:
    """Finds the source of a compiled module before the import system finds what was compiled."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources  # by the module's name

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        from importlib.util import spec_from_file_location

        source = self._sources.get(name)
        return None if source is None else spec_from_file_location(name, source)


def finder(folders: Sequence[str], plain: bool) -> SourceFinder | None:
    """What to look modules up in first; None where those that are compiled shall run, or none is.

    `folders` are those of the package: an editable install has its sources in another one than the rest.
    """
    if len(folders) == 1 and not plain:
        return None  # what was compiled and its sources were installed together
    record = _existing(folders, RECORD)
    if record is None:
        return None
    import json
    from importlib.util import source_hash

    with open(record, encoding="utf-8") as file:
        compiled: dict[str, str] = json.load(file)
    sources, changed = {}, False
    for path, compiled_from in compiled.items():
        source = _existing(folders, path.partition("/")[2])
        if source is None:
            changed = True
            continue
        sources[path.removesuffix(".py").replace("/", ".")] = source
        if not plain and not changed:
            with open(source, "rb") as text:
                changed = source_hash(text.read()).hex() != compiled_from
    return SourceFinder(sources) if plain or changed else None


def _existing(folders: Sequence[str], path: str) -> str | None:
    places = (os.path.join(folder, *path.split("/")) for folder in folders)
    return next((place for place in places if os.path.exists(place)), None)
