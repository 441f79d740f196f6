"""Reading and writing audio: the samples, the errors, and memory that does not grow with the file."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_runtime.audio import Audio, audio_writer, find_audio, measure, save_audio
from sc_runtime.audio.blocks import BLOCK_VALUES
from sc_runtime.errors import AudioError, AudioWarning, OutputError

RNG = np.random.default_rng(7)
NOISE = RNG.uniform(-0.5, 0.5, (48_000, 2)).astype(np.float32)


RATE = 16_000  #: the codec's, unless a test says otherwise


def read(source, *args, rate=RATE, values=BLOCK_VALUES, **kwargs):
    return np.concatenate(list(Audio(source, *args, rate=rate, **kwargs).blocks(values)))


def write(path: Path, samples=NOISE, rate=16_000, **kwargs) -> Path:
    soundfile.write(path, samples, rate, **kwargs)
    return path


# --- reading


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au", "a.caf", "a.w64", "a.rf64"])
def test_every_format_gives_its_first_channel(tmp_path, name):
    path = write(tmp_path / name)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    samples = read(path)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, expected[:, 0], rtol=0, atol=1e-6)  # MP3: a seek to 0 changes a last bit


def test_opus_is_read_at_its_rate(tmp_path):
    path = write(tmp_path / "a.opus", rate=48_000, format="OGG", subtype="OPUS")
    assert Audio(path, rate=RATE).sample_rate == 48_000
    assert len(read(path)) == 16_000


def test_float_files_keep_what_exceeds_full_scale(tmp_path):
    path = write(tmp_path / "a.wav", NOISE * 30, subtype="FLOAT")
    np.testing.assert_array_equal(read(path), (NOISE * 30)[:, 0])


def test_blocks_can_be_read_twice_and_interleaved(tmp_path):
    recording = Audio(write(tmp_path / "a.flac", np.tile(NOISE, (4, 1))), rate=RATE)
    pairs = list(zip(recording.blocks(), recording.blocks(), strict=True))
    assert len(pairs) > 4
    assert all(np.array_equal(one, two) for one, two in pairs)


def test_streams_bytes_and_pipes_equal_the_file(tmp_path):
    path = write(tmp_path / "a.wav", rate=22_050)
    expected = read(path)
    data = path.read_bytes()
    with Audio(data, rate=RATE) as from_bytes, Audio(io.BytesIO(data), rate=RATE) as from_stream:
        np.testing.assert_array_equal(np.concatenate(list(from_bytes.blocks())), expected)
        np.testing.assert_array_equal(np.concatenate(list(from_stream.blocks())), expected)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    with Audio(pipe, rate=RATE) as from_pipe:
        writer.join()
        assert measure(from_pipe)[0] == len(expected)
        np.testing.assert_array_equal(np.concatenate(list(from_pipe.blocks())), expected)


def test_a_spooled_stream_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE, 16_000, format="WAV")
    with Audio(buffer.getvalue(), rate=RATE):
        assert len(list(tmp_path.iterdir())) == 1
    for data in (b"", b"not audio", buffer.getvalue()[:1000]):
        with pytest.raises(AudioError):
            Audio(data, rate=RATE)
    with pytest.raises(AudioError, match="binary stream"):
        Audio(io.StringIO("text"), rate=RATE)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_cannot_be_read_or_copied(tmp_path, monkeypatch):
    """The error tells the two apart. A bound on the size of files stands for a full disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed, text, failing, numbers = (
        io.BytesIO(b"x"),
        io.TextIOWrapper(io.BytesIO(b"\xff\xfe")),
        io.BytesIO(),
        io.BytesIO(),
    )
    closed.close()
    failing.read = lambda size: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    numbers.read = lambda size: 5
    for stream in (closed, text, failing, numbers):
        with pytest.raises(AudioError, match="expected a binary stream"):
            Audio(stream, rate=RATE)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(AudioError, match="expected room for a temporary file") as caught:
            Audio(bytes(2_000_000), rate=RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.__cause__.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(AudioError, match="expected room for a temporary file"):
        Audio(b"x", rate=RATE)


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 2**15), ("int32", 2**31)])
def test_integer_arrays_are_scaled_to_one(dtype, scale):
    array = (NOISE * scale).astype(dtype)
    array[0] = np.iinfo(dtype).min
    samples = read(array)
    assert samples[0] == -1
    np.testing.assert_allclose(samples, array[:, 0] / scale, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_arrays_are_taken_as_they_are(dtype):
    array = NOISE.astype(dtype)
    np.testing.assert_array_equal(read(array), array[:, 0].astype(np.float32))
    np.testing.assert_array_equal(read(array[::-2, 1]), array[::-2, 1].astype(np.float32))


def test_a_file_whose_name_is_not_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.wav"))
    save_audio(path, NOISE[:, 0], RATE)
    assert len(read(path)) == len(NOISE)
    assert find_audio(tmp_path) == [path]


@pytest.fixture(params=["file", "int16 file", "int16", "int32", "float32", "float64", "columns first"])
def stereo(request, tmp_path):
    """A source of three seconds in two channels, and its samples as float32 [n, 2]."""
    if "file" in request.param:
        path = write(tmp_path / "a.wav", subtype="PCM_16" if "int" in request.param else "FLOAT")
        return path, soundfile.read(path, dtype="float32")[0]
    if request.param.startswith("int"):
        scale = -np.iinfo(request.param).min
        array = (NOISE.astype(np.float64) * scale).astype(request.param)
        return array, array.astype(np.float32) / np.float32(scale)
    return np.array(NOISE, None if "columns" in request.param else request.param, order="F"), NOISE


def test_the_mean_of_two_channels_is_that_of_float32(stereo):
    """To the bit, in blocks of any length."""
    source, samples = stereo
    expected = (samples[:, 0] + samples[:, 1]) / np.float32(2)
    mixed = read(source, mono="mean")
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed, expected)
    assert len(list(Audio(source, rate=RATE, mono="mean").blocks())) > 1
    np.testing.assert_array_equal(read(source, mono="mean", values=999), expected)
    np.testing.assert_array_equal(read(source, mono="first", values=999), samples[:, 0])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_the_mean_is_that_of_torch(tmp_path, channels):
    torch = pytest.importorskip("torch")
    samples = RNG.uniform(-1, 1, (1000, channels)).astype(np.float32)
    expected = torch.from_numpy(samples.T).mean(0).numpy()
    np.testing.assert_array_equal(read(samples, mono="mean"), expected)
    np.testing.assert_array_equal(read(write(tmp_path / "a.wav", samples, subtype="FLOAT"), mono="mean"), expected)


def test_one_channel_is_its_own_mean(tmp_path):
    column = NOISE[:, 0]
    path = write(tmp_path / "a.wav", column, subtype="FLOAT")
    for source in (path, column, column[:, np.newaxis], (column * 2**15).astype(np.int16)):
        np.testing.assert_array_equal(read(source, mono="mean"), read(source))
    np.testing.assert_array_equal(read(path, mono="mean"), column)


def test_the_mean_is_taken_before_resampling(tmp_path):
    path = write(tmp_path / "a.wav", rate=44_100, subtype="FLOAT")
    expected = read((NOISE[:, 0] + NOISE[:, 1]) / np.float32(2), 44_100, rate=24_000)
    np.testing.assert_array_equal(read(path, rate=24_000, mono="mean"), expected)
    np.testing.assert_array_equal(read(NOISE, 44_100, rate=24_000, mono="mean"), expected)


def test_channels_that_do_not_cancel_are_reported():
    """Infinities of both signs, and a sum beyond float32."""
    for bad in ([np.inf, -np.inf], [3e38, 3e38], [np.nan, 0]):
        with pytest.raises(AudioError, match=r"at 0\.000 s"):
            measure(Audio(np.array([bad, bad], np.float32), rate=RATE, mono="mean"))


def test_measure_counts_and_sums(tmp_path):
    path = write(tmp_path / "a.wav", np.tile(NOISE + 0.25, (3, 1)), subtype="FLOAT")
    samples, total = measure(Audio(path, rate=RATE))
    assert samples == 3 * len(NOISE)
    assert total == pytest.approx(3 * (NOISE[:, 0] + np.float32(0.25)).sum(dtype=np.float64), rel=1e-12)


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.wav"
        with soundfile.SoundFile(path, "w", 44_100, 2) as file:
            for _ in range(seconds // 10):
                file.write(np.zeros((441_000, 2), np.int16))
        measure(Audio(path, rate=RATE))  # imports, once
        tracemalloc.start()
        try:
            assert measure(Audio(path, rate=RATE)) == (seconds * 16_000, 0.0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, long = peak(20), peak(600)
    assert long < short + 100_000 < 4_000_000


# --- resampling


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([1000, 7999, 8000, 11_025, 16_001, 22_050, 44_100, 48_000, 96_000, 768_000]),
    n=st.integers(1, 3000),
    wanted=st.sampled_from([16_000, 24_000]),
)
def test_resampled_length_is_the_published_one(rate, n, wanted):
    assert len(read(np.zeros(n, np.float32), rate, rate=wanted)) == -(-n * wanted // rate)


@pytest.mark.parametrize("wanted", [16_000, 24_000])
@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_resampling_keeps_a_tone_in_place(rate, wanted):
    seconds = 0.5
    tone = np.sin(2 * np.pi * 1000 * np.arange(int(rate * seconds)) / rate)
    expected = np.sin(2 * np.pi * 1000 * np.arange(int(wanted * seconds)) / wanted)
    inner = slice(500, -500)
    assert np.abs(read(tone, rate, rate=wanted)[inner] - expected[inner]).max() < 1e-4


def test_resampling_removes_what_would_alias():
    tone = np.sin(2 * np.pi * 10_000 * np.arange(48_000) / 48_000)
    assert np.abs(read(tone, 48_000)[500:-500]).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_block_length_changes_no_sample(tmp_path, rate):
    path = write(tmp_path / "a.wav", rate=rate, subtype="FLOAT")
    whole = read(path)
    np.testing.assert_array_equal(read(NOISE, rate), whole)
    np.testing.assert_array_equal(read(path, values=1000), whole)
    np.testing.assert_array_equal(read(NOISE, rate, values=1000), whole)


# --- what is refused


def test_files_that_are_not_audio_are_refused(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello\n" * 1000)
    (tmp_path / "noise.mp3").write_bytes(RNG.bytes(20_000))
    (tmp_path / "samples.raw").write_bytes(bytes(1000))
    write(tmp_path / "header.wav", NOISE[:0])
    for name, reason in {
        "missing.wav": "No such file",
        "": "Is a directory",
        "empty.wav": "empty",
        "text.wav": "not audio",
        "noise.mp3": "not audio",
        "samples.raw": "without a header",
        "header.wav": "no samples",
    }.items():
        with pytest.raises(AudioError, match=reason) as error:
            Audio(tmp_path / name, rate=RATE)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "au", "w64", "rf64"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_files_are_refused(tmp_path, suffix, share):
    whole = write(tmp_path / f"whole.{suffix}")
    assert len(read(whole)) == len(NOISE)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(AudioError, match=r"truncated|cut short"):
        read(cut)


@pytest.mark.parametrize("declared", [0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_written_to_a_pipe_is_whole(tmp_path, declared):
    data = bytearray(write(tmp_path / "a.wav").read_bytes())
    position = data.index(b"data")
    data[position + 4 : position + 8] = struct.pack("<I", declared)
    with Audio(bytes(data), rate=RATE) as recording:
        assert measure(recording)[0] == len(NOISE)


def test_damage_inside_a_flac_is_reported(tmp_path):
    path = write(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"a\.flac"):
        read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e12])
def test_a_sample_that_is_not_finite_is_reported_with_its_time(tmp_path, bad):
    samples = np.zeros(160_000, np.float32)
    samples[100_000] = bad
    path = write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    for source in (path, samples, samples.astype(np.float64)):
        with pytest.raises(AudioError, match=r"at 12\.500 s"):
            measure(Audio(source, 8000, rate=RATE))


def test_a_float64_beyond_float32_is_reported():
    with pytest.raises(AudioError, match=r"inf at 0\.000 s"):
        measure(Audio(np.array([1e300]), rate=RATE))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros((10, 0), np.float32),
        np.zeros((2, 16_000), np.float32),
        np.zeros((1, 10, 1), np.float32),
        np.float32(1)[()] * np.ones(()),
        np.zeros(10, np.int64),
        np.zeros(10, np.uint8),
        np.zeros(10, bool),
        np.zeros(10, complex),
        np.array(["a"]),
    ],
)
def test_arrays_that_are_not_audio_are_refused(array):
    with pytest.raises(AudioError):
        Audio(array, rate=RATE)


@pytest.mark.parametrize("rate", [0, -16_000, 999, 1_000_001, 44_100.5, np.nan, "16000", True])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(AudioError, match="sample rate"):
        Audio(NOISE, rate, rate=RATE)


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32])
def test_a_rate_may_be_of_any_numeric_type(kind):
    recording = Audio(NOISE, kind(48_000), rate=RATE)
    assert measure(recording)[0] == 16_000
    assert type(recording.sample_rate) is int


def test_another_rate_than_the_files_is_refused(tmp_path):
    path = write(tmp_path / "a.wav")
    np.testing.assert_array_equal(read(path, 16_000), read(path))
    with pytest.raises(AudioError, match="sample rate 44100 for a file at 16000 Hz"):
        Audio(path, 44_100, rate=RATE)


@pytest.mark.parametrize("dtype", [">i2", "<i2", ">i4", "<i4", ">f4", ">f8"])
def test_arrays_of_either_byte_order(dtype):
    values = np.array([0, 1000, -32_768, 32_767])
    scale = {2: 2**15, 4: 2**31}[np.dtype(dtype).itemsize] if "i" in dtype else 2**15
    array = (values if "i" in dtype else values / scale).astype(dtype)
    np.testing.assert_array_equal(read(array), (values / scale).astype(np.float32))


def test_a_tensor_is_an_array():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return NOISE

    np.testing.assert_array_equal(read(Tensor()), NOISE[:, 0])


@pytest.mark.parametrize("shape", [(2, 64), (1, 2), (2, 16_000)])
def test_arrays_with_the_axes_swapped_are_refused(shape):
    with pytest.raises(AudioError, match=r"array of shape .*\[samples, channels"):
        Audio(np.zeros(shape, np.float32), rate=RATE)


def test_floats_at_the_scale_of_integers_are_noted(tmp_path):
    loud = NOISE * 32_768
    for source in (loud, write(tmp_path / "a.wav", loud, subtype="FLOAT")):
        with pytest.warns(AudioWarning, match="full scale is 1; divide 16-bit values by 32768") as found:
            np.testing.assert_array_equal(read(source), loud[:, 0])
        assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(NOISE * 30)  # peaks of 15
        read((NOISE * 32_768).astype(np.int16))


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_an_array_is_at_the_rate_of_the_codec_unless_another_is_given(rate):
    recording = Audio(NOISE, rate=rate)
    assert recording.sample_rate == recording.rate == rate
    np.testing.assert_array_equal(read(NOISE, rate=rate), NOISE[:, 0])


@pytest.mark.parametrize("source", [[0.0, 0.5], None, 3])
def test_other_sources_are_refused(source):
    with pytest.raises(AudioError, match="NumPy"):
        Audio(source, rate=RATE)


# --- folders


def test_find_audio_is_recursive_sorted_and_skips_what_is_not_audio(tmp_path):
    names = ["b.wav", "a.FLAC", "sub/c.mp3", "sub/d.txt", "e.opus", "f.raw", "g.npy", "h.mp2"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.wav").mkdir()
    for name in names:
        (tmp_path / name).touch()
    expected = sorted(tmp_path / name for name in ("b.wav", "a.FLAC", "sub/c.mp3", "e.opus", "h.mp2"))
    assert find_audio(tmp_path) == expected


def test_find_audio_states_what_it_leaves_out(tmp_path):
    names = ["a.wav", ".b.wav", ".git/c.wav", "d.m4a", "e.M4A", "f.webm", "g.decoded.wav", "h.roundtrip.wav", "i.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.warns(AudioWarning) as found:
        assert find_audio(tmp_path) == [tmp_path / "a.wav"]
    left_out = (
        "1 broken link, 2 earlier outputs, 1 hidden file, 1 hidden folder, 1 linked folder, 1 special file, "
        "2 unreadable .m4a files, 1 unreadable .webm file"
    )
    assert [str(warning.message) for warning in found] == [f"{tmp_path}: left out {left_out}"]
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match=r"no audio in this folder \(left out 1 broken link, "):
        find_audio(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "a.wav")
    (tmp_path / "sub").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder
    with pytest.raises(AudioError, match="sub: Permission denied"):
        find_audio(tmp_path)


def test_a_folder_without_audio_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(AudioError, match="no audio"):
            find_audio(folder)


# --- writing


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_what_is_written_is_read_back_to_16_bits(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    samples = np.concatenate([NOISE[:, 0], [1.0, -1.0, 1.5, -7.0]])
    with audio_writer(path, RATE) as writer:
        for start in range(0, len(samples), 7777):
            writer.write(samples[start : start + 7777])
        assert writer.samples == len(samples)
    assert soundfile.info(path).subtype == "PCM_16"
    assert np.abs(read(path) - np.clip(samples, -1, 1)).max() <= 1 / 32_768
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_long_block_is_written_to_ogg(tmp_path):
    samples = np.tile(NOISE[:, 0], 60)  # 3 minutes in one block overflow the stack of libsndfile's Vorbis encoder
    save_audio(tmp_path / "a.ogg", samples, RATE)
    assert soundfile.info(tmp_path / "a.ogg").frames == len(samples)


def test_another_rate_is_written(tmp_path):
    save_audio(tmp_path / "a.wav", NOISE[:, 0], 24_000)
    assert soundfile.info(tmp_path / "a.wav").samplerate == 24_000


class OneWay(io.RawIOBase):
    """A stream like standard output into a pipe: no seeking, no telling."""

    def __init__(self) -> None:
        self.received = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.received += bytes(data)
        return len(data)


def test_a_stream_receives_a_complete_wav(tmp_path):
    stream = OneWay()
    save_audio(stream, NOISE[:, 0], RATE)
    save_audio(tmp_path / "a.wav", NOISE[:, 0], RATE)
    assert stream.received == (tmp_path / "a.wav").read_bytes()


def test_a_failure_leaves_the_output_as_it_was(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    stream = OneWay()
    for target in (path, stream):
        with pytest.raises(KeyboardInterrupt), audio_writer(target, RATE) as writer:
            writer.write(NOISE[:, 0])
            raise KeyboardInterrupt
        for bad in (NOISE, NOISE[:, 0].astype(np.int16), np.array([np.nan], np.float32), np.array([np.inf])):
            with pytest.raises(AudioError), audio_writer(target, RATE) as writer:
                writer.write(bad)
    assert path.read_bytes() == b"precious"
    assert stream.received == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    for target in (tmp_path / "a.xyz", tmp_path / "a", tmp_path / "missing" / "a.wav"):
        with pytest.raises(OutputError):
            save_audio(target, NOISE[:, 0], RATE)
    closed = OneWay()
    closed.write = lambda data: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe"))
    with pytest.raises(OutputError, match="Broken pipe"):
        save_audio(closed, NOISE[:, 0], RATE)
    with pytest.raises(AudioError, match="sample rate"):
        save_audio(tmp_path / "a.wav", NOISE[:, 0], 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("limit", [300, 30_000])
def test_a_full_disk_is_reported(tmp_path, suffix, limit):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match="free space"):
            save_audio(tmp_path / f"a.{suffix}", np.tile(NOISE[:, 0], 5), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    """A stream is full when its device is; the WAV for it is written to a temporary folder first."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(OutputError) as caught:
            save_audio(io.BytesIO(), np.tile(NOISE[:, 0], 5), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.remedy == f"check the free space in {tmp_path}"


class FailingStream:
    def __init__(self, code: int) -> None:
        self.code = code

    def read(self, size=-1):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_stream_that_fails_needs_no_room_here(code):
    with pytest.raises(AudioError) as caught:
        Audio(FailingStream(code), rate=RATE)
    assert (caught.value.expected, caught.value.remedy) == ("a binary stream that can be read", "")


# --- imports


def test_arrays_need_no_audio_library():
    code = """
import sys
for name in ("soundfile", "soxr", "kaldi_native_fbank"):
    sys.modules[name] = None
import numpy as np
import sc_runtime.semanticodec.fbank
from sc_runtime.audio import Audio, measure
assert measure(Audio(np.ones(5, np.float32), rate=16_000)) == (5, 5.0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
