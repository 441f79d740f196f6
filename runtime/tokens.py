"""Tokens of a recording, and how they are read from and written to files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from .config import CodecConfig
from .errors import TokensError
from .files import write_atomically
from .token_files import (
    DAMAGED,
    MAGIC,
    MAX_SAMPLES,
    check_layout,
    open_token_file,
    pack_container,
    pack_npy,
    read_bytes,
    read_container,
    unpack_npy,
)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one recording, one from each codebook at each position, with the settings to decode them.

    codes: int32 [T, C], read-only; SemantiCodec's are (semantic, acoustic). They are copied from the integer array
        [T, C] or [1, T, C] that is given.
    config: the codec, the rate and the vocabularies. Files and `==` ignore its sizes of networks.
    samples: the original's length at the codec's rate. None if it is not known.

    Raises `TokensError` for a wrong shape or dtype, no position, a token outside its vocabulary, or a number
    of samples that has another number of positions.
    """

    codes: NDArray[np.int32]
    config: CodecConfig
    samples: int | None = None

    def __post_init__(self) -> None:
        codes = _check_codes(self.codes, self.config)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "samples", _check_samples(self.samples, len(codes), self.config))

    @classmethod
    def from_array(cls, array: ArrayLike, config: CodecConfig, samples: int | None = None) -> Tokens:
        """Tokens from an array [T, C] or [1, T, C] of any integer dtype, which is copied. Raises `TokensError`."""
        return cls(_as_array(array), config, samples)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], config: CodecConfig) -> Tokens:
        """Take tokens from a row of a collection: `codes`, T × C integers position by position, and `samples` or None.

        Raises `TokensError`, as the class does, and for a row without codes.
        """
        codes = row.get("codes")
        if codes is None:
            reason = f" ({row['error']})" if row.get("error") else ""
            raise TokensError(f"a row without codes{reason}", "a row whose error is null")
        array, books = _as_array(codes), len(config.codebook_sizes)
        if array.size % books:
            expected = f"{books} a position: {', '.join(config.codebook_sizes)}"
            raise TokensError(f"a row of {array.size} codes", expected)
        return cls(array.reshape(-1, books), config, row.get("samples"))

    def __len__(self) -> int:
        """T, the number of positions; each has C tokens."""
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        """Compare codes, codec, rate, vocabularies and samples."""
        if not isinstance(other, Tokens):
            return NotImplemented
        return (
            self.config.identity == other.config.identity
            and self.samples == other.samples
            and np.array_equal(self.codes, other.codes)
        )

    @property
    def seconds(self) -> float:
        """Length of the original, or of the audio that the tokens decode to if the original's is not known."""
        samples = self.config.count_samples(len(self)) if self.samples is None else self.samples
        return samples / self.config.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the packed codes, as in the paper's Table I. The header of a file is not counted."""
        return self.config.bitrate

    def require(self, config: CodecConfig) -> Tokens:
        """These tokens with the settings `config`. Raises `TokensError` if codec, rate or vocabularies differ."""
        check_compatible(self.config, config)
        return dataclasses.replace(self, config=config)

    def to_bytes(self) -> bytes:
        """The bytes of an .sct file. Raises `TokensError` if a number is too large for it."""
        return pack_container(self.codes, self.config, self.samples)

    @classmethod
    def from_bytes(cls, data: bytes, config: CodecConfig | None = None) -> Tokens:
        """Tokens from the bytes of a file; see `read`."""
        return cls.read(BytesIO(data), config)

    @classmethod
    def read(cls, file: BinaryIO, config: CodecConfig | None = None) -> Tokens:
        """Read tokens from an open file or pipe of either kind; its first bytes say which.

        config: the settings that the tokens must have. None accepts those that an .sct file states; an .npy file
            states none and needs them.

        At most one byte more is read than the header states, and no more is allocated than arrives. Raises
        `TokensError` for a file that is damaged, of another format, or not of `config`.
        """
        start = read_bytes(file, len(npy.MAGIC_PREFIX))
        if start == npy.MAGIC_PREFIX:
            if config is None:
                raise TokensError(
                    "tokens in an .npy file, which states no rate and no vocabulary",
                    "the bundle that they were made with",
                    "name the bundle, or use .sct",
                )
            return cls.from_array(unpack_npy(file, tuple(config.codebook_sizes)), config)
        if not MAGIC.startswith(start[: len(MAGIC)]):
            raise TokensError(
                f"a file that begins with {start!r}", "tokens in an .sct or .npy file", "encode audio first"
            )
        container = read_container(start, file)
        if config is not None:
            check_compatible(container.config, config)  # before codes are unpacked, which takes memory
        return cls(container.unpack(), config or container.config, container.samples)

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: CodecConfig | None = None) -> Tokens:
        """Tokens from the file at `path`; see `read`. A `TokensError` names the path."""
        with open_token_file(path) as file:
            return cls.read(file, config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file `path`, whole or not at all: an `.sct`, or an `.npy`, which holds the codes only.

        Raises `TokensError` for another suffix, `OutputError` if the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".sct":
            data = self.to_bytes()
        elif path.suffix.lower() == ".npy":
            data = pack_npy(self.codes)
        else:
            raise TokensError(f"{path}: suffix {path.suffix!r}", "'.sct' or '.npy'", "rename the output")
        write_atomically(path, data)


def check_compatible(mine: CodecConfig, wanted: CodecConfig) -> None:
    """Raises `TokensError` unless tokens with the settings `mine` fit a bundle with `wanted`.

    They fit if codec, rate and vocabularies are equal.
    """
    again = "encode the audio again with this bundle"
    if mine.codec != wanted.codec:
        raise TokensError(
            f"tokens of {mine.codec}",
            f"tokens of {wanted.codec}, the codec of the bundle",
            f"decode them with a bundle of {mine.codec}, or {again}",
        )
    if mine.tps != wanted.tps:
        raise TokensError(
            f"tokens at {mine.tps} tps",
            f"{wanted.tps} tps, the rate of the bundle",
            f"decode them with a bundle of {mine.tps} tps, or {again}",
        )
    for name, given in mine.codebook_sizes.items():
        expected = wanted.codebook_sizes[name]
        if given != expected:
            raise TokensError(
                f"tokens whose {name} vocabulary is {given}",
                f"{expected}, the {name} vocabulary of the bundle",
                f"choose the vocabulary of {given}, or {again}",
            )


def read_npy(source: str | os.PathLike[str] | BinaryIO) -> NDArray[Any]:
    """The codes [T, C] of an .npy file or stream of any codec. A `TokensError` names the path."""
    with open_token_file(source) if isinstance(source, (str, os.PathLike)) else nullcontext(source) as file:
        if read_bytes(file, len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            raise TokensError("a file that is no .npy", "an array of integers", DAMAGED)
        array = unpack_npy(file)
        codes = array.reshape(array.shape[-2:])
        if codes.min() < 0:
            position, column = np.argwhere(codes < 0)[0]
            raise TokensError(f"token {codes[position, column]} at position {position}", "0 or more")
        return codes


def _as_array(array: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        given = f"a {type(array).__name__} that cannot become an array ({error})"
        raise TokensError(given, "integers [T, C] or [1, T, C]") from error


def _check_codes(array: ArrayLike, config: CodecConfig) -> NDArray[np.int32]:
    """`array` as read-only int32 [T, C], copied unless it is that already. Raises `TokensError`."""
    given = _as_array(array)
    check_layout(given.shape, given.dtype, tuple(config.codebook_sizes))
    unshared = given.dtype == np.int32 and given.ndim == 2 and given.base is None and not given.flags.writeable
    owner = given
    given = given.reshape(given.shape[-2:])
    for tokens, (name, size) in zip(given.T, config.codebook_sizes.items(), strict=True):
        if int(tokens.min()) < 0 or int(tokens.max()) >= size:
            position = int(((tokens < 0) | (tokens > size - 1)).argmax())
            remedy = "the tokens are damaged, or of another codec or another bundle"
            if name == next(iter(config.codebook_sizes)):  # a bundle may hold several sizes of this codebook
                remedy = f"choose the vocabulary that the tokens were made with, if it is not {size}"
            found = f"{name} token {tokens[position]} at position {position}"
            raise TokensError(found, f"0 to {size - 1}", remedy)
    if unshared:
        return owner  # nothing else can change it: an unpacked container
    codes = given.astype(np.int32, order="C", copy=True)
    codes.flags.writeable = False
    return codes


def _check_samples(samples: int | None, positions: int, config: CodecConfig) -> int | None:
    if samples is None:
        return None
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer):
        raise TokensError(f"samples {samples!r}", f"a whole number of samples at {config.sample_rate} Hz, or None")
    samples = int(samples)
    if not 1 <= samples <= MAX_SAMPLES:
        raise TokensError(f"samples {samples}", f"1 to {MAX_SAMPLES}, or None if not known")
    expected = config.count_positions(samples)
    if positions != expected:
        raise TokensError(
            f"{positions} positions for {samples} samples",
            f"{expected} positions at {config.tps} tps",
            "leave `samples` out for tokens that were cut or joined",
        )
    return samples
