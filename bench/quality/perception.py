"""Perceptual metrics of other packages: ViSQOL (`visqol-python`), DNSMOS and PLCMOS (`speechmos`).

All are mean opinion scores from 1 to 5 that a model predicts. The models lie in the packages: nothing is downloaded.
Waveforms are float32 [n], mono, 16 kHz, full scale 1. Every function raises ImportError without its package.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import soxr

from sc_runtime.libraries import import_onnxruntime
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .metrics import check_lengths

AUDIO_RATE = 48_000  #: Hz at which ViSQOL's mode for audio works
LEAST_SECONDS = 1.0  #: of a clip; ViSQOL finds no patches in a much shorter one
PLCMOS_SEED = 0  #: of the raters that PLCMOS draws at random


def visqol_speech(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """ViSQOL's mode for speech (Chinen et al. 2020), at 16 kHz, with its lattice model as in Google's program.

    None if one of the sounds is silent or shorter than a second. Raises SettingsError for lengths that differ.
    """
    return run_visqol("speech", original, decoded, SAMPLE_RATE)


def visqol_audio(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """ViSQOL's mode for audio, at 48 kHz; both sounds are resampled. Else as `visqol_speech`.

    Nothing lies above 8 kHz in either sound, so that the score judges what lies below.
    """
    check_lengths(original, decoded)
    first, second = (soxr.resample(sound, SAMPLE_RATE, AUDIO_RATE) for sound in (original, decoded))
    return run_visqol("audio", first, second, AUDIO_RATE)


def run_visqol(mode: str, original: np.ndarray, decoded: np.ndarray, rate: int) -> float | None:
    check_lengths(original, decoded)
    visqol = open_visqol(mode)
    if len(original) < LEAST_SECONDS * rate or not original.any() or not decoded.any():
        return None
    pair = (sound.astype(np.float64) for sound in (original, decoded))
    return float(visqol.measure_from_arrays(*pair, rate).moslqo)


@cache
def open_visqol(mode: str) -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode, use_lattice_model=True if mode == "speech" else None)
    return api


def speech_dnsmos(original: np.ndarray, decoded: np.ndarray) -> float:
    """DNSMOS P.835 (Reddy et al. 2022): the overall quality of `decoded`. The original takes no part in it."""
    return float(open_dnsmos().run(clip(decoded), SAMPLE_RATE)["ovrl_mos"])


def speech_plcmos(original: np.ndarray, decoded: np.ndarray) -> float:
    """PLCMOS v2 (Diener et al. 2023), which judges concealed gaps in `decoded`. The original takes no part in it.

    It averages 15 raters that it draws from NumPy's global generator, which is set to a seed and set back.
    """
    plcmos, state = open_plcmos(), np.random.get_state()  # noqa: NPY002  # the package uses the global one
    np.random.seed(PLCMOS_SEED)  # noqa: NPY002
    try:
        return float(plcmos.run(clip(decoded), SAMPLE_RATE)["plcmos"])
    finally:
        np.random.set_state(state)  # noqa: NPY002


def open_dnsmos() -> Any:
    import_onnxruntime()  # which speechmos imports itself, with its usage reports
    from speechmos import dnsmos

    return dnsmos


def open_plcmos() -> Any:
    import_onnxruntime()
    from speechmos import plcmos

    return plcmos


def clip(sound: np.ndarray) -> np.ndarray:
    """`speechmos` refuses samples beyond full scale."""
    return np.clip(sound, -1, 1)
