"""Other codecs on the same clips, through their own programs: Codec2 (c2enc, c2dec) and Opus (opusenc, opusdec).

`apt-get install codec2 opus-tools` on Debian.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soxr

from sc_runtime.errors import BackendError
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .metrics import MAX_DELAY

CODEC2_RATE = 8000  #: Hz
CODEC2_FRAME = 320  #: samples at 8 kHz in 40 ms; c2enc drops a last frame that is not full
CODEC2_BITS = {"700C": 28, "1200": 48}  #: bits of a frame; c2enc writes whole bytes, so that files of 700C hold 32
TIMEOUT = 120  #: seconds; a program takes less than one for ten of audio
OGG_PAGE = struct.Struct("<4s2xq12xB")  #: magic, granule position, count of lacing values


@dataclass(frozen=True)
class Roundtrip:
    """The decoded sound, float32 [n'] at 16 kHz, with the codec's delay, and the bit rate in bits a second."""

    samples: np.ndarray
    bitrate: float


class Baseline(Protocol):
    """A codec to compare with.

    name: of its row.
    programs: what it runs; `package` is the Debian package that holds them.
    """

    name: str
    programs: tuple[str, ...]
    package: str

    def run(self, samples: np.ndarray) -> Roundtrip:
        """Encode and decode float32 [n] at 16 kHz. Raises BackendError."""
        ...


def explain_absence(baseline: Baseline) -> str | None:
    """Why the baseline cannot run here, or None."""
    missing = [program for program in baseline.programs if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found: apt-get install {baseline.package}" if missing else None


class Codec2:
    """Codec2 in one mode of `CODEC2_BITS`. Its sound is sampled at 8 kHz, so that nothing above 4 kHz comes back."""

    programs: tuple[str, ...] = ("c2enc", "c2dec")
    package = "codec2"

    def __init__(self, mode: str) -> None:
        self.mode, self.name = mode, f"Codec2 {mode}"

    def run(self, samples: np.ndarray) -> Roundtrip:
        narrow = soxr.resample(np.pad(samples, (0, MAX_DELAY)), SAMPLE_RATE, CODEC2_RATE)
        narrow = np.pad(narrow, (0, -len(narrow) % CODEC2_FRAME))
        packed = run_program(["c2enc", self.mode, "-", "-"], to_int16(narrow))
        decoded = run_program(["c2dec", self.mode, "-", "-"], packed)
        wide = soxr.resample(from_int16(decoded), CODEC2_RATE, SAMPLE_RATE)
        return Roundtrip(wide, CODEC2_BITS[self.mode] * CODEC2_RATE / CODEC2_FRAME)


class Opus:
    """Opus at 6 kbit/s, the lowest rate that opusenc takes, with a variable rate and frames of 40 ms.

    Variable and constant rate were tried with frames of 20, 40 and 60 ms. This setting was the best on speech, a
    mixture and a chirp. On noise it was within 2 % of the best, with less than 6 kbit/s. The bit rate is that of the
    packets, without Ogg's headers. At this rate Opus is narrow-band.
    """

    name = "Opus 6k"
    programs: tuple[str, ...] = ("opusenc", "opusdec")
    package = "opus-tools"

    def run(self, samples: np.ndarray) -> Roundtrip:
        raw = ["--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1"]
        settings = [*raw, "--bitrate", "6", "--framesize", "40"]
        packed = run_program(["opusenc", "--quiet", *settings, "-", "-"], to_int16(samples))
        decoded = run_program(["opusdec", "--quiet", "--rate", str(SAMPLE_RATE), "--no-dither", "-", "-"], packed)
        return Roundtrip(from_int16(decoded), 8 * count_packet_bytes(packed) * SAMPLE_RATE / len(samples))


BASELINES: tuple[Baseline, ...] = (Codec2("700C"), Codec2("1200"), Opus())


def count_packet_bytes(ogg: bytes) -> int:
    """Bytes of the audio packets in an Ogg Opus file (RFC 7845): those on pages whose granule position is not 0."""
    total = at = 0
    while at < len(ogg):
        magic, granule, count = OGG_PAGE.unpack_from(ogg, at)
        if magic != b"OggS":
            raise BackendError(f"opusenc wrote no Ogg page at byte {at}", "an Ogg Opus file", "use opus-tools 0.2")
        body = at + OGG_PAGE.size + count
        size = sum(ogg[at + OGG_PAGE.size : body])
        total += size if granule else 0
        at = body + size
    return total


def run_program(command: list[str], data: bytes) -> bytes:
    """The standard output of a program that gets `data` as its standard input. Raises BackendError."""
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{command[0]} did not run ({error})", "a program that works", "try it by hand") from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        shown = " ".join(command)
        raise BackendError(
            f"{shown} failed with {done.returncode} ({said[0]})", "a program that works", "try it by hand"
        )
    return done.stdout


def to_int16(samples: np.ndarray) -> bytes:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def from_int16(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768
