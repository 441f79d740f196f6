"""The demo writes the codec's tokens, its decoded sound and a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from sc_runtime.audio import save_audio
from sc_runtime.cli.app import app
from sc_runtime.cli.console import Console
from sc_runtime.cli.demo import run_demo
from sc_runtime.cli.picture import spectrogram
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.spec import DecodeOptions
from sc_runtime.tokens import Tokens

QUICK = DecodeOptions(preset="fast", steps=2)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A second of a rising tone, shorter than the sample of the package."""
    time = np.arange(16_000) / 16_000
    samples = (0.3 * np.sin(2 * np.pi * (300 + 1500 * time) * time)).astype(np.float32)
    save_audio(tmp_path / "sample.wav", samples, 16_000)
    return tmp_path / "sample.wav"


def call_demo(tmp_path: Path, bundle: Path, *options: str) -> int:
    arguments = ["demo", "-o", str(tmp_path / "out"), "--backend", "onnxruntime", "--bundle", str(bundle)]
    return run_command(app, [*arguments, *options])


def test_it_writes_tokens_sound_and_picture(
    sample: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("matplotlib.image")
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    run_demo(Console(), codec, tmp_path / "out", QUICK, sample)
    out, err = capsys.readouterr()
    assert err == ""
    original = soundfile.read(sample, dtype="float32")[0]
    tokens = codec.encode(original)
    assert "1.00 s of speech and music: 58 tokens, 0.70 kbps" in out
    assert f"({tokens.codes[0, 0]} {tokens.codes[0, 1]})" in out
    for name in ("original.wav", "tokens.sct", "decoded.wav", "demo.png"):
        assert str(tmp_path / "out" / name) in out
    assert_array_equal(Tokens.load(tmp_path / "out" / "tokens.sct").codes, tokens.codes)
    assert_array_equal(soundfile.read(tmp_path / "out" / "original.wav", dtype="float32")[0], original)
    decoded = soundfile.read(tmp_path / "out" / "decoded.wav", dtype="float32")[0]
    assert_allclose(decoded, np.clip(codec.decode(tokens, QUICK), -1, 1), atol=1e-3)
    picture = image.imread(tmp_path / "out" / "demo.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 50


def test_it_runs_on_either_codec(
    sample: Path, tiny_unicodec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_demo(tmp_path, tiny_unicodec, "--preset", "fast") == 1
    assert "preset fast; expected an option of unicodec" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    run_demo(Console(), Codec.load(tiny_unicodec, backend="onnxruntime"), tmp_path / "out", DecodeOptions(), sample)
    out, err = capsys.readouterr()
    assert err == ""
    tokens = Tokens.load(tmp_path / "out" / "tokens.sct")
    assert (tokens.config.codec, len(tokens)) == ("unicodec", 75)
    assert "1.00 s of speech and music: 75 tokens, 1.05 kbps" in out
    assert f"unified: {' '.join(map(str, tokens.codes[:12, 0]))} ..." in out
    for name in ("original.wav", "decoded.wav"):
        assert soundfile.info(tmp_path / "out" / name).samplerate == 24_000
        assert soundfile.info(tmp_path / "out" / name).frames == 24_000


def test_without_matplotlib_there_is_no_picture(
    tiny_unicodec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, so with the sample of the package."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call_demo(tmp_path, tiny_unicodec) == 0
    assert "no picture: matplotlib is not installed" in capsys.readouterr().err
    assert soundfile.info(tmp_path / "out" / "decoded.wav").duration == soundfile.info(SPEECH_AND_MUSIC).duration
    assert not (tmp_path / "out" / "demo.png").exists()


def test_a_folder_that_cannot_be_made_is_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert call_demo(tmp_path, tiny_bundle) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_spectrogram_is_the_fourier_transform_of_its_windows() -> None:
    samples = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    picture = spectrogram(samples)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 511)
    frame = samples[320:832].astype(np.float64) * window
    transform = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512) @ frame
    assert picture.shape == (257, (2000 - 512) // 160 + 1)
    assert_allclose(picture[:, 2], 20 * np.log10(np.abs(transform)), atol=1e-2)
    assert spectrogram(samples[:10]).shape == (257, 1)
