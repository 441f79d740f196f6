"""Tokens, their two files, and files written whole or not at all.

The truth here is independent of the code under test: a packer of strings of '0' and '1', a CRC-32 of one bit
at a time, bytes worked out by hand, and numpy's own reader of `.npy`.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import random
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from sc_runtime import files, registry
from sc_runtime.config import CodecConfig
from sc_runtime.errors import OutputError, SettingsError, TokensError
from sc_runtime.registry import MODELS
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.spec import CodecSpec
from sc_runtime.token_files import count_bytes
from sc_runtime.tokens import Tokens, read_npy
from sc_runtime.unicodec.config import UniCodecConfig

SMALL, UNIFIED = SemantiCodecConfig(25, 4096), UniCodecConfig()
#: (1, 2) and (4095, 8191) at 12 + 13 bits are 000000000001 0000000000010 111111111111 1111111111111, and six
#: zeros to fill seven bytes; 1000 samples are 2 positions at 25 tps, and 0x03E8.
GOLDEN_CODES = [[1, 2], [4095, 8191]]
GOLDEN_SAMPLES = 1000
GOLDEN_HEADER = bytes.fromhex("5343544b 02 00 19 02 02000000 e803000000000000")
GOLDEN_CHECKSUM = bytes.fromhex("d1727094")
GOLDEN_VOCABULARIES = bytes.fromhex("ff0f ff1f")
GOLDEN_CODE_BYTES = bytes.fromhex("0010017fffffc0")
#: Of UniCodec 1 and 16383, at 14 bits 00000000000001 11111111111111, and four zeros; 0x0280 samples are 2 positions.
UNIFIED_CODES = [[1], [16383]]
UNIFIED_SAMPLES = 640
UNIFIED_HEADER = bytes.fromhex("5343544b 02 01 4b 01 02000000 8002000000000000")
UNIFIED_CHECKSUM = bytes.fromhex("b567ae95")
UNIFIED_VOCABULARIES = bytes.fromhex("ff3f")
UNIFIED_CODE_BYTES = bytes.fromhex("0007fff0")

NUMBERS = {"semanticodec": 0, "unicodec": 1, "many": 200}  #: of the codecs, in files
CRC = slice(20, 24)  #: where the checksum stands


@dataclasses.dataclass(frozen=True)
class ManyConfig(CodecConfig):
    """A codec of any number of codebooks, 8 kHz, 100 samples a position."""

    codec: ClassVar[str] = "many"
    sample_rate: ClassVar[int] = 8000
    tps: int
    entries: tuple[int, ...]

    @property
    def vocab(self) -> int:  # type: ignore[override]
        return self.entries[0]

    @classmethod
    def from_settings(cls, vocab: int, settings: Mapping[str, Any]) -> ManyConfig:
        return cls(settings["tps"], (vocab, *settings["others"]))

    @property
    def settings(self) -> dict[str, Any]:
        return {"tps": self.tps, "others": self.entries[1:]}

    @classmethod
    def from_codebook_sizes(cls, tps: int, entries: tuple[int, ...]) -> ManyConfig:
        if not entries:
            raise SettingsError("no codebooks", "one at least")
        return cls(tps, entries)

    @property
    def codebook_sizes(self) -> dict[str, int]:
        return {f"book {number}": entries for number, entries in enumerate(self.entries)}

    @property
    def codebook_shapes(self) -> dict[str, tuple[int, int]]:
        return {name: (size, 1) for name, size in self.codebook_sizes.items()}

    def count_positions(self, samples: int) -> int:
        return -(-samples // 100)

    def count_samples(self, positions: int) -> int:
        return 100 * positions


class ManyModel:
    """The part of a model that token files use."""

    spec = CodecSpec(NUMBERS["many"], ManyConfig, (), "first", batches=False, graphs={})


@pytest.fixture(scope="module", autouse=True)
def many() -> Iterator[None]:
    """`ManyConfig` is registered as a codec."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", (*MODELS, ManyModel))
        yield


def crc_by_bits(data: bytes) -> int:
    """CRC-32 of IEEE 802.3, reflected, as a shift register."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def pack_by_strings(codes: Any, *sizes: int) -> bytes:
    """The packed codes of a container, by strings of '0' and '1'; `sizes` are those of the codebooks."""

    def spell(token: int, size: int) -> str:
        bits = len(bin(size - 1)) - 2 if size > 1 else 0
        return bin(token)[2:].rjust(bits, "0") if bits else ""

    text = "".join(spell(int(token), size) for row in codes for token, size in zip(row, sizes, strict=True))
    text += "0" * (-len(text) % 8)
    return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]


def list_sizes(config: CodecConfig) -> tuple[int, ...]:
    """Entries of the codebooks, in number and order as read from the codecs' own fields."""
    if isinstance(config, SemantiCodecConfig):
        return config.vocab, config.acoustic_vocab
    return config.entries if isinstance(config, ManyConfig) else (config.vocab,)


def assemble(
    config: CodecConfig, positions: int, samples: int, payload: bytes, version: int = 2, number: int | None = None
) -> bytes:
    """A container of any header, with its checksum right. `number` of the codec, if not that of `config`."""
    sizes = list_sizes(config)
    header = b"SCTK" + bytes([version, NUMBERS[config.codec] if number is None else number, config.tps, len(sizes)])
    header += positions.to_bytes(4, "little") + samples.to_bytes(8, "little")
    rest = b"".join((size - 1).to_bytes(2, "little") for size in sizes) + payload
    return header + zlib.crc32(header + rest).to_bytes(4, "little") + rest


def correct_checksum(data: bytes) -> bytes:
    fields, rest = data[: CRC.start], data[CRC.stop :]
    return fields + zlib.crc32(fields + rest).to_bytes(4, "little") + rest


def count_header(config: CodecConfig) -> int:
    """Bytes before the codes."""
    return CRC.stop + 2 * len(list_sizes(config))


def draw_codes(config: CodecConfig, positions: int, seed: int = 0) -> np.ndarray:
    """Random codes [T, C], with the largest and the smallest of the vocabularies among them."""
    rng, sizes = np.random.default_rng(seed), list_sizes(config)
    codes = rng.integers(0, sizes, (positions, len(sizes)))
    codes[rng.integers(positions)] = np.array(sizes) - 1
    codes[rng.integers(positions), rng.integers(len(sizes))] = 0
    return codes


def make_tokens(config: CodecConfig = SMALL, positions: int = 20, samples: int | None = None) -> Tokens:
    return Tokens.from_array(draw_codes(config, positions), config, samples)


def spell_npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, np.asarray(array), **options)
    return file.getvalue()


def claim_npy(shape: tuple[int, ...], descr: str = "<i8", payload: bytes = bytes(64)) -> bytes:
    """An .npy whose header claims `shape`, whatever follows it."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + payload


@contextmanager
def expect_little(peak: int = 1_000_000, seconds: float = 1.0) -> Iterator[None]:
    """The block allocates less than `peak` bytes at a time and is over in `seconds`."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - begin < seconds
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


# ----- tokens from arrays


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4", ">i8"])
@pytest.mark.parametrize("shape", [(3, 2), (1, 3, 2)])
def test_any_integer_array_is_taken_and_copied(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.array([1, 2, 30, 40, 127, 0], dtype).reshape(shape)
    tokens = Tokens.from_array(array, SMALL)
    assert tokens.codes.dtype == np.int32 and tokens.codes.dtype.isnative
    assert tokens.codes.tolist() == [[1, 2], [30, 40], [127, 0]]
    array[:] = 5
    assert tokens.codes.tolist() == [[1, 2], [30, 40], [127, 0]]
    with pytest.raises(ValueError, match="read-only"):
        tokens.codes[0, 0] = 7


def test_callers_array_stays_as_it_was() -> None:
    array = np.array(GOLDEN_CODES, np.int32)
    Tokens.from_array(array, SMALL)
    assert array.flags.writeable and array.tolist() == GOLDEN_CODES
    array.flags.writeable = False
    assert Tokens.from_array(array, SMALL).codes.tolist() == GOLDEN_CODES


def test_strided_arrays_and_lists_are_taken() -> None:
    array = np.arange(24).reshape(6, 4)
    assert Tokens.from_array(array[::-2, 1:3], SMALL).codes.tolist() == [[21, 22], [13, 14], [5, 6]]
    assert Tokens.from_array(np.asfortranarray(array[:, :2]), SMALL).codes.tolist() == array[:, :2].tolist()
    assert Tokens.from_array(GOLDEN_CODES, SMALL) == Tokens.from_array(np.array(GOLDEN_CODES), SMALL)


@pytest.mark.parametrize("shape", [(), (2,), (0, 2), (1, 0, 2), (3, 1), (2, 3), (2, 3, 2), (1, 1, 3, 2), (0, 3, 2)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TokensError, match=r"shape \[.*expected \[T, 2\] or \[1, T, 2\]") as caught:
        Tokens.from_array(np.zeros(shape, np.int64), SMALL)
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize(("columns", "names"), [(1, "unified"), (8, "book 0 and book 1 and")])
def test_shapes_are_those_of_the_codec(columns: int, names: str) -> None:
    config = UNIFIED if columns == 1 else ManyConfig(75, (16,) * 8)
    for shape in ((3, columns), (1, 3, columns)):
        assert Tokens.from_array(np.zeros(shape, int), config).codes.shape == (3, columns)
    for shape in ((3,), (3, 2), (3, columns + 1), (2, 3, columns)):
        with pytest.raises(TokensError, match=rf"expected \[T, {columns}\] or \[1, T, {columns}\] .* give the {names}"):
            Tokens.from_array(np.zeros(shape, int), config)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "?", "m8[s]", "S2", "U2"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TokensError, match=r"dtype .*expected integers"):
        Tokens.from_array(np.zeros((3, 2), dtype), SMALL)


@pytest.mark.parametrize("array", [np.zeros((3, 2), object), [[1, 2], [3, 2**70]]])
def test_objects_are_refused(array: Any) -> None:
    with pytest.raises(TokensError, match=r"Python objects; expected integers"):
        Tokens.from_array(array, SMALL)


def test_ragged_list_is_refused() -> None:
    with pytest.raises(TokensError, match=r"list that cannot become an array.*expected integers \[T, C\]"):
        Tokens.from_array([[1, 2], [3]], SMALL)


@pytest.mark.parametrize(
    ("position", "column", "value", "dtype", "message"),
    [
        (17, 0, 40000, np.int64, "semantic token 40000 at position 17; expected 0 to 32767"),
        (0, 0, 32768, np.uint16, "semantic token 32768 at position 0; expected 0 to 32767"),
        (19, 1, 8192, np.int32, "acoustic token 8192 at position 19; expected 0 to 8191"),
        (3, 1, -1, np.int64, "acoustic token -1 at position 3; expected 0 to 8191"),
        (4, 0, -128, np.int8, "semantic token -128 at position 4; expected 0 to 32767"),
        (5, 0, 2**64 - 1, np.uint64, f"semantic token {2**64 - 1} at position 5; expected 0 to 32767"),
        (6, 1, 2**32, np.int64, "acoustic token 4294967296 at position 6; expected 0 to 8191"),
        (7, 0, -(2**63), np.int64, f"semantic token {-(2**63)} at position 7; expected 0 to 32767"),
    ],
)
def test_tokens_out_of_range_are_named(position: int, column: int, value: int, dtype: type, message: str) -> None:
    array: np.ndarray = np.zeros((20, 2), dtype)
    array[position, column] = value
    with pytest.raises(TokensError) as caught:
        Tokens.from_array(array, SemantiCodecConfig(50, 32768))
    assert str(caught.value).startswith(message)


def test_first_of_several_wrong_tokens_is_named() -> None:
    array = np.zeros((9, 2), int)
    array[4:, 0], array[2:, 1] = 5000, 9000
    with pytest.raises(TokensError, match="semantic token 5000 at position 4;"):
        Tokens.from_array(array, SMALL)
    with pytest.raises(TokensError, match="unified token 16384 at position 1; expected 0 to 16383"):
        Tokens.from_array([[16383], [16384]], UNIFIED)
    with pytest.raises(TokensError, match="book 7 token 8 at position 0; expected 0 to 7"):
        Tokens.from_array([[7, 7, 7, 7, 7, 7, 7, 8]], ManyConfig(75, (8,) * 8))


@pytest.mark.parametrize("tps", [25, 50, 100])
def test_samples_must_make_the_positions(tps: int) -> None:
    config = SemantiCodecConfig(tps, 4096)
    positions = config.count_positions(50_000)
    assert make_tokens(config, positions, 50_000).samples == 50_000
    for wrong in (positions - 1, positions + 1):
        with pytest.raises(TokensError, match=f"{wrong} positions for 50000 samples; expected {positions} "):
            make_tokens(config, wrong, 50_000)


@pytest.mark.parametrize("samples", [0, -1, 2**64, 10**400, 1.5, "1000", True])
def test_senseless_samples_are_refused(samples: Any) -> None:
    with pytest.raises(TokensError, match=r"^samples .*or None"):
        Tokens.from_array(GOLDEN_CODES, SMALL, samples)


def test_samples_of_numpy_become_an_int() -> None:
    samples = Tokens.from_array(GOLDEN_CODES, SMALL, np.int64(GOLDEN_SAMPLES)).samples  # type: ignore[arg-type]
    assert type(samples) is int and samples == GOLDEN_SAMPLES


def test_every_way_to_make_tokens_checks_them() -> None:
    tokens = make_tokens()
    with pytest.raises(TokensError, match="semantic token"):
        dataclasses.replace(tokens, config=SemantiCodecConfig(25, 2))
    with pytest.raises(TokensError, match="shape"):
        Tokens(np.zeros(3, np.int32), SMALL)


def test_properties() -> None:
    tokens = make_tokens(positions=128)
    assert len(tokens) == 128
    assert tokens.seconds == 10.24
    assert tokens.bitrate == 12.5 * 25
    assert make_tokens(positions=2, samples=1000).seconds == 0.0625
    unified = make_tokens(UNIFIED, 75, 24_000 - 319)
    assert (len(unified), unified.seconds, unified.bitrate) == (75, (24_000 - 319) / 24_000, 75 * 14)
    assert make_tokens(ManyConfig(80, (2, 4, 8, 16)), 80).bitrate == 80 / 4 * (1 + 2 + 3 + 4)


def test_equality() -> None:
    tokens = Tokens.from_array(GOLDEN_CODES, SMALL, GOLDEN_SAMPLES)
    assert tokens == Tokens.from_array(np.array([GOLDEN_CODES]), SMALL, GOLDEN_SAMPLES)
    assert tokens == dataclasses.replace(tokens, config=SemantiCodecConfig(25, 4096, width=8))
    for other in (
        Tokens.from_array(GOLDEN_CODES, SMALL),
        Tokens.from_array([[1, 2], [4095, 8190]], SMALL, GOLDEN_SAMPLES),
        Tokens.from_array([[1, 2]], SMALL),
        Tokens.from_array(GOLDEN_CODES, SemantiCodecConfig(50, 4096)),
        Tokens.from_array(GOLDEN_CODES, SemantiCodecConfig(25, 4097), GOLDEN_SAMPLES),
        Tokens.from_array(GOLDEN_CODES, SemantiCodecConfig(25, 4096, 8193), GOLDEN_SAMPLES),
        GOLDEN_CODES,
        None,
    ):
        assert tokens != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(tokens)


def test_tokens_of_another_codec_are_not_equal() -> None:
    """Even if their codes, rates and vocabularies are equal."""
    mine, other = (Tokens.from_array([[1]], config) for config in (UNIFIED, ManyConfig(75, (16384,))))
    assert mine != other and mine.codes.tolist() == other.codes.tolist()


# ----- the packed file


def test_golden_bytes() -> None:
    assert crc_by_bits(b"123456789") == 0xCBF43926  # the published check value
    assert pack_by_strings(GOLDEN_CODES, 4096, 8192) == GOLDEN_CODE_BYTES
    checksum = crc_by_bits(GOLDEN_HEADER + GOLDEN_VOCABULARIES + GOLDEN_CODE_BYTES).to_bytes(4, "little")
    assert checksum == GOLDEN_CHECKSUM
    data = GOLDEN_HEADER + checksum + GOLDEN_VOCABULARIES + GOLDEN_CODE_BYTES
    tokens = Tokens.from_array(GOLDEN_CODES, SMALL, GOLDEN_SAMPLES)
    assert tokens.to_bytes() == data
    assert Tokens.from_bytes(data) == tokens


def test_golden_bytes_of_one_codebook() -> None:
    assert pack_by_strings(UNIFIED_CODES, 16384) == UNIFIED_CODE_BYTES
    checksum = crc_by_bits(UNIFIED_HEADER + UNIFIED_VOCABULARIES + UNIFIED_CODE_BYTES).to_bytes(4, "little")
    assert checksum == UNIFIED_CHECKSUM
    data = UNIFIED_HEADER + checksum + UNIFIED_VOCABULARIES + UNIFIED_CODE_BYTES
    tokens = Tokens.from_array(UNIFIED_CODES, UNIFIED, UNIFIED_SAMPLES)
    assert tokens.to_bytes() == data
    assert Tokens.from_bytes(data) == tokens and Tokens.from_bytes(data).config == UNIFIED


def test_header_is_small() -> None:
    assert [count_header(config) for config in (UNIFIED, SMALL)] == [26, 28]
    for config in (UNIFIED, SMALL):
        assert len(make_tokens(config, 1).to_bytes()) == count_header(config) + -(-sum(config.bits) // 8)


@pytest.mark.parametrize("codebooks", [1, 2, 3, 8, 255])
def test_any_number_of_codebooks(codebooks: int) -> None:
    sizes = tuple([16384, 2, 1, 3000, 65536, 17, 256, 257][i % 8] for i in range(codebooks))
    tokens = make_tokens(ManyConfig(75, sizes), 100, 9901)
    data = tokens.to_bytes()
    assert data == assemble(tokens.config, 100, 9901, pack_by_strings(tokens.codes, *sizes))
    assert data[7] == codebooks and len(data) == count_bytes(100, tokens.config)
    back = Tokens.from_bytes(data)
    assert back == tokens and back.config == tokens.config and back.codes.shape == (100, codebooks)


def test_more_codebooks_than_a_byte_counts_are_not_stored(tmp_path: Path) -> None:
    tokens = make_tokens(ManyConfig(75, (2,) * 256), 3)
    with pytest.raises(TokensError, match=r"number of codebooks 256; expected at most 255 .*save it as \.npy"):
        tokens.to_bytes()
    tokens.save(tmp_path / "many.npy")
    assert Tokens.load(tmp_path / "many.npy", tokens.config) == tokens


def test_more_tokens_a_second_than_a_byte_counts_are_not_stored() -> None:
    with pytest.raises(TokensError, match="tokens per second 256; expected at most 255 "):
        make_tokens(ManyConfig(256, (2,)), 3).to_bytes()


@pytest.mark.parametrize("bits", [12, 13, 14, 15])
@pytest.mark.parametrize(("tps", "positions"), [(25, 128), (50, 256), (100, 512)])
def test_ten_seconds_cost_what_table_one_says(tps: int, positions: int, bits: int) -> None:
    config = SemantiCodecConfig(tps, 2**bits)
    assert positions == tps / 2 * 10.24
    data = make_tokens(config, positions).to_bytes()
    assert len(data) - count_header(config) == positions * (bits + 13) / 8
    assert (len(data) - count_header(config)) * 8 / 10.24 == pytest.approx(config.bitrate)


def test_smallest_setting_costs_400_bytes() -> None:
    assert len(make_tokens(SemantiCodecConfig(25, 4096), 128).to_bytes()) == 400 + count_header(SMALL)


def test_a_token_of_unicodec_costs_fourteen_bits() -> None:
    assert len(make_tokens(UNIFIED, 750, 240_000).to_bytes()) == 750 * 14 / 8 + 0.5 + count_header(UNIFIED)


@st.composite
def draw_config(draw: st.DrawFn) -> CodecConfig:
    """Any codec of which a file may hold tokens: vocabularies from 1 to 65536."""
    edges = st.sampled_from([1, 2, 3, 255, 256, 257, 32767, 32768, 65535, 65536])
    size = edges | st.integers(1, 65536)
    kind = draw(st.sampled_from(["semanticodec", "unicodec", "many"]))
    if kind == "unicodec":
        return UniCodecConfig(4 * draw(st.integers(1, 16384)))
    count = st.just(2) if kind == "semanticodec" else st.integers(1, 8)
    sizes = tuple(draw(count.flatmap(lambda count: st.lists(size, min_size=count, max_size=count).filter(max_above_1))))
    if kind == "many":
        return ManyConfig(draw(st.integers(0, 255)), sizes)
    return SemantiCodecConfig(draw(st.sampled_from([25, 50, 100])), *sizes)


def max_above_1(sizes: list[int]) -> bool:
    return max(sizes) > 1


@st.composite
def draw_tokens(draw: st.DrawFn) -> Tokens:
    """Tokens of any storable kind: T from 1, samples known or not."""
    config = draw(draw_config())
    samples = draw(st.none() | st.integers(1, 300_000))
    positions = draw(st.integers(1, 100)) if samples is None else config.count_positions(samples)
    codes = draw_codes(config, positions, draw(st.integers(0, 2**32)))
    return Tokens.from_array(codes, config, samples)


@settings(max_examples=300, deadline=None)
@given(draw_tokens())
def test_container_round_trip_and_the_slow_packer(tokens: Tokens) -> None:
    config = tokens.config
    payload = pack_by_strings(tokens.codes, *list_sizes(config))
    data = tokens.to_bytes()
    assert data == assemble(config, len(tokens), tokens.samples or 0, payload)
    assert len(data) == count_bytes(len(tokens), config)
    back = Tokens.from_bytes(data)
    assert back == tokens and back.samples == tokens.samples and back.config == config
    assert back.codes.tolist() == tokens.codes.tolist()
    assert back.codes.dtype == np.int32 and not back.codes.flags.writeable


@pytest.mark.parametrize("positions", [65535, 65536, 65537, 2 * 65536, 2 * 65536 + 13])
@pytest.mark.parametrize(
    "config", [SemantiCodecConfig(50, 5000), UNIFIED, ManyConfig(75, (2, 3, 5, 9, 17, 33, 65, 129))], ids=str
)
def test_packing_in_chunks(positions: int, config: CodecConfig) -> None:
    tokens = make_tokens(config, positions)
    data = tokens.to_bytes()
    assert data[count_header(config) :] == pack_by_strings(tokens.codes, *list_sizes(config))
    assert Tokens.from_bytes(data) == tokens


def test_packing_is_bounded_in_memory() -> None:
    tokens = make_tokens(SemantiCodecConfig(50, 65536, 65536), 1_000_000)
    with expect_little(peak=20_000_000, seconds=10):
        data = tokens.to_bytes()  # 4 MB, and 4 MB for the chunks; all bits at once would be 32 MB
    with expect_little(peak=40_000_000, seconds=10):
        assert len(Tokens.from_bytes(data)) == 1_000_000  # codes of 8 MB, and their read-only copy


@pytest.mark.parametrize(("vocab", "acoustic_vocab"), [(65537, 8192), (4096, 65537), (10**9, 8192)])
def test_vocabularies_too_large_for_the_container(vocab: int, acoustic_vocab: int, tmp_path: Path) -> None:
    config = SemantiCodecConfig(25, vocab, acoustic_vocab)
    tokens = make_tokens(config)
    with pytest.raises(TokensError, match=r"vocabulary \d+; expected at most 65536 .*save it as \.npy"):
        tokens.to_bytes()
    tokens.save(tmp_path / "large.npy")
    assert Tokens.load(tmp_path / "large.npy", config) == tokens


@pytest.mark.parametrize("config", [SemantiCodecConfig(25, 1, 1), ManyConfig(75, (1,)), ManyConfig(75, (1,) * 8)])
def test_tokens_of_no_bits_are_not_stored(config: CodecConfig) -> None:
    with pytest.raises(TokensError, match="one token each"):
        Tokens.from_array(np.zeros((1, len(config.codebook_sizes)), int), config).to_bytes()
    with expect_little(), pytest.raises(TokensError, match="one token each"):
        Tokens.from_bytes(assemble(config, 4_000_000_000, 0, b""))


# ----- damaged files


@pytest.mark.parametrize(
    ("config", "positions", "samples"),
    [(SemantiCodecConfig(50, 5000), 24, 15_000), (UNIFIED, 9, 2561), (ManyConfig(75, (5000,) * 8), 8, 701)],
    ids=str,
)
def test_every_flipped_bit_is_noticed(config: CodecConfig, positions: int, samples: int) -> None:
    data = make_tokens(config, positions, samples).to_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TokensError):
            Tokens.from_bytes(bytes(flipped))


@pytest.mark.parametrize("config", [SMALL, UNIFIED, ManyConfig(75, (5000,) * 8)], ids=str)
def test_every_length_but_the_whole_is_cut_short(config: CodecConfig) -> None:
    data, header = make_tokens(config).to_bytes(), count_header(config)
    for length in range(len(data)):
        message = f": {length} bytes; expected a whole header" if length < 24 else f": {length - header} bytes of codes"
        if 24 <= length < header:
            message = f" in its header; expected {len(config.codebook_sizes)} vocabularies"
        with pytest.raises(TokensError, match=f"cut short{message}"):
            Tokens.from_bytes(data[:length])
    assert Tokens.from_bytes(data) == make_tokens(config)


@pytest.mark.parametrize("tail", [b"\0", b"\n", bytes(1000), b"SCTK"])
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    data = make_tokens().to_bytes() + tail
    for damaged in (data, correct_checksum(data)):
        with pytest.raises(TokensError, match="trailing bytes"):
            Tokens.from_bytes(damaged)


def test_future_version_asks_for_an_upgrade() -> None:
    for version in (3, 255):
        data = assemble(SMALL, 2, 0, GOLDEN_CODE_BYTES, version)
        with pytest.raises(TokensError, match=f"version {version}; .* version 2.*newer version: upgrade"):
            Tokens.from_bytes(data)


def test_past_versions_are_to_be_encoded_again() -> None:
    for version in (0, 1):
        with pytest.raises(TokensError, match=f"version {version}; expected version 2: encode the audio again"):
            Tokens.from_bytes(assemble(SMALL, 2, 0, GOLDEN_CODE_BYTES, version))
    first = "5343544b 01 19 ff0f ff1f 02000000 e803000000000000 0c3cc85b 0010017fffffc0"  # as version 1 wrote it
    with pytest.raises(TokensError, match="version 1; expected version 2: encode the audio again"):
        Tokens.from_bytes(bytes.fromhex(first))


@pytest.mark.parametrize("number", [2, 3, 199, 255])
def test_unknown_codec_in_the_header(number: int) -> None:
    data = assemble(SMALL, 2, 0, GOLDEN_CODE_BYTES, number=number)
    expected = rf"^a token file of codec {number}; expected one of 0 semanticodec, 1 unicodec.*: upgrade sc-runtime"
    with pytest.raises(TokensError, match=expected):
        Tokens.from_bytes(data)


@pytest.mark.parametrize(
    ("number", "config", "message"),
    [
        (0, UNIFIED, "a token file of 1 codebooks; expected a semantic and an acoustic one"),
        (0, ManyConfig(50, (16,) * 8), "a token file of 8 codebooks; expected a semantic and an acoustic one"),
        (0, ManyConfig(50, ()), "a token file of 0 codebooks; expected a semantic and an acoustic one"),
        (1, SMALL, "a token file of 25 tps and 2 codebooks; expected 75 tps and one codebook"),
        (1, ManyConfig(75, (16,) * 2), "a token file of 75 tps and 2 codebooks; expected 75 tps and one codebook"),
        (1, ManyConfig(75, ()), "a token file of 75 tps and 0 codebooks; expected 75 tps and one codebook"),
        (1, ManyConfig(50, (16384,)), "a token file of 50 tps and 1 codebooks; expected 75 tps and one codebook"),
        (1, ManyConfig(75, (16383,)), "a token file of vocab 16383; expected a multiple of 4"),
        (200, ManyConfig(75, ()), "a token file of no codebooks; expected one at least"),
    ],
)
def test_other_codebooks_than_the_codec_has(number: int, config: CodecConfig, message: str) -> None:
    with expect_little(), pytest.raises(TokensError) as caught:
        Tokens.from_bytes(assemble(config, 4_000_000_000, 0, bytes(4), number=number))
    assert str(caught.value).startswith(f"{message}: the file is damaged")


@pytest.mark.parametrize("data", [b"RIFF" + bytes(60), b"SCTX" + bytes(60), b"hello\n", b"\x93NUMPX"])
def test_other_files_are_named_by_their_beginning(data: bytes) -> None:
    with pytest.raises(TokensError, match=r"begins with b.*expected tokens in an \.sct or \.npy file"):
        Tokens.from_bytes(data)


def test_empty_file() -> None:
    with pytest.raises(TokensError, match="cut short: 0 bytes"):
        Tokens.from_bytes(b"")


@pytest.mark.parametrize("tps", [0, 24, 26, 75, 200, 255])
def test_unknown_rate_in_the_header(tps: int) -> None:
    data = bytearray(assemble(SMALL, 2, 0, GOLDEN_CODE_BYTES))
    data[6] = tps
    with pytest.raises(TokensError, match=f"of tps {tps}; expected 25, 50 or 100 tokens per second"):
        Tokens.from_bytes(correct_checksum(bytes(data)))


def test_no_positions_in_the_header() -> None:
    with pytest.raises(TokensError, match="no positions"):
        Tokens.from_bytes(assemble(SMALL, 0, 0, b""))


@pytest.mark.parametrize("positions", [100, 10**9, 2**32 - 1])
def test_positions_that_are_not_there_allocate_nothing(positions: int, tmp_path: Path) -> None:
    data = assemble(SMALL, positions, 0, GOLDEN_CODE_BYTES)
    path = tmp_path / "false.sct"
    path.write_bytes(data)
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    message = f"7 bytes of codes; expected {(positions * 25 + 7) // 8} bytes"
    with os.fdopen(reader, "rb") as pipe, expect_little(2_000_000):
        for read in (lambda: Tokens.from_bytes(data), lambda: Tokens.load(path), lambda: Tokens.read(pipe)):
            with pytest.raises(TokensError, match=message):
                read()


@pytest.mark.parametrize("data", [assemble(SMALL, 2, 0, b""), claim_npy((2, 2), payload=b""), b"RIFF"])
def test_endless_stream_is_left_after_a_byte_too_many(data: bytes) -> None:
    class Endless(io.RawIOBase):
        """Gives `data`, then zeros for ever."""

        given = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0, "read without a limit"
            part = data[self.given : self.given + size].ljust(size, b"\0")
            self.given += size
            return part

    stream = Endless()
    with pytest.raises(TokensError):
        Tokens.read(stream, SMALL)  # type: ignore[arg-type]
    assert stream.given <= len(data) + 2 * 2 * 8 + 2


@pytest.mark.parametrize("bit", range(6))
def test_padding_must_be_zero(bit: int) -> None:
    payload = GOLDEN_CODE_BYTES[:-1] + bytes([GOLDEN_CODE_BYTES[-1] | 1 << bit])
    with pytest.raises(TokensError, match="not filled with zeros"):
        Tokens.from_bytes(assemble(SMALL, 2, 0, payload))


def test_wrong_checksum_names_both() -> None:
    data = make_tokens().to_bytes()
    damaged = data[: CRC.start] + bytes(4) + data[CRC.stop :]
    with pytest.raises(TokensError, match=f"checksum 00000000; expected {data[CRC].hex()}"):
        Tokens.from_bytes(damaged)


def test_tokens_beyond_a_vocabulary_that_is_no_power_of_two() -> None:
    config = SemantiCodecConfig(25, 3000, 5000)
    good, semantic, acoustic = ([[2999, 4999]], [[3000, 4999]], [[2999, 5000]])
    assert Tokens.from_bytes(assemble(config, 1, 0, pack_by_strings(good, 3000, 5000))).codes.tolist() == good
    for codes, message in ((semantic, "semantic token 3000"), (acoustic, "acoustic token 5000")):
        with pytest.raises(TokensError, match=f"{message} at position 0"):
            Tokens.from_bytes(assemble(config, 1, 0, pack_by_strings(codes, 3000, 5000)))


@pytest.mark.parametrize("samples", [2560 * 2, 10**6, 2**64 - 1])
def test_samples_that_do_not_make_the_positions(samples: int) -> None:
    with pytest.raises(TokensError, match=f"2 positions for {samples} samples"):
        Tokens.from_bytes(assemble(SMALL, 2, samples, GOLDEN_CODE_BYTES))


# ----- fuzzing

FUZZED = 200_000


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One damage of `data`: bits, bytes, a cut, an insertion, a deletion, a splice, or a header field."""
    damaged = bytearray(data)
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    elif kind == 2:
        del damaged[rng.randrange(len(damaged)) :]
    elif kind == 3:
        at = rng.randint(0, len(damaged))
        damaged[at:at] = rng.randbytes(rng.randint(1, 9))
    elif kind == 4:
        at = rng.randrange(len(damaged))
        del damaged[at : at + rng.randint(1, 9)]
    elif kind == 5:
        damaged[rng.randint(0, len(damaged)) :] = other[rng.randint(0, len(other)) :]
    elif kind == 6:
        at = rng.randint(0, min(len(damaged), len(other)))
        damaged[at:] = other[at:]
    else:
        start, end = rng.choice([(4, 5), (5, 6), (6, 7), (7, 8), (8, 12), (12, 20), (24, 26), (26, 28)])
        value = int.from_bytes(damaged[start:end], "little")
        value = rng.choice([value + rng.randint(-3, 3), rng.getrandbits(8 * (end - start)), 0, 25, 50, 75, 100, 200])
        damaged[start:end] = (value % 256 ** (end - start)).to_bytes(end - start, "little")
    return bytes(damaged)


@pytest.mark.slow
def test_damaged_containers_are_refused_or_are_what_they_say() -> None:
    rng = random.Random(20)
    originals = []
    for tps in (25, 50, 100):
        for vocab, acoustic in ((4096, 8192), (32768, 8192), (3000, 500), (2, 1), (1, 7), (65536, 65536)):
            config = SemantiCodecConfig(tps, vocab, acoustic)
            originals.append(make_tokens(config, rng.randint(1, 9)).to_bytes())
            samples = rng.randint(1, 5000)
            originals.append(make_tokens(config, config.count_positions(samples), samples).to_bytes())
    for other in (UNIFIED, UniCodecConfig(4), *(ManyConfig(75, (300,) * count) for count in (1, 2, 8))):
        originals.append(make_tokens(other, 5, other.count_samples(5)).to_bytes())
    known = set(originals)

    refused = decoded = 0
    for _ in range(FUZZED):
        data, other = rng.choice(originals), rng.choice(originals)
        mutant = mutate(data, other, rng)
        corrected = len(mutant) >= CRC.stop and rng.random() < 0.5
        if corrected:
            mutant = correct_checksum(mutant)
        try:
            tokens = Tokens.from_bytes(mutant)
        except TokensError:
            refused += 1
            assert mutant not in known
            continue
        assert tokens.to_bytes() == mutant
        assert tokens.codes.min() >= 0
        assert (tokens.codes < list_sizes(tokens.config)).all()
        assert corrected or mutant in known, mutant.hex()
        decoded += mutant not in known
    assert refused > 50_000 and decoded > 3_000, "both ways out must be taken, or nothing was tried"


@pytest.mark.filterwarnings("ignore")  # numpy and Python warn of what some damaged headers say
def test_damaged_npy_files_are_refused_or_read_as_numpy_reads_them() -> None:
    rng = random.Random(21)
    codes = draw_codes(SMALL, 5)
    originals = [
        spell_npy(codes[np.newaxis]),
        spell_npy(codes.astype(">u2")),
        spell_npy(np.asfortranarray(codes, np.int32)),
        spell_npy(codes, version=(2, 0)),
        spell_npy(codes.astype(object), allow_pickle=True),
        spell_npy(codes.astype(float)),
    ]
    decoded = 0
    for _ in range(10_000):
        mutant = mutate(rng.choice(originals), rng.choice(originals), rng)
        try:
            tokens = Tokens.from_bytes(mutant, SMALL)
        except TokensError:
            continue
        decoded += 1
        assert np.array_equal(np.load(io.BytesIO(mutant), allow_pickle=False).reshape(-1, 2), tokens.codes)
    assert 100 < decoded < 9000


# ----- .npy files


@settings(max_examples=50, deadline=None)
@given(tokens=draw_tokens())
def test_npy_round_trip(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("npy") / "tokens.npy"
    tokens.save(path)
    array = np.load(path, allow_pickle=False)
    assert array.dtype == np.int64 and array.shape == (1, *tokens.codes.shape)
    assert np.array_equal(array[0], tokens.codes)
    assert Tokens.load(path, tokens.config) == dataclasses.replace(tokens, samples=None)
    assert np.array_equal(read_npy(path), tokens.codes)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u4", "<i8", ">u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_integers_and_order(dtype: str, order: Any, version: tuple[int, int]) -> None:
    codes = draw_codes(SemantiCodecConfig(25, 100, 200), 7).astype(dtype)
    data = spell_npy(np.asarray(codes, order=order), version=version)
    assert Tokens.from_bytes(data, SMALL).codes.tolist() == codes.tolist()


def test_npy_needs_a_config(tmp_path: Path) -> None:
    make_tokens().save(tmp_path / "a.npy")
    with pytest.raises(
        TokensError,
        match=r"a\.npy: tokens in an \.npy file, which states no rate and no vocabulary; expected the bundle",
    ):
        Tokens.load(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(5, 1), (1, 5, 2), (5, 8)])
def test_an_npy_is_read_without_knowing_its_codec(shape: tuple[int, ...], tmp_path: Path) -> None:
    codes = np.arange(np.prod(shape)).reshape(shape)
    np.save(tmp_path / "a.npy", codes)
    assert np.array_equal(read_npy(tmp_path / "a.npy"), codes.reshape(shape[-2:]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros(5, int),
            r"an array of shape \[5\]; expected \[T, C\] or \[1, T, C\] with T at least 1: give the tokens",
        ),
        (np.zeros((2, 5, 1), int), r"an array of shape \[2, 5, 1\]; expected"),
        (np.zeros((0, 2), int), r"an array of shape \[0, 2\]; expected"),
        (np.zeros((5, 2)), "an array of dtype float64; expected integers"),
        (np.array([[1, 2], [3, -4]]), "token -4 at position 1; expected 0 or more"),
    ],
)
def test_an_npy_of_no_codec_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TokensError, match=rf"a\.npy: {message}"):
        read_npy(tmp_path / "a.npy")
    make_tokens().save(tmp_path / "b.sct")
    with pytest.raises(TokensError, match=r"b\.sct: a file that is no \.npy"):
        read_npy(tmp_path / "b.sct")


class Trap:
    """Leaves a mark when it is unpickled."""

    sprung = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


def test_pickled_npy_is_never_opened() -> None:
    array = np.empty((1, 2), object)
    array[:] = Trap()
    data = spell_npy(array, allow_pickle=True)
    np.load(io.BytesIO(data), allow_pickle=True)
    assert Trap.sprung, "the trap must work"
    Trap.sprung = False
    with pytest.raises(TokensError, match=r"Python objects.*pickled files are never opened"):
        Tokens.from_bytes(data, SMALL)
    assert not Trap.sprung


def test_npy_cut_short_anywhere() -> None:
    for data in (spell_npy(draw_codes(SMALL, 5)), spell_npy(draw_codes(SMALL, 5), version=(2, 0))):
        for length in range(len(data)):
            with pytest.raises(TokensError):
                Tokens.from_bytes(data[:length], SMALL)
        with pytest.raises(TokensError, match="cut short: 79 bytes of codes; expected 80 bytes for the 5 "):
            Tokens.from_bytes(data[:-1], SMALL)
        with pytest.raises(TokensError, match="trailing bytes"):
            Tokens.from_bytes(data + b"\0", SMALL)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**9, 2), "cut short: 64 bytes of codes; expected 16000000000 bytes"),
        ((1, 10**12, 2), "cut short"),
        ((2**62, 2), "cut short"),
        ((10**30, 2), "cut short"),
        ((10**9, 10**9, 2), "shape"),
        ((2**62, 2**3, 2), "shape"),
        ((2, 10**9), "shape"),
        ((-1, 2), "shape"),
        ((0, 2), "shape"),
        ((), "shape"),
    ],
)
def test_npy_that_claims_more_than_it_holds(shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    data = claim_npy(shape)
    (tmp_path / "false.npy").write_bytes(data)
    with expect_little(2_000_000):
        with pytest.raises(TokensError, match=message):
            Tokens.from_bytes(data, SMALL)
        with pytest.raises(TokensError, match=message):
            Tokens.load(tmp_path / "false.npy", SMALL)


@pytest.mark.parametrize("descr", ["<f4", "<f8", "|b1", "<U4", "|V8", "<c16", "|O", "<M8[s]"])
def test_npy_of_other_dtypes(descr: str) -> None:
    with pytest.raises(TokensError, match="expected integers"):
        Tokens.from_bytes(claim_npy((2, 2), descr), SMALL)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"(" * 9000,
        b"-" * 9000,
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (2.5, 2)}",
        b"{'descr': '<i999', 'fortran_order': False, 'shape': (1, 2)}",
        b"{'descr': ('<i8', 'x'), 'fortran_order': False, 'shape': (1, 2)}",
        b"{'descr': '<i8', 'fortran_order': 3, 'shape': (1, 2)}",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': " + b"9" * 5000 + b"}",
        b"\xff\xfe'''",
    ],
)
def test_npy_with_a_senseless_header(header: bytes) -> None:
    for version, size in ((b"\1\0", 2), (b"\2\0", 4)):
        data = b"\x93NUMPY" + version + len(header).to_bytes(size, "little") + header + bytes(64)
        with pytest.raises(TokensError, match=r"header cannot be read; expected a numpy header"):
            Tokens.from_bytes(data, SMALL)


@pytest.mark.parametrize("shape", ["(True, 4, 2)", "(4, True)", f"(1, 1{'0' * 4200}, 2)", f"({2**200}, 2)"])
def test_npy_whose_shape_is_no_list_of_sizes(shape: str) -> None:
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    data = npy.MAGIC_PREFIX + b"\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
    with pytest.raises(TokensError, match="an array whose shape is no list of sizes; expected whole numbers"):
        Tokens.from_bytes(data, SMALL)


def test_a_container_of_another_bundle_is_refused_before_it_is_unpacked() -> None:
    """Two vocabularies of two tokens each: a megabyte of codes unpacks to 32 MB."""
    config = ManyConfig(100, (2, 2))
    data = Tokens.from_array(np.zeros((4_000_000, 2), np.int8), config).to_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(TokensError, match="tokens of many; expected tokens of semanticodec"):
            Tokens.from_bytes(data, SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data)


def test_tokens_of_a_container_cannot_be_changed() -> None:
    codes = Tokens.from_bytes(make_tokens().to_bytes()).codes
    with pytest.raises(ValueError, match="read-only"):
        codes[0, 0] = 1


def test_npy_with_a_huge_header_is_not_read() -> None:
    data = b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + bytes(3_000_000)
    with expect_little(4_000_000), pytest.raises(TokensError, match="header of 4294967295 bytes"):
        Tokens.from_bytes(data, SMALL)
    with pytest.raises(TokensError, match=r"version \[3, 0\]"):
        Tokens.from_bytes(b"\x93NUMPY\3\0" + bytes(90), SMALL)


# ----- loading, saving


@pytest.mark.parametrize("suffix", [".sct", ".SCT"])
def test_load_says_what_the_file_says(suffix: str, tmp_path: Path) -> None:
    tokens = make_tokens(SemantiCodecConfig(100, 3000, 77), SemantiCodecConfig(100, 3000).count_positions(9999), 9999)
    path = tmp_path / f"tokens{suffix}"
    tokens.save(path)
    loaded = Tokens.load(str(path))
    assert loaded == tokens and (loaded.config.tps, loaded.config.vocab) == (100, 3000)
    assert path.read_bytes() == tokens.to_bytes()


def test_load_says_which_codec_it_is(tmp_path: Path) -> None:
    for config in (SMALL, UNIFIED, ManyConfig(75, (16, 17, 18))):
        make_tokens(config).save(tmp_path / "a.sct")
        assert Tokens.load(tmp_path / "a.sct").config == config


def test_load_takes_the_config_it_is_given(tmp_path: Path) -> None:
    make_tokens().save(tmp_path / "a.sct")
    narrow = SemantiCodecConfig(25, 4096, width=16)
    assert Tokens.load(tmp_path / "a.sct", narrow).config is narrow
    assert Tokens.from_bytes(make_tokens().to_bytes(), narrow).config is narrow


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SemantiCodecConfig(50, 4096), "tokens at 25 tps; expected 50 tps, the rate of the bundle: "),
        (SemantiCodecConfig(25, 8192), "tokens whose semantic vocabulary is 4096; expected 8192, the semantic "),
        (SemantiCodecConfig(25, 4096, 16), "tokens whose acoustic vocabulary is 8192; expected 16, the acoustic "),
        (UNIFIED, "tokens of semanticodec; expected tokens of unicodec, the codec of the bundle: decode them with "),
    ],
)
def test_tokens_of_another_bundle(config: SemantiCodecConfig, message: str, tmp_path: Path) -> None:
    tokens = make_tokens()
    tokens.save(tmp_path / "a.sct")
    with pytest.raises(TokensError) as caught:
        tokens.require(config)
    assert str(caught.value).startswith(message)
    with pytest.raises(TokensError) as caught:
        Tokens.load(tmp_path / "a.sct", config)
    assert str(caught.value).startswith(f"{tmp_path / 'a.sct'}: {message}")


def test_files_are_known_by_their_bytes_not_their_names(tmp_path: Path) -> None:
    make_tokens().save(tmp_path / "a.npy")
    (tmp_path / "a.npy").rename(tmp_path / "a.sct")
    assert Tokens.load(tmp_path / "a.sct", SMALL) == make_tokens()


def test_errors_of_load_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "cut.sct").write_bytes(make_tokens().to_bytes()[:-1])
    reasons = {"cut.sct": "a token file cut short", "no.sct": "No such file", ".": "Is a directory"}
    for name, reason in reasons.items():
        path = tmp_path / name
        with pytest.raises(TokensError) as caught:
            Tokens.load(path)
        assert str(caught.value).startswith(f"{path}: {reason}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokens", "tokens.wav", "tokens.npy.gz", ".npy"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TokensError, match=r"expected '\.sct' or '\.npy'"):
        make_tokens().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# ----- whole or not at all


def fail_half_written(error: BaseException) -> Callable[..., Any]:
    def write_half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise error

    return write_half


def fail(error: BaseException) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    return refuse


@pytest.mark.parametrize("suffix", [".sct", ".npy"])
@pytest.mark.parametrize("existing", [None, b"what was there"])
@pytest.mark.parametrize(
    ("owner", "name", "failing"),
    [
        (files, "create_temporary", fail),
        (Path, "write_bytes", fail_half_written),
        (os, "fsync", fail),
        (Path, "replace", fail),
    ],
)
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left on device; expected"),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError, "Permission denied; expected"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (MemoryError(), MemoryError, None),
    ],
)
def test_failed_save_leaves_everything_as_it_was(
    owner: Any,
    name: str,
    failing: Callable[[BaseException], Callable[..., Any]],
    error: BaseException,
    raised: type[BaseException],
    message: str | None,
    existing: bytes | None,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"tokens{suffix}"
    if existing is not None:
        path.write_bytes(existing)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(error))
        with pytest.raises(raised, match=message) as caught:
            make_tokens().save(path)
    if raised is OutputError:
        assert str(caught.value).startswith(f"{path}: ") and isinstance(caught.value, OSError)
    assert list(tmp_path.iterdir()) == ([] if existing is None else [path])
    assert existing is None or path.read_bytes() == existing


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_save_that_the_system_cuts_short(tmp_path: Path) -> None:
    import resource

    tokens = make_tokens(positions=5000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            tokens.save(tmp_path / "a.sct")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    tokens.save(tmp_path / "a.sct")
    assert Tokens.load(tmp_path / "a.sct") == tokens


def test_data_are_synced_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        steps.append(f"sync {os.fstat(descriptor).st_size}")
        sync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        steps.append(f"{self.parent == target.parent} {self.suffix} to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    make_tokens().save(tmp_path / "a.sct")
    assert steps == [f"sync {len(make_tokens().to_bytes())}", "True .sct to a.sct"]


def test_save_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.sct"
    path.write_bytes(bytes(10_000))
    make_tokens().save(path)
    assert Tokens.load(path) == make_tokens() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/a.sct", "file/a.sct", "folder.sct", "a" * 300 + ".sct"])
def test_places_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.sct").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        make_tokens().save(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_folder_without_permission() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # not `tmp_path`, which lies below folders of root alone
        Path(folder).chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(OutputError, match=f"^{folder}/a.sct: Permission denied; expected"):
                make_tokens().save(f"{folder}/a.sct")
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o700)
        assert not list(Path(folder).iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe.sct"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="a folder or a device"):
        make_tokens().save(path)
    assert path.is_fifo()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes and links")
def test_saved_file_is_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.sct").symlink_to(tmp_path / "folder" / "b.sct")
    make_tokens().save(tmp_path / "a.sct")
    assert (tmp_path / "a.sct").is_symlink()
    assert Tokens.load(tmp_path / "folder" / "b.sct") == make_tokens()
    assert (tmp_path / "folder" / "b.sct").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_replacing_works_for_any_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with files.replacing(path) as temporary:
        assert temporary.suffix == ".wav" and temporary.parent == tmp_path and temporary != path
        temporary.write_bytes(b"sound")
        assert not path.exists()
    assert path.read_bytes() == b"sound" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("libsndfile"), TokensError("a", "b"), OutputError("c", "d")])
def test_replacing_lets_other_errors_through(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(type(error)) as caught, files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert caught.value is error and not list(tmp_path.iterdir())


def test_replacing_a_file_that_the_block_took_away(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), files.replacing(tmp_path / "a.wav") as temporary:
        temporary.unlink()
