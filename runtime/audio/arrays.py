"""NumPy arrays as a source of samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError, first_line
from sc_runtime.spec import Mono

from .blocks import Samples, mix

ARRAY_CHANNELS = 64  #: most channels of an array; one with more columns probably has its axes swapped

Source = TypeVar("Source")


@runtime_checkable
class SupportsArray(Protocol):
    """An object that NumPy can convert, such as a tensor of another library in the CPU's memory."""

    def __array__(self) -> np.ndarray: ...


def convert_array(source: Source) -> Source | npt.NDArray[Any]:
    """`source` as an array if NumPy can convert it, else unchanged. Raises AudioError for a tensor that fails."""
    if isinstance(source, np.ndarray) or not isinstance(source, SupportsArray):
        return source
    try:
        return np.asarray(source)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, or one that requires gradients
        given = f"audio of type {type(source).__name__} ({first_line(error)})"
        raise AudioError(given, "an array in the CPU's memory", "tensor.detach().cpu()") from error


def check_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` [n] or [n, channels] as [n, channels]. Raises AudioError for another shape or dtype."""
    if array.dtype.kind != "f" and (array.dtype.kind, array.dtype.itemsize) not in (("i", 2), ("i", 4)):
        raise AudioError(f"array of {array.dtype}", "int16, int32 or floats", "scale other integers yourself")
    if array.ndim not in (1, 2) or array.size == 0 or array.shape[1:] > (ARRAY_CHANNELS,):
        shape = list(array.shape)
        raise AudioError(f"array of shape {shape}", f"[samples] or [samples, channels ≤ {ARRAY_CHANNELS}], not empty")
    if array.ndim == 2 and array.shape[1] > array.shape[0]:
        shape = list(array.shape)
        raise AudioError(f"array of shape {shape}, more channels than samples", "[samples, channels]", "transpose it")
    return array[:, np.newaxis] if array.ndim == 1 else array


def read_array(array: npt.NDArray[Any], mono: Mono, values: int) -> Iterator[Samples]:
    """Mono blocks of `array` [n, channels], each of `values` samples over all channels. Integers become [-1, 1)."""
    array = array[:, :1] if mono == "first" else array
    scale = 1 if array.dtype.kind == "f" else -float(np.iinfo(array.dtype).min)
    frames = max(1, values // array.shape[1])
    for start in range(0, len(array), frames):
        with np.errstate(over="ignore"):  # float64 above float32's range becomes infinite; `check_samples` reports it
            block = array[start : start + frames].astype(np.float32)
        yield mix(block / np.float32(scale), mono)
