"""Reads a GGUF file: metadata and lazily dequantized tensors. Trusts no byte of it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every count,
length, offset and dimension is checked against the file's size before anything is allocated. Knows nothing of
architectures or tokenizers.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.errors import SourceError, UnsupportedError

SUPPORTED_TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip

_GROUP_ROWS = 128
_MAGIC = b"GGUF"
_MAX_METADATA = 65_536
_MAX_TENSORS = 262_144
_MAX_NAME_BYTES = 1_024
_MAX_STRING_BYTES = 16 * 2**20
_MAX_ARRAY_LENGTH = 16 * 2**20
_MAX_DIMS = 4
_MAX_ALIGNMENT = 65_536
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies. ``shape`` is row-major (the file stores the fastest dimension first)."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A parsed file. ``tensor_data_start`` is the offset that tensor offsets count from."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    tensor_data_start: int

    def tensor(self, name: str) -> LazyTensor:
        """The tensor, dequantized by the ``gguf`` library as its rows are read. Raises SourceError if absent."""
        if name not in self.tensors:
            raise SourceError(f"{self.path.name}: tensor {name!r} is missing; the file is incomplete")
        info = self.tensors[name]
        kind = GGMLQuantizationType[info.type_name]
        rows = info.shape[0]
        row_bytes = info.num_bytes // rows
        begin = self.tensor_data_start + info.offset

        def read(start: int, stop: int) -> F32:
            # Not mapped: pages of a map would stay in memory, and a build's peak would be the whole file.
            raw = np.fromfile(self.path, np.uint8, (stop - start) * row_bytes, offset=begin + start * row_bytes)
            if raw.size != (stop - start) * row_bytes:
                raise SourceError(f"{self.path.name}: tensor {name!r} ends early; the file changed while it was read")
            return _dequantized(raw.reshape(stop - start, -1), kind).reshape(stop - start, *info.shape[1:])

        return LazyTensor(name, info.shape, read)


def _dequantized(rows: npt.NDArray[np.uint8], kind: GGMLQuantizationType) -> F32:
    """Rows of bytes as float32. The library takes 16 rows at a time, which costs half as much again."""
    found = getattr(quants, kind.name, None)
    if found is None:  # not quantized
        return np.asarray(quants.dequantize(rows, kind), dtype=np.float32)
    groups = [rows[start : start + _GROUP_ROWS] for start in range(0, len(rows), _GROUP_ROWS)]
    return np.concatenate([np.asarray(found.dequantize_rows(group), np.float32) for group in groups])


def read_gguf(path: Path) -> GgufFile:
    """Parse a file's header. Raises SourceError for anything malformed, UnsupportedError for an unknown tensor type."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file") from error
    except ValueError as error:
        raise SourceError(f"{path.name}: the file is empty, not GGUF") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    with data:
        return _parse(path, _Cursor(path.name, data))


def _parse(path: Path, cursor: _Cursor) -> GgufFile:
    num_tensors, num_metadata = _read_preamble(cursor)
    metadata = _read_metadata(cursor, num_metadata)
    alignment = _alignment(cursor, metadata)
    infos = [_read_tensor_info(cursor) for _ in range(num_tensors)]
    start = -(-cursor.position // alignment) * alignment
    _check_layout(cursor, infos, start, alignment)
    return GgufFile(path, metadata, {info.name: info for info in infos}, start)


class _Cursor:
    """Reads little-endian values off the file and never past its end."""

    def __init__(self, name: str, data: mmap.mmap) -> None:
        self.name = name
        self.data = data
        self.size = len(data)
        self.position = 0

    def error(self, problem: str) -> SourceError:
        return SourceError(f"{self.name}: {problem} at byte {self.position}; not a usable GGUF file, fetch it again")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > self.size:
            raise self.error(f"the header wants {count} more bytes than the {self.size} that the file has")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self, limit: int) -> str:
        length = self.u64()
        if length > limit:
            raise self.error(f"a string of {length} bytes, at most {limit} are read,")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error("a string that is not UTF-8") from error

    def raw_text(self) -> str | bytes:
        """A metadata string; tokens may hold bytes that are no UTF-8, which come back as bytes."""
        length = self.u64()
        if length > _MAX_STRING_BYTES:
            raise self.error(f"a string of {length} bytes, at most {_MAX_STRING_BYTES} are read,")
        piece = self.take(length)
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            return piece

    def scalars(self, kind: int, count: int) -> npt.NDArray[Any]:
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def _read_preamble(cursor: _Cursor) -> tuple[int, int]:
    if cursor.size < 24 or cursor.take(4) != _MAGIC:
        raise SourceError(f"{cursor.name}: not a GGUF file (it does not begin with 'GGUF')")
    version = cursor.u32()
    if version not in {2, 3}:
        raise UnsupportedError(
            f"{cursor.name}: GGUF version {version} is not read; versions 2 and 3, little-endian, are"
        )
    num_tensors, num_metadata = cursor.u64(), cursor.u64()
    if num_tensors > _MAX_TENSORS or num_metadata > _MAX_METADATA:
        raise cursor.error(
            f"{num_tensors} tensors and {num_metadata} metadata keys, "
            f"at most {_MAX_TENSORS} and {_MAX_METADATA} are read,"
        )
    return num_tensors, num_metadata


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text(_MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.error(f"metadata key {key!r} twice")
        metadata[key] = _read_value(cursor)
    return metadata


def _read_value(cursor: _Cursor) -> Any:  # noqa: ANN401 - a metadata value has any of the format's types
    kind = cursor.u32()
    if kind == _STRING:
        return cursor.raw_text()
    if kind in _SCALARS:
        return cursor.scalars(kind, 1)[0].item()
    if kind != _ARRAY:
        raise cursor.error(f"a metadata value of unknown type {kind}")
    item_kind, length = cursor.u32(), cursor.u64()
    if length > _MAX_ARRAY_LENGTH:
        raise cursor.error(f"an array of {length} values, at most {_MAX_ARRAY_LENGTH} are read,")
    if item_kind == _STRING:
        if length * 8 > cursor.size - cursor.position:
            raise cursor.error(f"an array of {length} strings that the file is too short for")
        return [cursor.raw_text() for _ in range(length)]
    if item_kind not in _SCALARS:
        raise cursor.error(f"an array of values of unsupported type {item_kind}")
    return cursor.scalars(item_kind, length).tolist()


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment {alignment!r}, a power of two up to {_MAX_ALIGNMENT} is expected,")
    return alignment


def _read_tensor_info(cursor: _Cursor) -> GgufTensor:
    name = cursor.text(_MAX_NAME_BYTES)
    num_dims = cursor.u32()
    if not 1 <= num_dims <= _MAX_DIMS:
        raise cursor.error(f"tensor {name!r} with {num_dims} dimensions")
    shape = tuple(cursor.u64() for _ in range(num_dims))[::-1]
    type_id, offset = cursor.u32(), cursor.u64()
    type_name = _type_name(cursor, name, type_id)
    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    num_values = 1
    for size in shape:
        num_values *= size  # Python integers do not wrap
    if num_values == 0 or shape[-1] % block_size:
        raise cursor.error(
            f"tensor {name!r} of shape {list(shape)}, which {type_name} blocks of {block_size} cannot fill,"
        )
    if num_dims == 1 < block_size:
        raise cursor.error(f"vector {name!r} in {type_name}; only matrices are stored in blocks,")
    return GgufTensor(name, shape, type_name, offset, num_values // block_size * block_bytes)


def _type_name(cursor: _Cursor, name: str, type_id: int) -> str:
    try:
        type_name = GGMLQuantizationType(type_id).name
    except ValueError:
        type_name = f"number {type_id}"
    if type_name not in SUPPORTED_TYPES:
        raise UnsupportedError(
            f"{cursor.name}: tensor {name!r} has type {type_name}; the types read are {', '.join(SUPPORTED_TYPES)}"
        )
    return type_name


def _check_layout(cursor: _Cursor, infos: list[GgufTensor], start: int, alignment: int) -> None:
    """Every tensor inside the file, aligned, named once and overlapping no other."""
    end_of_last = 0
    names = set()
    for info in sorted(infos, key=lambda info: info.offset):
        if info.name in names:
            raise cursor.error(f"tensor {info.name!r} twice")
        names.add(info.name)
        if info.offset % alignment or info.offset < end_of_last:
            raise cursor.error(f"tensor {info.name!r} at offset {info.offset}, misaligned or overlapping another,")
        end_of_last = info.offset + info.num_bytes
        if start + end_of_last > cursor.size:
            raise SourceError(
                f"{cursor.name}: truncated: tensor {info.name!r} ends at byte {start + end_of_last}, "
                f"the file has {cursor.size}; fetch it again"
            )
