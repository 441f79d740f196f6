"""Waveform → log-mel segments of 1024 frames, as AudioMAE was trained on (Liu et al. 2024, section III-A).

Frame f of Kaldi's filterbank depends on samples [160·f, 160·f + 400) only. So segment i of the padded waveform depends
on samples [163 840·i, 163 840·(i + 1) + 240) only, and segments are made one at a time, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError

from .config import FRAME_SHIFT, MEL_BINS, SAMPLE_RATE, SEGMENT_FRAMES, SEGMENT_SAMPLES, count_segments

LOOKAHEAD = 240  #: samples of the next segment that the last frame depends on (frames are 25 ms long, 10 ms apart)
MEL_MEAN = 4.2677393  #: added to the log-mel energies, whose mean over AudioMAE's training set is -4.2677393
MEL_SCALE = 2 * 4.5689974  #: the sum is divided by it: twice the standard deviation over the training set
EMPTY_DEVIATION = 1e-7  #: a frame is empty if its standard deviation over the bins is at most this


def fbank_segments(
    blocks: Iterable[npt.NDArray[np.float32]], samples: int, total: float
) -> Iterator[npt.NDArray[np.float32]]:
    """Normalised log-mel segments [1024, 128] float32 of a whole recording, one at a time.

    blocks: float32 [any length], mono, 16 kHz. samples: their number of samples. total: the sum of their values
    (`measure` computes both). The mean of the zero-padded waveform is subtracted before the filterbank. The last two
    frames of the padded waveform have no samples; they are zero before normalisation. One segment is held at a time.
    Raises `AudioError` if the blocks do not have `samples` samples.
    """
    padded = count_segments(samples) * SEGMENT_SAMPLES
    mean = np.float32(total / padded)
    padding = np.zeros(padded - samples, np.float32)
    window = np.empty(SEGMENT_SAMPLES + LOOKAHEAD, np.float32)
    filled = seen = 0
    for block in chain(blocks, [padding]):
        seen += len(block)
        while len(block):
            part = block[: len(window) - filled]
            window[filled : filled + len(part)] = part
            filled += len(part)
            block = block[len(part) :]
            if filled == len(window):
                yield compute_fbank(window - mean)
                window[:LOOKAHEAD] = window[-LOOKAHEAD:]
                filled = LOOKAHEAD
    if seen != padded:
        raise AudioError(
            f"audio of {seen - len(padding)} samples",
            f"the {samples} of its first reading",
            "do not write to the file while it is read",
        )
    yield compute_fbank(window[:filled] - mean)


def compute_fbank(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Normalised log-mel energies [1024, 128] float32 of one segment.

    `samples` float32 at 16 kHz, mean already subtracted: [164 080] inside a recording, [163 840] at its end,
    where 1022 frames fit and the last two are zero before normalisation. Raises `AudioError` for another
    length.

    Kaldi's filterbank: 25 ms symmetric Hann window, 10 ms shift, DC removed and pre-emphasis of 0.97 within
    the frame, power spectrum, 128 triangles on the HTK mel scale from 20 Hz to 8 kHz, natural logarithm of
    the energy or of float32's epsilon, whichever is larger.
    """
    if samples.shape not in ((SEGMENT_SAMPLES,), (SEGMENT_SAMPLES + LOOKAHEAD,)):
        expected = f"[{SEGMENT_SAMPLES}] or [{SEGMENT_SAMPLES + LOOKAHEAD}]"
        raise AudioError(f"segment of shape {list(samples.shape)}", expected)
    import kaldi_native_fbank  # here, so that decoding does not need it

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"  # Kaldi's symmetric window; "hann" would be the periodic one
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.frame_shift_ms = 1000 * FRAME_SHIFT / SAMPLE_RATE
    options.mel_opts.num_bins = MEL_BINS
    options.htk_compat = True
    options.use_energy = False
    filterbank = kaldi_native_fbank.OnlineFbank(options)
    filterbank.accept_waveform(SAMPLE_RATE, samples.data)  # converts faster than the array itself
    filterbank.input_finished()
    fbank = np.zeros((SEGMENT_FRAMES, MEL_BINS), np.float32)
    for frame in range(filterbank.num_frames_ready):
        fbank[frame] = filterbank.get_frame(frame)
    fbank += np.float32(MEL_MEAN)
    fbank /= np.float32(MEL_SCALE)
    return fbank


def count_frames(fbank: npt.NDArray[np.float32]) -> int:
    """Number of frames of `fbank` [1024, 128] up to the last one that is not empty: 0 if all are empty, to 1024.

    The deviation is computed in float64: in float32 that of equal values need not be 0.
    """
    (filled,) = np.nonzero(fbank.std(axis=1, dtype=np.float64) > EMPTY_DEVIATION)
    return int(filled[-1]) + 1 if len(filled) else 0
