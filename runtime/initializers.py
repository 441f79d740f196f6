"""Weights of an ONNX file, mapped from disk, for a backend that builds a network anew."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import BundleError

#: Field numbers of onnx.proto on the way to a weight (ModelProto.graph, GraphProto.initializer, TensorProto's ...).
GRAPH, INITIALIZER, DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, KEY, VALUE = 7, 5, 1, 2, 8, 9, 13, 1, 2
FLOAT = 1  #: TensorProto.DataType
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  #: wire types of Protocol Buffers


class Initializers:
    """The float32 weights of the ONNX file `path`; others are left out.

    `arrays`: name -> read-only view of the file that holds it, paged in when touched. `release` gives the pages back.
    Raises BundleError for a file that is not ONNX or data that are cut short.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._maps: dict[str, mmap.mmap] = {}
        try:
            self.arrays = dict(self._read(path.read_bytes()))
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise BundleError(f"{path}: weights cannot be read ({error})", "an ONNX file beside its data") from error

    def release(self) -> None:
        """Give back the memory of all pages read so far, where the system can: touched again, they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def _read(self, model: bytes) -> Iterator[tuple[str, np.ndarray]]:
        for graph in _select(model, GRAPH):
            for tensor in _select(graph, INITIALIZER):
                if _select(tensor, DATA_TYPE) == [FLOAT]:
                    yield _select(tensor, NAME)[0].decode(), self._view(tensor)

    def _view(self, tensor: bytes) -> np.ndarray:
        shape = _select(tensor, DIMS)
        entries = {_select(entry, KEY)[0]: _select(entry, VALUE)[0] for entry in _select(tensor, EXTERNAL_DATA)}
        if not entries:
            return np.frombuffer(_select(tensor, RAW_DATA)[0], "<f4").reshape(shape)
        mapped = self._map(entries[b"location"].decode())
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(mapped, "<f4", count, int(entries.get(b"offset", 0))).reshape(shape)

    def _map(self, location: str) -> mmap.mmap:
        if location not in self._maps:
            with (self._folder / location).open("rb") as file:
                self._maps[location] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[location]


def _select(message: bytes, number: int) -> list:
    """Values of the field `number` of an encoded message: integers, or bytes of what has a length.

    See https://protobuf.dev/programming-guides/encoding. Raises IndexError where the message is cut short, ValueError
    where it is none.
    """
    values: list[int | bytes] = []
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, kind = key >> 3, key & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _read_varint(message, at)
        elif kind in (LENGTH, FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
            if kind == LENGTH:
                length, at = _read_varint(message, at)
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise IndexError("cut short")
        else:
            raise ValueError(f"wire type {kind}")
        if field == number:
            values.append(value)
    return values


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
