"""Arrays that are computed once and kept in a state's folder, each with a record of what it was computed from.

The record of NAME.npy is NAME.made.json. A file without a record is computed anew, unless it may have been given: by a
pack for a GPU, or by a state of before there were records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from sc_runtime.files import replacing, write_atomically

SAMPLED = 64  #: rows of a large array that its digest covers, evenly chosen, besides its shape: others go unnoticed

Sources = Mapping[str, str]  #: what an array is computed from: the name of each source and its digest


def digest_rows(array: np.ndarray) -> str:
    """A digest of an array's type, shape and some of its rows."""
    chosen = np.arange(min(SAMPLED, len(array))) * len(array) // max(min(SAMPLED, len(array)), 1)
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    found.update(np.ascontiguousarray(array[chosen]).tobytes())
    return found.hexdigest()


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """A digest of the weights of a network, by their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().float().numpy().tobytes())
    return found.hexdigest()


def locate_record(path: Path) -> Path:
    return path.with_suffix(".made.json")


def is_current(path: Path, sources: Sources, may_be_given: bool = False) -> bool:
    """Whether `path` exists and was computed from these sources.

    may_be_given: whether it counts as current without a record, and with one of other kinds of sources.
    """
    record = locate_record(path)
    found = json.loads(record.read_text()) if record.exists() else {}
    if not path.exists() or set(found) != set(sources):
        return path.exists() and may_be_given
    return bool(found == dict(sources))


def cached(path: Path, compute: Callable[[Path], None], sources: Sources, may_be_given: bool = False) -> np.ndarray:
    """The array in `path`. If there is none, or one of other sources, `compute` writes it to a temporary file first."""
    if not is_current(path, sources, may_be_given):
        drop(path)
        write_record(path, sources)  # first: an array without a record may be a given one
        with replacing(path) as temporary:
            compute(temporary)
    return np.load(path, mmap_mode="c")  # never written to; torch wants arrays that could be


def write_record(path: Path, sources: Sources) -> None:
    """Record that `path` is computed from `sources`."""
    write_atomically(locate_record(path), json.dumps(dict(sources)).encode())


def drop(path: Path) -> None:
    """Remove what is kept in `path`, and its record."""
    path.unlink(missing_ok=True)
    locate_record(path).unlink(missing_ok=True)
