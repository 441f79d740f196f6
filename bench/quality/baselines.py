"""Other codecs on the same clips, through their own programs: Codec2 (c2enc, c2dec) and Opus (opusenc, opusdec).

`apt-get install codec2 opus-tools` on Debian.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr

from bench.quality.metrics import MAX_DELAY
from sc_runtime.errors import BackendError
from sc_runtime.semanticodec.config import SAMPLE_RATE

CODEC2_RATE = 8000  #: Hz
CODEC2_FRAME = 320  #: samples at 8 kHz in 40 ms; c2enc drops what does not fill a frame
CODEC2_BITS = {"700C": 28, "1200": 48}  #: of a frame; c2enc writes whole bytes, so 700C's files hold 32
TIMEOUT = 120  #: seconds for ten of audio; they take less than one
OGG_PAGE = struct.Struct("<4s2xq12xB")  #: magic, granule position, count of lacing values


@dataclass(frozen=True)
class Roundtrip:
    """What came back: float32 [n'] at 16 kHz, delayed as the codec delays, and the bits a second that it took."""

    samples: np.ndarray
    bitrate: float


@dataclass(frozen=True)
class Baseline:
    """A codec to compare with: its name, its programs, their package, its round trip of float32 [n] at 16 kHz."""

    name: str
    programs: tuple[str, ...]
    package: str
    run: Callable[[np.ndarray], Roundtrip]

    def explain_absence(self) -> str | None:
        """Why it cannot run here, or None."""
        missing = [program for program in self.programs if shutil.which(program) is None]
        return f"{' and '.join(missing)} not found: apt-get install {self.package}" if missing else None


def run_codec2(mode: str) -> Callable[[np.ndarray], Roundtrip]:
    """Codec2 in `mode` of `CODEC2_BITS`. It hears and makes 8 kHz, so that nothing above 4 kHz comes back."""

    def run(samples: np.ndarray) -> Roundtrip:
        narrow = soxr.resample(np.pad(samples, (0, MAX_DELAY)), SAMPLE_RATE, CODEC2_RATE)
        narrow = np.pad(narrow, (0, -len(narrow) % CODEC2_FRAME))
        packed = run_program(["c2enc", mode, "-", "-"], to_int16(narrow))
        decoded = run_program(["c2dec", mode, "-", "-"], packed)
        wide = soxr.resample(from_int16(decoded), CODEC2_RATE, SAMPLE_RATE)
        return Roundtrip(wide, CODEC2_BITS[mode] * CODEC2_RATE / CODEC2_FRAME)

    return run


def run_opus(samples: np.ndarray) -> Roundtrip:
    """Opus told 6 kbit/s, its least: variable rate, frames of 40 ms.

    Of variable and constant rate and frames of 20, 40 and 60 ms it was the best on speech, a mixture and a chirp, and
    within 2 % of the best on noise, where it takes less than it may. The bit rate is that of its packets, Ogg's headers
    not counted. At this rate it is narrow-band.
    """
    raw = ["--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1"]
    settings = [*raw, "--bitrate", "6", "--framesize", "40"]
    packed = run_program(["opusenc", "--quiet", *settings, "-", "-"], to_int16(samples))
    decoded = run_program(["opusdec", "--quiet", "--rate", str(SAMPLE_RATE), "--no-dither", "-", "-"], packed)
    return Roundtrip(from_int16(decoded), 8 * count_packet_bytes(packed) * SAMPLE_RATE / len(samples))


BASELINES = (
    Baseline("Codec2 700C", ("c2enc", "c2dec"), "codec2", run_codec2("700C")),
    Baseline("Codec2 1200", ("c2enc", "c2dec"), "codec2", run_codec2("1200")),
    Baseline("Opus 6k", ("opusenc", "opusdec"), "opus-tools", run_opus),
)


def count_packet_bytes(ogg: bytes) -> int:
    """Bytes of audio packets in an Ogg Opus file (RFC 7845): of the pages whose granule position is not 0."""
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
    """What a program makes of `data`, from standard input to standard output. Raises BackendError."""
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
