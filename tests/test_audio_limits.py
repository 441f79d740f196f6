"""The limit on seconds of audio: hours of silence are a few megabytes."""

from __future__ import annotations

import io
import json
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sc_runtime.audio import Audio
from sc_runtime.audio.blocks import limit_length
from sc_runtime.audio.decoder import Decoder
from sc_runtime.bundle.store import EMBEDDED
from sc_runtime.cli.app import app
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import AudioError, SettingsError

RATE = 16_000
MINUTE = np.zeros(60 * RATE, np.int16)


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of silence. Ten of them are 1.9 MB."""
    path = tmp_path_factory.mktemp("silence") / "hour.flac"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(60):
            file.write(MINUTE)
    assert path.stat().st_size < 1_000_000
    return path


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "read", lambda *_, **__: pytest.fail("decoded"))


def test_a_length_that_is_stated_is_refused_before_decoding(hour: Path, undecoded: None) -> None:
    with pytest.raises(AudioError, match=r"hour\.flac: 3600\.0 s of audio or more; expected at most 600 s"):
        Audio(hour, rate=RATE, max_seconds=600)
    with pytest.raises(AudioError, match=r"audio data: 3600\.0 s of audio or more"):
        Audio(hour.read_bytes(), rate=RATE, max_seconds=600)
    Audio(hour, rate=RATE, max_seconds=3600)
    Audio(hour, rate=RATE)


@pytest.mark.parametrize("suffix", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_format_is_refused(suffix: str, undecoded: None) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, MINUTE, RATE, format=suffix)
    with pytest.raises(AudioError, match=r"audio data: 60\.\d s of audio or more; expected at most 59 s"):
        Audio(stream.getvalue(), rate=RATE, max_seconds=59)


def test_a_length_that_is_not_stated_is_refused_at_the_limit() -> None:
    """From an endless source only 30 seconds of audio are read."""
    read = 0
    with pytest.raises(AudioError, match=r"stream: 31\.0 s of audio or more; expected at most 30 s"):
        for _ in limit_length(repeat(np.zeros(RATE, np.float32)), "stream", RATE, 30):
            read += 1
    assert read == 30


def test_arrays_have_the_limit_too() -> None:
    with pytest.raises(AudioError, match=r"array: 60\.0 s of audio or more; expected at most 59\.5 s"):
        Audio(MINUTE, rate=RATE, max_seconds=59.5)
    Audio(MINUTE, rate=RATE, max_seconds=60)
    with pytest.raises(AudioError, match=r"120\.0 s"):
        Audio(MINUTE, 8000, rate=RATE, max_seconds=60)


def test_the_codec_and_the_command_pass_it_on(
    hour: Path, tmp_path: Path, undecoded: None, capfd: pytest.CaptureFixture[str]
) -> None:
    codec = Codec.load(EMBEDDED)
    with pytest.raises(AudioError, match="expected at most 10 s"):
        codec.encode(hour, max_seconds=10)
    for wrong in (0, -1, float("nan"), True, "1"):
        with pytest.raises(SettingsError, match=r"max_seconds .* expected seconds, more than 0"):
            codec.encode(hour, max_seconds=wrong)  # type: ignore[arg-type]
    arguments = ["encode", str(hour), "-o", str(tmp_path / "a.sct"), "--bundle", str(EMBEDDED), "--json"]
    assert run_command(app, [*arguments, "--max-seconds", "60"]) == 1
    (record,) = json.loads(capfd.readouterr().out)["files"]
    assert "expected at most 60 s" in record["error"] and not (tmp_path / "a.sct").exists()
