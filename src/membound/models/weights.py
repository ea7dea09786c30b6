"""Opens a model's weights, from GGUF or safetensors, and checks them against what its operators need.

Tensors are named as in GGUF, whatever the file. Matrices stay as they are in the file, memory-mapped, but
for types without a kernel, which are converted when asked for; vectors (norms and biases, a thousandth of
the bytes) are F32 whatever the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from membound.errors import InputError
from membound.models.architecture import Architecture
from membound.models.conversion import Conversion, conversion
from membound.models.families import build
from membound.models.gguf_file import GgufFile, StoredTensor, read_gguf
from membound.models.gguf_metadata import architecture_from_gguf
from membound.models.graph import ModelGraph, WeightTypes, tensor_bytes
from membound.models.safetensors_folder import read_safetensors_folder

Type = GGMLQuantizationType
SUPPORTED = (
    *(Type.F32, Type.F16, Type.BF16),
    *(Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0),
    *(Type.Q4_K, Type.Q5_K, Type.Q6_K),
)
CONVERTED = (Type.Q2_K, Type.Q3_K, Type.IQ4_NL, Type.MXFP4)
MOST_PARTS = 99_999  # five digits in a part's name
ROPE_DIVISORS = "rope_freqs.weight"


@dataclass(frozen=True, eq=False)
class Tensor:
    """A parameter of `shape` (rows, columns) or (elements,), as loaded in `type`.

    `stored` is (rows, row bytes) or (bytes,): as loaded, or in the file's type if there is a `conversion`.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    stored: NDArray[np.uint8]
    conversion: Conversion | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of `data`."""
        return tensor_bytes(self.type, self.shape)

    @property
    def data(self) -> NDArray[np.uint8]:
        """All bytes in `type`, (rows, row bytes) or (bytes,); converted anew each time."""
        if self.conversion is None:
            return self.stored
        return self.conversion.rows(self.stored, np.arange(self.shape[0]))

    def dequantize(self) -> NDArray[np.float32]:
        """The values, in `shape`."""
        return np.asarray(dequantize(np.asarray(self.data), self.type), np.float32).reshape(self.shape)

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows of a matrix, (len(indices), columns), without dequantizing the others."""
        if self.conversion is None:
            data = np.asarray(self.stored[indices])
        else:
            data = self.conversion.rows(self.stored, indices)
        return np.asarray(dequantize(data, self.type), np.float32)


@dataclass(frozen=True, eq=False)
class Weights:
    """An opened model. `metadata` is the GGUF file's, or the content of config.json."""

    path: Path
    architecture: Architecture
    graph: ModelGraph
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def types(self) -> WeightTypes:
        """The quantization type of each tensor."""
        return {name: tensor.type for name, tensor in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def notes(self) -> list[str]:
        """What is not as in the file, a line for each type."""
        converted = Counter(
            (t.conversion.stored, t.conversion.loaded.name, t.conversion.exact)
            for t in self.tensors.values()
            if t.conversion is not None
        )
        return [
            f"{count} of the matrices, stored in {stored}, are loaded as {loaded}, "
            + ("their values unchanged" if exact else "their values rounded to 11 bits")
            for (stored, loaded, exact), count in converted.items()
        ]


def open_weights(path: Path) -> Weights:
    """Opens a GGUF file (the first part, if split) or a folder with config.json and safetensors.

    Raises InputError, one line, for what is missing, damaged or not supported; it names the tensor or the
    setting.
    """
    if path.is_dir():
        architecture, metadata, stored = read_safetensors_folder(path)
    else:
        architecture, metadata, stored = _read_gguf_model(path)
    graph = build(architecture)
    return Weights(path, architecture, graph, metadata, _checked(graph, stored, path))


def _read_gguf_model(path: Path) -> tuple[Architecture, dict[str, Any], dict[str, StoredTensor]]:
    file = read_gguf(path)
    stored = _by_name([file, *_other_parts(path, file)], path)
    rope_divisors = stored.pop(ROPE_DIVISORS, None)
    divisors = None if rope_divisors is None else _vector(rope_divisors, path).dequantize().ravel().tolist()
    return architecture_from_gguf(file.metadata, stored.keys(), divisors), file.metadata, stored


def _other_parts(path: Path, first: GgufFile) -> list[GgufFile]:
    """The parts after the first of a split file, `name-00002-of-0000N.gguf` and so on beside it."""
    count = first.metadata.get("split.count", 1)
    if count == 1:
        return []
    if not isinstance(count, int) or not 1 < count <= MOST_PARTS:
        raise InputError(f"{path}: split.count {count!r} is not a number of parts: the file is damaged")
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if match is None or int(match[2]) != count or first.metadata.get("split.no") != 0:
        raise InputError(f"{path} is a part of a split file: open its part -00001-of-{count:05d}.gguf")
    names = [f"{match[1]}-{part:05d}-of-{match[2]}.gguf" for part in range(2, count + 1)]
    parts = [read_gguf(path.with_name(name)) for name in names]
    for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
        if part.metadata.get("split.no") != number or part.metadata.get("split.count") != count:
            raise InputError(f"{path.with_name(name)} is not part {number + 1} of {count} of {path.name}")
    return parts


def _by_name(files: list[GgufFile], path: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for tensor in (tensor for file in files for tensor in file.tensors):
        if tensor.name in stored:
            raise InputError(f"{path}: tensor {tensor.name} occurs twice")
        stored[tensor.name] = tensor
    return stored


def _checked(graph: ModelGraph, stored: Mapping[str, StoredTensor], path: Path) -> dict[str, Tensor]:
    """The tensors that the graph needs, all of them and no other."""
    tensors = {}
    for parameter in graph.params():
        tensor = stored.get(parameter.name)
        if tensor is None:
            raise InputError(f"{path}: tensor {parameter.name} is missing")
        if tensor.shape != parameter.shape:
            raise InputError(
                f"{path}: tensor {parameter.name} has shape {tensor.shape}, its model needs {parameter.shape}"
            )
        if tensor.type not in (*SUPPORTED, *CONVERTED):
            names = ", ".join(kind.name for kind in (*SUPPORTED, *CONVERTED))
            raise InputError(
                f"{path}: tensor {tensor.name} has quantization type {tensor.type.name}, "
                f"which is not supported (supported: {names})"
            )
        tensors[parameter.name] = _vector(tensor, path) if len(tensor.shape) == 1 else _matrix(tensor)
    for name in stored:
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is not known for this architecture")
    return tensors


def _matrix(stored: StoredTensor) -> Tensor:
    how = stored.conversion or conversion(stored.type, stored.data)
    return Tensor(stored.name, how.loaded if how else stored.type, stored.shape, stored.data, how)


def _vector(stored: StoredTensor, path: Path) -> Tensor:
    if stored.type not in (Type.F32, Type.F16, Type.BF16):
        raise InputError(
            f"{path}: tensor {stored.name}, a vector, has the unsupported type {stored.type.name}"
        )
    values = np.array(dequantize(np.asarray(stored.data), stored.type), np.float32)
    return Tensor(stored.name, Type.F32, stored.shape, values.view(np.uint8))
