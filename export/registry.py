"""The codecs that can be exported. To add one: a folder here, and a line in EXPORTS."""

from __future__ import annotations

from sc_runtime.errors import SettingsError

from .semanticodec.export import SEMANTICODEC
from .spec import CodecExport, Sizes, Tensors, Weights, read_file
from .unicodec.export import UNICODEC

EXPORTS: dict[str, CodecExport] = {"semanticodec": SEMANTICODEC, "unicodec": UNICODEC}


def find_export(codec: str) -> CodecExport:
    """Raises SettingsError if there is no codec of that name."""
    if codec not in EXPORTS:
        raise SettingsError(f"codec {codec!r}", f"one of {', '.join(EXPORTS)}")
    return EXPORTS[codec]


def read_tensors(file: str, weights: Weights, sizes: Sizes) -> Tensors:
    """Every tensor that inference needs of one checkpoint file, checked as a whole. Raises CheckpointError."""
    return read_file(find_export(sizes.config.codec), file, weights, sizes)
