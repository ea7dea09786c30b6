"""Names of models to their dimensions: a config.json, a folder, a GGUF file, or an entry of the catalog."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from membound.errors import InputError
from membound.models.architecture import Dimensions
from membound.models.config_json import dimensions_from_config
from membound.models.quantization import FORMATS, Format, Quantization

FOLDER = Path(__file__).parent / "catalog"
FLOAT_RATES = {"F32": "fp32", "F16": "bf16", "BF16": "bf16"}


@cache
def catalog() -> dict[str, Path]:
    """Names of the catalog (`organisation/name`) and their config files."""
    return {
        path.stem.replace("--", "/", 1): path
        for path in sorted(FOLDER.glob("*.json"))
        if not path.name.endswith(".hf_quant_config.json")
    }


def dimensions_of(name: str) -> Dimensions:
    """The dimensions of the model that a user names; InputError says what is wrong with it.

    `name` is a GGUF file, a folder with config.json, a config.json, or a name of the catalog, in which the
    organisation, a repeated `Meta-` and case do not matter.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return _read_gguf(path)
    if name and path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise InputError(f"{name}: the folder has no config.json")
    if path.is_file():
        return read_config(path)
    known = catalog_entry(name)
    return read_config(known) if known else dimensions_of(str(_pulled(name)))


def _pulled(name: str) -> Path:
    """A pulled model; a name that is neither pulled nor in the catalog is refused with the nearest ones."""
    from membound.models.packaged import PACKAGED  # with what it brings, only where it is needed
    from membound.models.pull import resolve_model

    if name.startswith("hf:") or name in PACKAGED:
        return resolve_model(name)
    names = {_plain(full): full for full in catalog()}
    near = [names[match] for match in difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.4)]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"no model '{name}': {hint}`membound models` lists them; or give a file")


def _read_gguf(path: Path) -> Dimensions:
    """Dimensions of a GGUF file, each tensor in the format that the file stores."""
    from membound.models.weights import open_weights  # brings the gguf library: only where there is a file

    weights = open_weights(path)
    stored = {
        name: Format(
            tensor.type.name.lower(),
            8 * tensor.nbytes / math.prod(tensor.shape),
            FLOAT_RATES.get(tensor.type.name, "int8"),  # as llama.cpp and this engine multiply
        )
        for name, tensor in weights.tensors.items()
    }
    return replace(weights.architecture, quantization=Quantization(FORMATS["bf16"], exact=stored))


def read_config(path: Path) -> Dimensions:
    """Dimensions from a config.json, with the hf_quant_config.json beside it, if there is one."""
    config = _json(path)
    name = "hf_quant_config.json" if path.name == "config.json" else f"{path.stem}.hf_quant_config.json"
    beside = path.with_name(name)
    if config.get("quantization_config") is None and beside.is_file():
        config = {**config, "quantization_config": _json(beside)}
    return dimensions_from_config(config, path.name if path.parent == FOLDER else str(path))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold an object")
    return values


def _plain(name: str) -> str:
    """A name without what people leave out: organisation, `Meta-` before Llama, `-hf`, case."""
    short = name.lower().replace("--", "/").removesuffix(".json").rsplit("/", 1)[-1]
    return re.sub(r"-hf$", "", re.sub(r"^meta-", "", short))


def catalog_entry(name: str) -> Path | None:
    """Its config file, whatever its organisation and case; None where the catalog has no such model."""
    known = catalog()
    if name in known:
        return known[name]
    matches = [path for full, path in known.items() if _plain(full) == _plain(name)]
    return matches[-1] if matches else None
