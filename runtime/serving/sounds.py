"""Sound as the answers carry it: the formats that soundfile writes, and bare PCM."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np

from sc_runtime.audio import AudioWriter

from .problems import ProblemError


@dataclass(frozen=True)
class SoundFormat:
    """A value of `response_format`.

    container, encoding: as libsndfile names them.
    streams: whether a file can be sent before its end is known.
    """

    media_type: str
    container: str
    encoding: str
    streams: bool = True


#: wav, flac and ogg are encoded as the command line encodes them. flac and mp3 state facts of the whole in their first
#: bytes, so they are sent when they are whole.
FORMATS = {
    "wav": SoundFormat("audio/wav", "WAV", "PCM_16"),
    "flac": SoundFormat("audio/flac", "FLAC", "PCM_16", streams=False),
    "ogg": SoundFormat("audio/ogg", "OGG", "VORBIS"),
    "opus": SoundFormat("audio/ogg; codecs=opus", "OGG", "OPUS"),
    "mp3": SoundFormat("audio/mpeg", "MP3", "MPEG_LAYER_III", streams=False),
    "pcm": SoundFormat("application/octet-stream", "RAW", "PCM_16"),
}
BIT_DEPTHS = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}  #: of PCM, little-endian


def find_format(name: str, bit_depth: int | None, stream: bool) -> SoundFormat:
    """Raises ProblemError for a combination that does not work."""
    if bit_depth is not None and name != "pcm":
        raise ProblemError(422, "settings", f"bit_depth with {name}", "bit_depth with pcm alone", "leave it out")
    found = FORMATS[name]
    if stream and not found.streams:
        expected = " or ".join(each for each, other in FORMATS.items() if other.streams)
        raise ProblemError(422, "settings", f"stream=true with {name}", expected, "choose another response_format")
    if bit_depth is not None:
        if bit_depth not in BIT_DEPTHS:
            expected = " or ".join(map(str, BIT_DEPTHS))
            raise ProblemError(422, "settings", f"bit_depth {bit_depth}", expected, "choose one, or leave it out")
        return SoundFormat(found.media_type, found.container, BIT_DEPTHS[bit_depth])
    return found


class SoundEncoder:
    """Pieces of sound to the bytes of a file, as they come.

    samples: the number that will be written; a WAV states it in its header. `stream` is whether the bytes are taken
    before the file is whole.
    """

    def __init__(self, sound: SoundFormat, sample_rate: int, samples: int, stream: bool) -> None:
        import soundfile

        self.stream, self.sample_rate = stream, sample_rate
        self.encoding = sound.encoding
        self.header = b""
        container, endian = sound.container, None
        if stream and container == "WAV":  # its header needs the length, which libsndfile writes last
            self.header = make_wav_header(sample_rate, samples)
            container = "RAW"
        if container == "RAW":
            endian = "LITTLE"
        self.buffer = io.BytesIO()
        self.file = soundfile.SoundFile(self.buffer, "w", sample_rate, 1, sound.encoding, endian, container)
        self.writer = AudioWriter(self.file, "the answer")
        self.sent = 0

    def write(self, piece: np.ndarray) -> bytes:
        """Bytes that can be sent after `piece` was added; none if the file is sent when it is whole."""
        self.writer.write(piece)
        if not self.stream:
            return b""
        self.file.flush()
        return self.take_bytes()

    def finish(self) -> bytes:
        """The bytes that were not returned yet."""
        self.file.close()
        return self.take_bytes()

    def describe(self, samples: int) -> dict[str, str]:
        """Headers that state the sound's form."""
        depths = {name: depth for depth, name in BIT_DEPTHS.items()}
        headers = {"x-sample-rate": self.sample_rate, "x-channels": 1, "x-samples": samples}
        if self.encoding in depths:
            headers["x-bit-depth"] = depths[self.encoding]
        return {name: str(value) for name, value in headers.items()}

    def take_bytes(self) -> bytes:
        self.buffer.seek(self.sent)
        data = self.header + self.buffer.read()
        self.header, self.sent = b"", self.buffer.tell()
        return data


def make_wav_header(sample_rate: int, samples: int) -> bytes:
    """The 44 bytes that precede `samples` samples of 16 bits, mono."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, sample_rate, samples, "NONE", ""))
        file.writeframesraw(b"")
        return buffer.getvalue()
