"""Plain safetensors files, written and read with checks.

Written by hand rather than with the safetensors package, because a checkpoint needs what that does not give: every
byte goes through one descriptor that is fsynced and whose errors are seen, checksums are taken on the way, and
nothing is held twice. The reader is stricter than the format asks: it refuses duplicate names, gaps, overlaps and
lying sizes before it allocates.

NumPy has no bfloat16: a uint16 array stands for bfloat16 bit patterns, in both directions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.errors import CheckpointError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 8 << 20  # bytes per write, so that hashing works on data that is still in the cache
_MAX_HEADER = 100 << 20


class HashedFile:
    """A new file that knows the size and the sha256 of what was written; closed only after fsync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        """Writes all of `data`; a short write is continued, an error is raised."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._sha256.update(piece)
            while piece:
                written = os.write(self._descriptor, piece)
                self.size += written
                piece = piece[written:]

    def close(self) -> dict[str, Any]:
        """Brings the file to the disk and returns its entry in the manifest."""
        os.fsync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        return {"name": self.path.name, "size": self.size, "sha256": self._sha256.hexdigest()}

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def file_size(tensors: Mapping[str, np.ndarray]) -> int:
    """Bytes that `write_tensors` will write."""
    return len(_header(_layout(tensors))) + sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes a safetensors file. Returns the file's entry and one per tensor (with its crc32) for the manifest."""
    layout = _layout(tensors)
    entries = []
    with HashedFile(path) as file:
        file.write(_header(layout))
        for name in layout:
            data = np.ascontiguousarray(tensors[name])
            raw = memoryview(data.reshape(-1).view(np.uint8)) if data.size else memoryview(b"")
            crc = 0
            for start in range(0, len(raw), _PIECE):
                piece = raw[start : start + _PIECE]
                crc = zlib.crc32(piece, crc)
                file.write(piece)
            entries.append(
                {
                    "file": path.name,
                    "name": name,
                    "dtype": layout[name]["dtype"],
                    "shape": layout[name]["shape"],
                    "crc32": crc,
                }
            )
        return file.close(), entries


def _layout(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    layout, offset = {}, 0
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = _NAMES.get(tensor.dtype.newbyteorder("<") if tensor.dtype.itemsize > 1 else tensor.dtype)
        if dtype is None:
            raise CheckpointError(f"tensor {name!r} has dtype {tensor.dtype}; a checkpoint holds {', '.join(DTYPES)}")
        end = offset + tensor.nbytes
        layout[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    return layout


def _header(layout: Mapping[str, Any]) -> bytes:
    # `format` is what transformers looks for before it loads a file
    text = json.dumps({"__metadata__": {"format": "pt"}, **layout}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file; a link, FIFO or device is refused, and so is a file above `limit` bytes."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise CheckpointError(f"{path.name} has {size} bytes, at most {limit} were expected")
        return file.read()


def open_regular(path: Path) -> int:
    """A descriptor of the regular file at `path`; never follows a link and never waits for a FIFO."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path.name} is not a regular file")
    return descriptor


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name (BF16 as uint16). Raises CheckpointError."""
    return _read(path, None, None)


def read_hashed_tensors(path: Path, crcs: Mapping[str, int] | None = None) -> tuple[dict[str, np.ndarray], str]:
    """As `read_tensors`, and the sha256 of the file.

    `crcs`: crc32 of every tensor; a tensor that differs is refused by its name. None checks none.
    """
    sha256 = hashlib.sha256()
    return _read(path, crcs, sha256), sha256.hexdigest()


def _read(path: Path, crcs: Mapping[str, int] | None, sha256: Any) -> dict[str, np.ndarray]:
    """Hashes only what somebody asks for: that takes several times as long as reading a file that is in memory."""
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = _read_exactly(file, 8, path)
        length = int.from_bytes(prefix, "little")
        if length > _MAX_HEADER or length > size - 8:
            raise CheckpointError(f"{path.name}: the header claims {length} bytes, the file has {size}")
        header = _read_exactly(file, length, path)
        if sha256 is not None:
            sha256.update(prefix)
            sha256.update(header)
        layout = parse_header(bytes(header), size - 8 - length, path.name)
        if crcs is not None and set(crcs) != set(layout):
            odd = sorted(set(crcs) ^ set(layout))[0]
            raise CheckpointError(f"{path.name}: tensor {odd!r} is in the manifest or in the file, but not in both")
        tensors = {}
        for name, entry in sorted(layout.items(), key=lambda item: item[1]["data_offsets"]):
            tensor = np.empty(entry["shape"], DTYPES[entry["dtype"]])
            crc = _fill(file, tensor, path, sha256, with_crc=crcs is not None)
            if crcs is not None and crc != crcs[name]:
                raise CheckpointError(f"{path.name}: tensor {name!r} is altered (its crc32 differs from the manifest)")
            tensors[name] = tensor
    return tensors


def _fill(file: Any, tensor: np.ndarray, path: Path, sha256: Any, with_crc: bool) -> int:
    raw = memoryview(tensor.reshape(-1).view(np.uint8)) if tensor.size else memoryview(b"")
    crc, start = 0, 0
    while start < len(raw):
        count = file.readinto(raw[start : start + _PIECE])
        if not count:
            raise CheckpointError(f"{path.name} ends too early")
        piece = raw[start : start + count]
        if with_crc:
            crc = zlib.crc32(piece, crc)
        if sha256 is not None:
            sha256.update(piece)
        start += count
    return crc


def _read_exactly(file: Any, count: int, path: Path) -> bytes:
    data = b""
    while len(data) < count:
        piece = file.read(count - len(data))
        if not piece:
            raise CheckpointError(f"{path.name} ends too early")
        data += piece
    return data


def parse_header(header: bytes, data_size: int, file_name: str) -> dict[str, dict[str, Any]]:
    """Checks a safetensors header against the size of the data; returns {name: {dtype, shape, data_offsets}}."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise CheckpointError(f"{file_name}: the header holds a name twice")
        return dict(pairs)

    try:
        layout = json.loads(header.decode("utf-8"), object_pairs_hook=refuse_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise CheckpointError(f"{file_name}: the header is not JSON") from None
    if not isinstance(layout, dict):
        raise CheckpointError(f"{file_name}: the header is not a JSON object")
    layout.pop("__metadata__", None)
    intervals = []
    for name, entry in layout.items():
        if (
            not isinstance(entry, dict)
            or set(entry) != {"dtype", "shape", "data_offsets"}
            or entry["dtype"] not in DTYPES
        ):
            raise CheckpointError(f"{file_name}: the header's entry of tensor {name!r} is malformed")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2):
            raise CheckpointError(f"{file_name}: the header's entry of tensor {name!r} is malformed")
        if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[entry["dtype"]].itemsize:
            raise CheckpointError(f"{file_name}: shape and size of tensor {name!r} contradict each other")
        intervals.append(offsets)
    end = 0
    for first, last in sorted(intervals):
        if first != end:
            raise CheckpointError(f"{file_name}: the tensors overlap or leave gaps")
        end = last
    if end != data_size:
        raise CheckpointError(f"{file_name}: the tensors take {end} bytes, the file holds {data_size}")
    return layout


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
