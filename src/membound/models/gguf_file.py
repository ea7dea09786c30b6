"""The GGUF container: metadata, and where each tensor's bytes lie, by memory map.

The format is ggml's (docs/gguf.md of that project). The `gguf` library reads it too, but takes tens of
seconds for a vocabulary of 262,144 tokens, since it keeps every string as NumPy arrays; its constants are
used here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from membound.errors import InputError
from membound.models.conversion import Conversion
from membound.models.graph import tensor_bytes

SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
VERSIONS = (2, 3)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in its file: the length of a row last in `shape`; `data` is (rows, row bytes) or (bytes,).

    With a `conversion`, `type` is what the data becomes.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    conversion: Conversion | None = None


@dataclass(frozen=True, eq=False)
class GgufFile:
    """Metadata as plain Python values, and the tensors in file order."""

    metadata: dict[str, Any]
    tensors: list[StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """Reads one GGUF file; raises InputError for a file that is missing, damaged or of an unknown kind."""
    file = map_file(path)
    reader = _Reader(file, path)
    try:
        return reader.read()
    except (struct.error, IndexError):
        raise InputError(f"{path}: the file ends within its header: download it again") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: text in the header is not UTF-8: the file is damaged") from None


def map_file(path: Path) -> mmap:
    """The bytes of a file, memory-mapped read-only; raises InputError where there are none."""
    try:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"{path} is empty: download it again") from None


def stored_tensor(
    path: Path,
    file: mmap,
    begin: int,
    name: str,
    kind: GGMLQuantizationType,
    shape: tuple[int, ...],
) -> StoredTensor:
    """The tensor at byte `begin` of a mapped file; raises InputError where it cannot lie there."""
    block = GGML_QUANT_SIZES[kind][0]
    if not shape or min(shape) <= 0:
        raise InputError(f"{path}: tensor {name} has shape {shape}: the file is damaged")
    if shape[-1] % block:
        raise InputError(
            f"{path}: rows of tensor {name} have {shape[-1]} elements, not a multiple of the {block} "
            f"in a block of {kind.name}"
        )
    end = begin + tensor_bytes(kind, shape)
    if end > len(file):
        raise InputError(f"{path}: tensor {name} reaches beyond the end of the file: download it again")
    data = np.frombuffer(file, np.uint8, end - begin, begin)
    return StoredTensor(name, kind, shape, data.reshape(shape[0], -1) if len(shape) == 2 else data)


class _Reader:
    def __init__(self, file: mmap, path: Path) -> None:
        self.file = file
        self.path = path
        self.offset = 0

    def read(self) -> GgufFile:
        if self.scalar("<I") != GGUF_MAGIC:
            raise InputError(f"{self.path} is not a GGUF file")
        version = self.scalar("<I")
        if version not in VERSIONS:
            hint = "big-endian files are" if version & 0xFFFF == 0 else f"version {version} is"
            raise InputError(f"{self.path}: GGUF {hint} not supported (supported: 2 and 3, little-endian)")
        tensor_count, key_count = self.scalar("<Q"), self.scalar("<Q")
        metadata = {}
        for _ in range(key_count):
            key = self.string()
            metadata[key] = self.value(self.value_type(key), key)
        places = [self.tensor_place() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise InputError(f"{self.path}: general.alignment {alignment!r} is not a power of two")
        start = -(-self.offset // alignment) * alignment
        return GgufFile(metadata, [self.tensor(start, *place) for place in places])

    def scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.file, self.offset)
        self.offset += struct.calcsize(layout)
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """The hot loop of opening a model: a vocabulary has hundreds of thousands."""
        unpack, file, offset = struct.Struct("<Q").unpack_from, self.file, self.offset
        size = len(file)
        found = []
        for _ in range(count):
            begin = offset + 8
            offset = begin + unpack(file, offset)[0]
            if offset > size:
                raise IndexError
            found.append(file[begin:offset].decode())
        self.offset = offset
        return found

    def value_type(self, key: str) -> GGUFValueType:
        number = self.scalar("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise InputError(f"{self.path}: {key} has the unknown value type {number}: damaged?") from None

    def value(self, kind: GGUFValueType, key: str) -> Any:
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind != GGUFValueType.ARRAY:
            return self.scalar(SCALARS[kind])
        item = self.value_type(key)
        count = self.scalar("<Q")
        if item == GGUFValueType.STRING:
            return self.strings(count)
        if item == GGUFValueType.ARRAY:
            raise InputError(f"{self.path}: {key} is an array of arrays, which is not supported")
        layout = np.dtype(SCALARS[item])
        end = self.offset + count * layout.itemsize
        if end > len(self.file):
            raise IndexError
        values = np.frombuffer(self.file, layout, count, self.offset).tolist()
        self.offset = end
        return values

    def tensor_place(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type number and offset within the data."""
        name = self.string()
        dimensions = self.scalar("<I")
        if dimensions > 4:
            raise InputError(f"{self.path}: tensor {name} has {dimensions} dimensions: the file is damaged")
        lengths = [self.scalar("<Q") for _ in range(dimensions)]
        return name, tuple(reversed(lengths)), self.scalar("<I"), self.scalar("<Q")

    def tensor(
        self, start: int, name: str, shape: tuple[int, ...], type_number: int, offset: int
    ) -> StoredTensor:
        try:
            kind = GGMLQuantizationType(type_number)
        except ValueError:
            raise InputError(
                f"{self.path}: tensor {name} has the unknown quantization type {type_number}"
            ) from None
        return stored_tensor(self.path, self.file, start + offset, name, kind, shape)
