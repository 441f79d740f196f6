"""A file's length is that of the samples it holds: all are read, or an error states the true reason."""

from __future__ import annotations

import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sc_runtime.audio import Audio
from sc_runtime.audio.flac import find_last_frame, read_frame, run_crc
from sc_runtime.audio.mpeg import read_streams
from sc_runtime.audio.view import View, replace
from sc_runtime.errors import AudioError, AudioWarning

RATE = 16_000
RNG = np.random.default_rng(11)
TIME = np.arange(81_146) / RATE
#: 1 s of noise, which needs many bits, then 4.07 s of a tone, which needs few.
SOUND = np.where(TIME < 1, RNG.uniform(-0.5, 0.5, len(TIME)), 0.3 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)
FFMPEG = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
SOX = pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")


def read(path, **options) -> np.ndarray:
    """The samples of a file at 16 kHz. A warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", AudioWarning)
        with Audio(path, rate=RATE, **options) as audio:
            assert audio.sample_rate == RATE
            return np.concatenate(list(audio.blocks()))


def read_cut(path) -> np.ndarray:
    """The samples of a file that is refused unless the user allows that it was cut short."""
    with pytest.raises(AudioError, match=r"truncated, .*--allow-truncated"):
        Audio(path, rate=RATE)
    with pytest.warns(AudioWarning, match="truncated"), Audio(path, rate=RATE, allow_truncated=True) as audio:
        return np.concatenate(list(audio.blocks()))


def write(path: Path, samples=SOUND, rate=RATE, **options) -> Path:
    if path.suffix == ".sph":
        options["format"] = "NIST"
    soundfile.write(path, samples, rate, **options)
    return path


def edit(path: Path, *changes: tuple[int, bytes], tail: bytes = b"", end: int | None = None) -> Path:
    """Write over bytes of the file, leave out those from `end` on, and append `tail`."""
    data = bytearray(path.read_bytes())
    for offset, new in changes:
        data[offset : offset + len(new)] = new
    path.write_bytes(bytes(data[:end]) + tail)
    return path


def run(*command, given: bytes | None = None) -> bytes:
    return subprocess.run(list(map(str, command)), input=given, capture_output=True, check=True).stdout


# --- sizes in headers


def find_size(data: bytes, name: bytes) -> int:
    """The offset of the size of the chunk `name`."""
    return data.index(name) + len(name)


@pytest.mark.parametrize("declared", [0, 0x7F00_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_wav_from_a_pipe(tmp_path, declared, endian):
    path = write(tmp_path / "a.wav", endian=endian)
    expected = read(path)
    order = "<" if endian == "LITTLE" else ">"
    size = find_size(path.read_bytes(), b"data")
    np.testing.assert_array_equal(read(edit(path, (size, struct.pack(f"{order}I", declared)))), expected)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610"])
def test_wav_of_any_encoding_from_a_pipe(tmp_path, subtype):
    path = write(tmp_path / "a.wav", subtype=subtype)
    expected = read(path)
    edit(path, (find_size(path.read_bytes(), b"data"), bytes(4)))
    found = read(path)
    assert len(expected) <= len(found) <= len(expected) + 512  # of ADPCM and GSM, the header states a part of a block
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_a_wav_without_samples_but_with_chunks_has_none(tmp_path):
    path = write(tmp_path / "a.wav", SOUND[:0])
    with pytest.raises(AudioError, match="no samples"):
        Audio(edit(path, tail=b"LIST" + struct.pack("<I", 4) + b"INFO"), rate=RATE)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au", "sph"])
def test_the_size_of_the_whole_does_not_matter(tmp_path, suffix):
    """All samples are read, whatever size RIFF, riff or FORM declares and whatever follows them."""
    path = write(tmp_path / f"a.{suffix}")
    expected = read(path)
    data = path.read_bytes()
    offset, kind = {"rf64": (20, "<q"), "w64": (16, "<q"), "wav": (4, "<I"), "aiff": (4, ">I")}.get(suffix, (0, "0s"))
    for size in (len(data) + 8, len(data) + 1000, len(data) - 16, 8):
        change = struct.pack(kind, size) if kind != "0s" else b""
        np.testing.assert_array_equal(read(edit(path, (offset, change))), expected)
        path.write_bytes(data)
    for tail in (bytes(64), bytes(200_000), RNG.bytes(64), b"TAG" + b"x" * 125, b"ID3" + b"x" * 9000):
        np.testing.assert_array_equal(read(edit(path, tail=tail)), expected)
        path.write_bytes(data)


def test_a_size_that_counts_missing_padding(tmp_path):
    """The chunks of W64 begin at multiples of 8 bytes, and some programs count the bytes up to there."""
    path = write(tmp_path / "a.w64")
    expected, data = read(path), path.read_bytes()
    size = data.index(b"data") + 16
    held = len(data) - size - 8
    np.testing.assert_array_equal(read(edit(path, (size, struct.pack("<q", 24 + held + 4)))), expected)
    with pytest.raises(AudioError, match="truncated"):
        Audio(edit(path, (size, struct.pack("<q", 24 + held + 8))), rate=RATE)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf"])
def test_chunks_may_follow_the_samples(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}")
    expected = read(path)
    chunk = {
        "w64": b"bext" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + struct.pack("<q", 24 + 8000),
        "aiff": b"ANNO" + struct.pack(">I", 8000),
        "caf": b"info" + struct.pack(">q", 8000),
    }.get(suffix, b"bext" + struct.pack("<I", 8000))
    padding = bytes(-path.stat().st_size % (8 if suffix == "w64" else 1))
    np.testing.assert_array_equal(read(edit(path, tail=padding + chunk + RNG.bytes(8000))), expected)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au", "sph"])
def test_more_samples_than_declared_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", np.tile(SOUND, 2))
    whole = path.read_bytes()
    half = write(tmp_path / f"half.{suffix}").read_bytes()
    length = len(half) - 2 * len(SOUND)
    path.write_bytes(half[:length] + whole[len(whole) - 4 * len(SOUND) :])
    with pytest.raises(AudioError, match=r"declares \d+ bytes of samples, but \d+ more follow"):
        Audio(path, rate=RATE)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au"])
def test_files_that_were_joined_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}")
    with pytest.raises(AudioError, match="another file is appended to it at byte"):
        Audio(edit(path, tail=path.read_bytes()), rate=RATE)


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au", "sph"])
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_the_rest_of_a_cut_file_may_be_read(tmp_path, suffix, share):
    path = write(tmp_path / f"a.{suffix}")
    expected = read(path)
    found = read_cut(edit(path, end=int(path.stat().st_size * share) | 1))
    assert abs(len(found) - share * len(expected)) < 2100  # the header of CAF has 4096 bytes
    np.testing.assert_array_equal(found, expected[: len(found)])


@pytest.mark.parametrize(
    ("suffix", "changes"),
    [
        ("rf64", [(20, bytes(24))]),  # of ds64: all three sizes
        ("rf64", [(28, b"\xff" * 8)]),
        ("w64", [(16, bytes(8)), ("data", struct.pack("<q", 24))]),
        ("w64", [(16, b"\xff" * 8), ("data", struct.pack("<q", 2**63 - 1))]),
        ("aiff", [(4, bytes(4)), ("COMM", bytes(4), 6), ("SSND", bytes(4))]),
        ("aiff", [(4, b"\x7f\0\0\x50"), ("SSND", b"\x7f\0\0\x08")]),
        ("caf", [("data", b"\xff" * 8)]),
        ("au", [(8, b"\xff" * 4)]),
        ("au", [(8, bytes(4))]),
    ],
)
def test_sizes_that_a_pipe_leaves_open(tmp_path, suffix, changes):
    path = write(tmp_path / f"a.{suffix}")
    expected = read(path)
    data = path.read_bytes()
    for where, new, *skip in changes:
        named = isinstance(where, str)
        offset = data.index(where.encode()) + (16 if suffix == "w64" else 4) + sum(skip) if named else where
        edit(path, (offset, new))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(
    ("suffix", "where", "size"),
    [
        ("wav", "data", bytes(4)),
        ("wav", "data", b"\xff" * 4),
        ("rf64", 28, bytes(8)),
        ("w64", "data", struct.pack("<q", 24)),
        ("aiff", "SSND", bytes(4)),
    ],
)
def test_a_cut_file_whose_header_states_only_the_size_of_the_whole(tmp_path, suffix, where, size):
    path = write(tmp_path / f"a.{suffix}")
    expected, data = read(path), path.read_bytes()
    offset = where if isinstance(where, int) else data.index(where.encode()) + (16 if suffix == "w64" else 4)
    np.testing.assert_array_equal(read(edit(path, (offset, size))), expected)
    found = read_cut(edit(path, end=len(data) // 2))
    np.testing.assert_array_equal(found, expected[: len(found)])
    assert abs(len(found) - len(expected) / 2) < 100


PIPED = ["wav", "rf64", "w64", "aiff", "caf", "au", "flac", "ogg", "opus", "mp3", "mp2", "oga"]


@FFMPEG
@pytest.mark.parametrize("suffix", PIPED)
def test_what_ffmpeg_writes_to_a_pipe(tmp_path, suffix):
    write(tmp_path / "a.wav")
    options = {"rf64": ["-rf64", "always", "-f", "wav"], "oga": ["-c:a", "flac", "-f", "ogg"]}
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *options.get(suffix, ["-f", suffix])]
    (tmp_path / f"b.{suffix}").write_bytes(run(*command, "-"))
    with Audio(tmp_path / f"b.{suffix}", rate=RATE) as audio:
        found = np.concatenate(list(audio.blocks()))
    if suffix in ("mp3", "mp2"):  # whole frames, and the delay of the encoder
        assert len(SOUND) <= len(found) <= len(SOUND) + 4 * 1152
    else:
        assert len(found) == len(SOUND)
        exact = suffix not in ("ogg", "opus")
        np.testing.assert_allclose(found, SOUND, rtol=0, atol=1e-4 if exact else 1)
        assert exact or np.corrcoef(found, SOUND)[0, 1] > 0.9


@SOX
@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "flac", "sph", "ogg", "w64", "caf"])
def test_what_sox_writes_to_a_pipe(tmp_path, suffix):
    """sox writes W64 and CAF by libsndfile, which puts one header after another into a pipe."""
    write(tmp_path / "a.wav")
    path = tmp_path / f"b.{suffix}"
    path.write_bytes(run("sox", tmp_path / "a.wav", "-t", suffix, "-"))
    if suffix in ("w64", "caf"):
        with pytest.raises(AudioError, match="another file is appended"):
            Audio(path, rate=RATE)
    else:
        assert len(read(path)) == len(SOUND)


# --- MP3


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> Path:
    """MPEG 2, layer III, with a variable bitrate and a Xing header. It has 143 frames of 576 samples."""
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    return write(path, subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.3)


def split(data: bytes) -> tuple[bytes, bytes]:
    """The frame with the Xing header, and the others."""
    (stream,), _ = read_streams(memoryview(data))
    start = stream.pieces[0].start
    assert stream.tag is not None
    return data[stream.tag.start : start], data[start:]


def test_mp3_with_a_xing_header(mp3):
    (stream,), is_partial = read_streams(memoryview(mp3.read_bytes()))
    assert stream.tag is not None and stream.tag.frames == stream.frames
    assert not is_partial
    expected, _ = soundfile.read(mp3, dtype="float32")
    np.testing.assert_allclose(read(mp3), expected, rtol=0, atol=1e-6)  # soundfile.read seeks to 0, which changes bits
    assert len(expected) == len(SOUND)


def test_blocks_of_an_mp3_join(mp3):
    """Decoding continues across the boundary of two blocks."""
    with Audio(mp3, rate=RATE) as audio:
        whole = np.concatenate(list(audio.blocks(1 << 20)))
        for values in (100, 576, 1000, 65_536):
            np.testing.assert_array_equal(np.concatenate(list(audio.blocks(values))), whole)


def test_mp3_with_a_variable_bitrate_and_no_xing_header(mp3, tmp_path):
    """libsndfile expects the bitrate of the noise throughout, and stops in the tone."""
    path = tmp_path / "a.mp3"
    path.write_bytes(split(mp3.read_bytes())[1])
    assert len(soundfile.read(path)[0]) < 0.8 * len(SOUND)
    found = read(path)
    (stream,), _ = read_streams(memoryview(path.read_bytes()))
    assert len(found) == stream.frames * 576 >= len(SOUND)
    expected = read(mp3)
    delay = np.correlate(found[:9000], expected[2000:6000], "valid").argmax() - 2000
    np.testing.assert_allclose(found[delay : delay + len(expected)][4000:-4000], expected[4000:-4000], atol=1e-5)


@pytest.mark.parametrize("frames", [143, 20])
def test_mp3_with_a_vbri_header(mp3, tmp_path, frames):
    """libmpg123 decodes this header as a frame of sound."""
    tag, sound = split(mp3.read_bytes())
    vbri = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 50, len(sound), frames, 1, 1, 4, frames)
    (tmp_path / "a.mp3").write_bytes((tag[:4] + bytes(32) + vbri).ljust(len(tag), b"\0") + sound)
    (tmp_path / "b.mp3").write_bytes(sound)
    np.testing.assert_array_equal(read(tmp_path / "a.mp3"), read(tmp_path / "b.mp3"))


def test_mp3_whose_xing_header_states_too_little(mp3, tmp_path):
    tag, frames = split(mp3.read_bytes())
    (tmp_path / "a.mp3").write_bytes(tag.replace(struct.pack(">I", 143), struct.pack(">I", 20)) + frames)
    np.testing.assert_array_equal(read(tmp_path / "a.mp3"), read(mp3))


@pytest.mark.parametrize("between", [b"", b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\x08\0" + bytes(1024), bytes(3000)])
def test_mp3_files_that_were_joined(mp3, tmp_path, between):
    """Both are read, whatever tags stand between them."""
    one = mp3.read_bytes()
    (tmp_path / "a.mp3").write_bytes(one + between + one + b"TAG" + bytes(125))
    np.testing.assert_array_equal(read(tmp_path / "a.mp3"), np.tile(read(mp3), 2))
    _, frames = split(one)
    (tmp_path / "b.mp3").write_bytes(frames + between + frames)
    assert len(read(tmp_path / "b.mp3")) == 2 * 143 * 576


def test_mp3_files_of_two_rates_are_refused(mp3, tmp_path):
    other = write(tmp_path / "b.mp3", rate=44_100).read_bytes()
    (tmp_path / "a.mp3").write_bytes(mp3.read_bytes() + other)
    with pytest.raises(AudioError, match="recordings at 16000 and 44100 Hz"):
        Audio(tmp_path / "a.mp3", rate=RATE)


def test_a_cut_mp3(mp3, tmp_path):
    data, path = mp3.read_bytes(), tmp_path / "a.mp3"
    tag, frames = split(data)
    for cut in (data[: len(data) // 2], frames[: len(frames) // 2]):  # with and without a Xing header
        path.write_bytes(cut)
        found = read_cut(path)
        assert 576 * 20 < len(found) < len(SOUND)
    at_a_frame = frames[: len(frames) // 2]
    while read_streams(memoryview(at_a_frame))[1]:
        at_a_frame = at_a_frame[:-1]
    path.write_bytes(tag + at_a_frame)
    with pytest.raises(AudioError, match=r"truncated, \d+ MPEG frames of 143"):
        Audio(path, rate=RATE)
    path.write_bytes(at_a_frame)  # a shorter MP3
    assert len(read(path)) % 576 == 0


def test_tags_and_zeros_after_an_mp3_are_no_sound(mp3, tmp_path):
    for tail in (b"TAG" + bytes(125), bytes(5000), b"APETAGEX" + struct.pack("<III", 2000, 32, 0) + bytes(2012)):
        (tmp_path / "a.mp3").write_bytes(mp3.read_bytes() + tail)
        np.testing.assert_array_equal(read(tmp_path / "a.mp3"), read(mp3))


@FFMPEG
def test_aac_named_mp3_is_refused(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "a.mp3").write_bytes(run("ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-f", "adts", "-"))
    with pytest.raises(AudioError, match=r"a\.mp3: AAC \(ADTS\); expected a whole file in .*ffmpeg"):
        Audio(tmp_path / "a.mp3", rate=RATE)


@FFMPEG
@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("m4a", "MP4 or M4A"),
        ("webm", "Matroska or WebM"),
        ("aac", r"AAC \(ADTS\)"),
        ("wma", "ASF or WMA"),
        ("ac3", "AC-3"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, suffix, name):
    write(tmp_path / "a.wav", rate=48_000)
    run("ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", tmp_path / f"a.{suffix}")
    with pytest.raises(AudioError, match=rf"a\.{suffix}: {name}.*; expected a whole file in .*ffmpeg"):
        Audio(tmp_path / f"a.{suffix}", rate=RATE)


@FFMPEG
@pytest.mark.parametrize("suffix", ["mp2", "mp3"])
@pytest.mark.parametrize("rate", [8000, 22_050, 32_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_frames_of_every_kind_are_counted(tmp_path, suffix, rate, channels):
    if (suffix, rate) == ("mp2", 8000):
        pytest.skip("layer II has no 8 kHz")
    path = tmp_path / f"a.{suffix}"
    write(tmp_path / "a.wav", np.stack([SOUND] * channels, 1), rate)
    run("ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-write_xing", 0, path) if suffix == "mp3" else run(
        "ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", path
    )
    with Audio(path, rate=rate) as audio:
        found = sum(map(len, audio.blocks()))
    assert len(SOUND) <= found <= len(SOUND) + 4 * 1152


# --- FLAC


@pytest.fixture(scope="module")
def flac(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("flac") / "a.flac")


def state(samples: int) -> tuple[int, bytes]:
    """A change of the number of samples in STREAMINFO, at byte 8 of a file."""
    return 8 + 13, bytes([0xF0 | samples >> 32]) + struct.pack(">I", samples & 0xFFFF_FFFF)


@pytest.mark.parametrize("declared", [0, 1, 40_000, len(SOUND) - 1])
@pytest.mark.parametrize("tail", [b"", bytes(100), b"TAG" + b"x" * 125])
def test_flac_that_states_no_length_or_too_little(flac, tmp_path, declared, tail):
    path = Path(shutil.copy(flac, tmp_path))
    np.testing.assert_array_equal(read(edit(path, state(declared), tail=tail)), read(flac))


@pytest.mark.parametrize("declared", [0, len(SOUND), len(SOUND) + 50_000])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9999])
def test_a_cut_flac(flac, tmp_path, declared, share):
    path = Path(shutil.copy(flac, tmp_path))
    found = read_cut(edit(path, state(declared), end=int(path.stat().st_size * share)))
    assert 0 < len(found) < len(SOUND)
    np.testing.assert_array_equal(found, read(flac)[: len(found)])


def test_a_whole_flac_that_states_too_much_was_cut_between_frames(flac, tmp_path):
    path = Path(shutil.copy(flac, tmp_path))
    np.testing.assert_array_equal(read_cut(edit(path, state(10**9))), read(flac))


def test_unknown_bytes_may_follow_a_flac(flac, tmp_path):
    path = Path(shutil.copy(flac, tmp_path))
    np.testing.assert_array_equal(read(edit(path, tail=RNG.bytes(64))), read(flac))


def test_flac_files_that_were_joined(flac, tmp_path):
    path = Path(shutil.copy(flac, tmp_path))
    np.testing.assert_array_equal(read(edit(path, tail=flac.read_bytes())), np.tile(read(flac), 2))
    found = read_cut(edit(path, end=path.stat().st_size - 9))
    np.testing.assert_array_equal(found, np.tile(read(flac), 2)[: len(found)])


@pytest.mark.parametrize("samples", [1, 4095, 4096, 4097, 600_000])
def test_the_last_frame_of_a_flac(tmp_path, samples):
    data = write(tmp_path / "a.flac", np.resize(SOUND, samples)).read_bytes()
    block_size = struct.unpack_from(">H", data, 10)[0]
    frame = find_last_frame(data[42:], block_size)
    assert frame is not None and frame.is_whole
    assert frame.first + frame.samples == samples
    assert read_frame(data[42:60], block_size) is None


def pack_frame(number: int, sound: np.ndarray) -> bytes:
    """A FLAC frame of 16-bit mono samples, not compressed, so that its bytes are those of `sound`, int16 [n]."""
    header = bytes([0xFF, 0xF8, 0x70, 0x08, number]) + struct.pack(">H", len(sound) - 1)
    header += bytes([list(run_crc(header, 8, 0x07))[-1]])
    frame = header + b"\x02" + sound.astype(">i2").tobytes()  # a verbatim subframe
    return frame + struct.pack(">H", list(run_crc(frame, 16, 0x8005))[-1])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("end", [None, -1, -500, -1000])
def test_what_looks_like_a_header_in_a_frame(tmp_path, place, end):
    """It happens by chance: two of the 2 000 files of `test_two_thousand_short_files` were called truncated."""
    sound = RNG.integers(-9000, 9000, (2, 1000)).astype(np.int16)
    false = np.frombuffer(pack_frame(5, sound[0])[:8], ">i2")
    sound[place, 300:304] = false
    info = struct.pack(">HH", 1000, 1000) + bytes(6) + (RATE << 44 | 15 << 36 | 2000).to_bytes(8, "big") + bytes(16)
    frames = [pack_frame(number, half) for number, half in enumerate(sound)]
    assert sum(frame.count(false.tobytes()) for frame in frames) == 1
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC\x80\0\0\x22" + info + b"".join(frames))
    expected = sound.ravel().astype(np.float32) / 2**15
    if end is None:
        np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], expected)
        np.testing.assert_array_equal(read(path), expected)
    else:
        path.write_bytes(path.read_bytes()[:end])
        np.testing.assert_array_equal(read_cut(path), expected[:1000])


# --- Ogg


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_chained_ogg(tmp_path, suffix):
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    one = write(tmp_path / f"a.{suffix}", **options)
    two = write(tmp_path / f"b.{suffix}", SOUND[::-1], **options)
    expected = np.concatenate([read(one), read(two)])
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    np.testing.assert_array_equal(read(path), expected)
    three = np.concatenate([expected, read(one)])
    np.testing.assert_array_equal(read(edit(path, tail=one.read_bytes() + bytes(500))), three)


def test_chained_ogg_of_two_rates_is_refused(tmp_path):
    path = write(tmp_path / "a.ogg")
    with pytest.raises(AudioError, match="recordings at 16000 and 44100 Hz"):
        Audio(edit(path, tail=write(tmp_path / "b.ogg", rate=44_100).read_bytes()), rate=RATE)


@pytest.mark.parametrize("share", [0.4, 0.9, 0.99])
def test_a_cut_ogg(tmp_path, share):
    path = write(tmp_path / "a.ogg", np.tile(SOUND, 3))
    expected = read(path)
    found = read_cut(edit(path, end=int(path.stat().st_size * share)))
    assert 0 < len(found) < len(expected)
    np.testing.assert_allclose(found[:-2048], expected[: len(found) - 2048], atol=1e-6)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_an_ogg_that_was_cut_between_pages_is_read_with_a_warning(tmp_path, suffix):
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = write(tmp_path / f"a.{suffix}", np.tile(SOUND, 3), **options)
    edit(path, end=path.read_bytes().rindex(b"OggS"))
    with pytest.warns(AudioWarning, match="not marked as the last"), Audio(path, rate=RATE) as audio:
        assert 0 < sum(map(len, audio.blocks())) < 3 * len(SOUND)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_an_ogg_with_a_damaged_page_is_refused(tmp_path, suffix, damage):
    """libsndfile leaves the page out and reports nothing."""
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = write(tmp_path / f"a.{suffix}", np.tile(SOUND, 3), **options)
    data = path.read_bytes()
    starts = [position for position in range(len(data)) if data.startswith(b"OggS", position)]
    start, end = starts[len(starts) // 2 :][:2]
    page = b"" if damage == "missing" else data[start : end - 1] + bytes([data[end - 1] ^ 255])
    path.write_bytes(data[:start] + page + data[end:])
    with pytest.raises(AudioError, match=r"decoding ended after \d+ samples of 243438"):
        read(path)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("damage", ["missing", "altered"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_an_ogg_without_its_beginning_or_its_end_is_noticed(tmp_path, suffix, damage, place):
    """libsndfile states a smaller length then, so what it decodes is all that it expects."""
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = write(tmp_path / f"a.{suffix}", np.tile(SOUND, 3), **options)
    data = path.read_bytes()
    starts = [position for position in range(len(data)) if data.startswith(b"OggS", position)]
    if place == "last":
        if damage == "missing":
            pytest.skip("cut between pages: read with a warning")
        start, end = starts[-1], len(data)
    else:
        first = next(i for i, start in enumerate(starts) if any(data[start + 6 : start + 14]))
        start, end = starts[first : first + 2]
    page = b"" if damage == "missing" else data[start : end - 1] + bytes([data[end - 1] ^ 255])
    path.write_bytes(data[:start] + page + data[end:])
    if damage == "missing":  # a recording from a radio begins so, too
        with (
            pytest.warns(AudioWarning, match=r"Ogg pages before byte \d+ are missing"),
            Audio(path, rate=RATE) as audio,
        ):
            assert 0 < sum(map(len, audio.blocks())) < 3 * len(SOUND)
        return
    with pytest.raises(AudioError, match=r"truncated, its Ogg page at byte \d+ is damaged"):
        read(path)


@FFMPEG
def test_flac_in_ogg(tmp_path):
    write(tmp_path / "a.wav")
    path = tmp_path / "a.oga"
    run("ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "flac", path)
    np.testing.assert_array_equal(read(path), read(tmp_path / "a.wav"))
    data = path.read_bytes()
    path.write_bytes(data * 2)
    np.testing.assert_array_equal(read(path), np.tile(read(tmp_path / "a.wav"), 2))
    path.write_bytes(data[: len(data) * 2 // 3])
    found = read_cut(path)
    np.testing.assert_array_equal(found, read(tmp_path / "a.wav")[: len(found)])


# --- damage of any kind


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "aiff", "caf", "au", "sph", "flac", "ogg", "mp3"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_audio_error_or_harmless(tmp_path, suffix, data):
    path = write(tmp_path / f"a.{suffix}", SOUND[:5000])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(0, min(len(content), 200)) | st.integers(0, len(content)))
        content[offset : offset + 4] = data.draw(
            st.sampled_from([b"", bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"]) | st.binary(max_size=100)
        )
    content = content[: data.draw(st.just(len(content)) | st.integers(1, len(content)))] + b"x"
    path.write_bytes(content + data.draw(st.sampled_from([b"", bytes(100), bytes(content)])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        for allow_truncated in (False, True):
            try:
                with Audio(path, rate=RATE, allow_truncated=allow_truncated) as audio:
                    assert audio.count() > 0
            except AudioError as error:
                assert path.name in str(error)


# --- views


def test_a_view_is_the_file_with_other_bytes(tmp_path):
    data = RNG.bytes(1000)
    (tmp_path / "a").write_bytes(data)
    pieces = replace((range(10, 900),), 100, b"new")
    expected = b"first" + data[10:100] + b"new" + data[103:900] + data[:5]
    with View(tmp_path / "a", (b"first", *pieces, b"", range(5))) as view:
        assert view.read() == expected
        for offset in (0, 3, 5, 94, 95, 96, 98, len(expected) - 1, len(expected), len(expected) + 9):
            assert view.seek(offset) == view.tell() == offset
            assert view.read(7) == expected[offset : offset + 7]
        assert view.seek(-4, 2) == len(expected) - 4
        assert view.seek(2, 1) == len(expected) - 2
