"""The filterbank against the published one, against Kaldi's definition in float64, and against itself."""

from __future__ import annotations

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_runtime.accuracy import relative_error
from sc_runtime.audio import Audio, measure
from sc_runtime.errors import AudioError
from sc_runtime.semanticodec.fbank import compute_fbank, count_frames, count_segments, fbank_segments

GOLDEN = Path(__file__).parent / "golden"
SEGMENT = 163_840
ZERO_ROW = 4.2677393 / (2 * 4.5689974)
SILENT_ROW = (np.log(np.finfo(np.float32).eps) + 4.2677393) / (2 * 4.5689974)


def segments_of(samples: np.ndarray) -> list[np.ndarray]:
    return list(fbank_segments([samples], len(samples), samples.sum(dtype=np.float64)))


def kaldi_fbank(samples: np.ndarray) -> np.ndarray:
    """Normalised log-mel energies [frames, 128] in float64, from Kaldi's definition."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, 512))[:, :256] ** 2

    def mel(hertz):
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    edges = np.linspace(mel(20), mel(8000), 130)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    position = mel(np.arange(256) * 16_000 / 512)
    rising, falling = (position - left) / (centre - left), (right - position) / (right - centre)
    energies = power @ np.maximum(0, np.minimum(rising, falling)).T
    return (np.log(np.maximum(energies, np.finfo(np.float32).eps)) + 4.2677393) / (2 * 4.5689974)


@pytest.mark.parametrize("tps", [100, 50, 25])
def test_the_published_filterbank(tps):
    golden = np.load(GOLDEN / f"tps{tps}.npz")
    recording = Audio(GOLDEN / str(golden["wav"]), rate=16_000)
    segments = list(fbank_segments(recording.blocks(), *measure(recording)))
    assert relative_error(segments[0], golden["fbank"]) < 1e-5
    assert count_frames(segments[0]) == count_frames(golden["fbank"])
    tail = golden["fbank_tail"].astype(np.float32)
    assert len(segments) == (2 if len(tail) else 1)
    if len(tail):
        assert relative_error(segments[1], tail) < 1e-3
        assert count_frames(segments[1]) == count_frames(tail) < 1024


def test_kaldis_definition_in_float64():
    rng = np.random.default_rng(3)
    time = np.arange(SEGMENT + 240) / 16_000
    for signal in (
        rng.standard_normal(len(time)) * 0.1,
        np.sin(2 * np.pi * 440 * time) + 1e-3 * rng.standard_normal(len(time)),
        np.sin(2 * np.pi * 300 * time**2) + 0.3 + 1e-2 * rng.standard_normal(len(time)),
    ):
        samples = signal.astype(np.float32)
        fbank = compute_fbank(samples)
        assert fbank.shape == (1024, 128)
        assert fbank.dtype == np.float32
        assert np.abs(fbank - kaldi_fbank(samples)).max() < 1e-3
        assert relative_error(fbank, kaldi_fbank(samples)) < 1e-4


@pytest.mark.parametrize("samples", [1, 399, SEGMENT - 1, SEGMENT, SEGMENT + 1, SEGMENT + 240, 2 * SEGMENT + 5000])
def test_one_segment_at_a_time_equals_the_whole(samples):
    waveform = np.random.default_rng(samples).uniform(-0.5, 0.6, samples).astype(np.float32)
    padded = np.pad(waveform, (0, count_segments(samples) * SEGMENT - samples))
    padded -= padded.mean(dtype=np.float64).astype(np.float32)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    filterbank = kaldi_native_fbank.OnlineFbank(options)
    filterbank.accept_waveform(16_000, padded.tolist())
    filterbank.input_finished()
    whole = np.stack([filterbank.get_frame(i) for i in range(filterbank.num_frames_ready)])
    whole = np.pad(whole, ((0, 2), (0, 0)))
    joined = np.concatenate(segments_of(waveform))
    assert joined.shape == whole.shape == (1024 * (samples // SEGMENT + 1), 128)
    np.testing.assert_allclose(joined, (whole + 4.2677393) / (2 * 4.5689974), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def long_waveform() -> tuple[np.ndarray, np.ndarray]:
    """400 000 samples and their filterbank, from one block."""
    waveform = np.random.default_rng(0).uniform(-1, 1, 400_000).astype(np.float32)
    return waveform, np.concatenate(segments_of(waveform))


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 200_000), min_size=1, max_size=4))
def test_how_the_blocks_are_cut_changes_nothing(long_waveform, cuts):
    waveform, whole = long_waveform
    blocks = np.split(waveform, np.cumsum(cuts))
    joined = np.concatenate(list(fbank_segments(blocks, len(waveform), waveform.sum(dtype=np.float64))))
    np.testing.assert_array_equal(joined, whole)


def test_segments_are_made_as_the_blocks_come():
    taken = []

    def blocks():
        for index in range(40):
            taken.append(index)
            yield np.zeros(16_384, np.float32)

    segments = fbank_segments(blocks(), 40 * 16_384, 0.0)
    next(segments)
    assert len(taken) == 11  # 10 blocks make a segment, one more holds its 240 samples of lookahead
    assert sum(1 for _ in segments) == 4


@pytest.mark.parametrize("samples", [SEGMENT, SEGMENT + 240])
def test_equal_samples_make_empty_frames(samples):
    for level in (0.0, 0.25, 1.0, -0.7):
        fbank = compute_fbank(np.full(samples, level, np.float32))
        assert count_frames(fbank) == 0
        np.testing.assert_allclose(fbank[:1022], SILENT_ROW, rtol=1e-6)
        np.testing.assert_allclose(fbank[1022:], SILENT_ROW if samples > SEGMENT else ZERO_ROW, rtol=1e-6)


def test_a_silent_file_is_empty_everywhere():
    assert [count_frames(segment) for segment in segments_of(np.zeros(SEGMENT + 7, np.float32))] == [0, 0]


def test_a_constant_file_is_empty_but_for_its_end():
    """Padding makes a step at sample 80 000. The frames [498, 500) contain it, later frames do not."""
    (segment,) = segments_of(np.full(80_000, 0.5, np.float32))
    assert count_frames(segment) == 500
    assert count_frames(segment[:498]) == 0


@pytest.mark.parametrize("last", [0, 1, 511, 1021, 1023])
def test_count_frames_counts_to_the_last_frame_that_is_not_empty(last):
    fbank = np.full((1024, 128), SILENT_ROW, np.float32)
    assert count_frames(fbank) == 0
    fbank[last, 5] += 1e-3
    assert count_frames(fbank) == last + 1
    fbank[0, 7] += 1
    assert count_frames(fbank) == last + 1


def test_the_threshold_of_an_empty_frame():
    """One bin of 128 that differs by d has a standard deviation of d · √127 / 128."""
    fbank = np.zeros((1024, 128), np.float32)
    fbank[9, 0] = 0.99e-7 * 128 / np.sqrt(127)
    assert count_frames(fbank) == 0
    fbank[9, 0] = 1.01e-7 * 128 / np.sqrt(127)
    assert count_frames(fbank) == 10


def test_rows_of_any_equal_value_are_empty():
    values = np.random.default_rng(5).normal(0, 3, 1024).astype(np.float32)
    assert count_frames(np.repeat(values[:, None], 128, axis=1)) == 0


def test_the_mean_is_that_of_the_padded_waveform():
    waveform = np.random.default_rng(6).uniform(0, 1, 100_000).astype(np.float32)
    padded = np.pad(waveform, (0, SEGMENT - len(waveform)))
    centred = padded - np.float32(padded.mean(dtype=np.float64))
    (segment,) = segments_of(waveform)
    np.testing.assert_array_equal(segment, compute_fbank(centred))


def test_a_recording_that_changes_between_the_passes_is_refused():
    block = np.zeros(1000, np.float32)
    for promised in (999, 1001, 1000 + SEGMENT):
        with pytest.raises(AudioError, match="audio of 1000 samples"):
            list(fbank_segments([block], promised, 0.0))


@pytest.mark.parametrize("shape", [(0,), (SEGMENT - 1,), (SEGMENT + 241,), (1, SEGMENT)])
def test_other_segments_are_refused(shape):
    with pytest.raises(AudioError, match="segment of shape"):
        compute_fbank(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("samples", "segments"), [(1, 1), (SEGMENT - 1, 1), (SEGMENT, 2), (2 * SEGMENT, 3)])
def test_an_exact_multiple_gains_a_segment(samples, segments):
    assert count_segments(samples) == segments
    assert len(segments_of(np.zeros(samples, np.float32))) == segments
