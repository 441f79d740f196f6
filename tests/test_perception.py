"""ViSQOL, DNSMOS, PLCMOS and the word error rate, on recorded speech. What is not installed is skipped by name."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bench.quality import words
from bench.quality.clips import METRICS, Domain, load_domains, load_texts
from bench.quality.metrics import explain_absence
from bench.quality.perception import speech_dnsmos, speech_plcmos, visqol_audio, visqol_speech
from bench.quality.words import count_errors, recognise, split_words, word_error_rate
from sc_runtime.errors import SettingsError
from tests.test_caches import BLOCKED, check_private

#: A prompt of asterisk-core-sounds-en-g722, spoken by Allison Smith, and what she says.
PROMPT = Path("/usr/share/asterisk/sounds/en_US_f_Allison/conf-invalid.g722")
TEXT = "That is not a valid conference number. Please try again!"


def needs(metric: str) -> pytest.MarkDecorator:
    reason = explain_absence(metric)
    return pytest.mark.skipif(reason is not None, reason=f"{metric}: {reason}")


@pytest.fixture(scope="module")
def speech(golden: Path) -> np.ndarray:
    """Five seconds, float32."""
    return soundfile.read(golden / "speech_12s.wav", dtype="float32", frames=80_000)[0]


def add_noise(speech: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    return speech + np.float32(level) * noise


@pytest.fixture(scope="module")
def prompt() -> np.ndarray:
    if not PROMPT.is_file() or shutil.which("ffmpeg") is None:
        pytest.skip("no prompt: apt-get install asterisk-core-sounds-en-g722 ffmpeg")
    command = ["ffmpeg", "-v", "error", "-i", str(PROMPT), "-f", "f32le", "-ar", "16000", "-ac", "1", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        pytest.param("visqol", 4.4, marks=needs("visqol")),
        pytest.param("visqol_audio", 4.7, marks=needs("visqol_audio")),
        pytest.param("dnsmos", 2.5, marks=needs("dnsmos")),
        pytest.param("plcmos", 3.0, marks=needs("plcmos")),
    ],
)
def test_scores_fall_with_noise(metric: str, best: float, speech: np.ndarray) -> None:
    scores = [METRICS[metric](speech, add_noise(speech, level)) for level in (0, 3e-3, 3e-2)]
    assert all(score is not None for score in scores)
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert 1 <= scores[2] < scores[0] - 0.5 and scores[0] > best  # type: ignore[operator]


@needs("visqol")
def test_visqol_of_silence_and_of_too_little_is_none(speech: np.ndarray) -> None:
    silence = np.zeros_like(speech)
    for visqol in (visqol_speech, visqol_audio):
        assert visqol(silence, speech) is visqol(speech, silence) is None
        assert visqol(speech[:12_000], speech[:12_000]) is None
        with pytest.raises(SettingsError, match="same length"):
            visqol(speech, speech[1:])


@needs("dnsmos")
def test_scores_without_a_reference_ignore_the_original(speech: np.ndarray) -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    for score in (speech_dnsmos, speech_plcmos):
        first = score(speech, 2 * speech)  # some samples beyond full scale
        assert 1 <= first <= 5
        assert score(np.zeros_like(speech), 2 * speech) == first  # also the same in every run
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002


@needs("wer")
def test_words_of_a_recording_are_recognised(prompt: np.ndarray) -> None:
    assert split_words(recognise(prompt)) == split_words(TEXT)
    assert word_error_rate(prompt, prompt, TEXT) == word_error_rate(prompt, prompt) == 0
    assert word_error_rate(prompt, prompt, TEXT.replace("valid ", "")) == pytest.approx(1 / 9)
    assert word_error_rate(prompt, add_noise(prompt, 0.1), TEXT) > 0.5  # type: ignore[operator]
    assert word_error_rate(np.zeros_like(prompt), prompt) is None


@pytest.mark.parametrize(
    ("reference", "found", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "", 3),
        ("", "a", 1),
        ("a b c d", "a x c", 2),  # one replaced, one deleted
        ("a b", "b a b", 1),
        ("kitten sitting on", "sitting kitten on", 2),
    ],
)
def test_errors_by_hand(reference: str, found: str, errors: int) -> None:
    assert count_errors(reference.split(), found.split()) == errors
    assert count_errors(found.split(), reference.split()) == errors


def test_words_are_split() -> None:
    assert split_words("Don't  stop, it's 5 o'clock!\nÉté_3") == ["don't", "stop", "it's", "5", "o'clock", "été", "3"]


def test_texts_lie_beside_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = np.random.default_rng(0).integers(-9, 9, (3, 20_000)).astype(np.int16)
    np.save(tmp_path / "held-out-speech.npy", clips)
    assert load_domains(tmp_path, None, None)[0].texts is None
    (tmp_path / "held-out-speech.txt").write_text("one\ntwo\nthree\n")
    (domain,) = load_domains(tmp_path, None, 2, ["wer", "mel"])
    assert domain.texts == ("one", "two")
    monkeypatch.setattr(words, "recognise", lambda samples: "two" if samples is clips else "none")
    assert [domain.score("wer", i, clips) for i in (0, 1)] == [1, 0]
    (tmp_path / "held-out-speech.txt").write_text("one\ntwo\n")
    with pytest.raises(SettingsError, match=r"2 lines; expected one for each of the 3 clips"):
        load_texts(tmp_path / "held-out-speech.txt", 3)


def test_metrics_of_a_domain_are_those_that_are_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.quality.clips.explain_absence", lambda metric: None)
    clips = np.zeros((1, 16_000), np.float32)

    def list_metrics(name: str, *chosen: str) -> list[str]:
        return Domain(name, clips, clips, None, chosen=chosen or None).metrics

    assert list_metrics("music") == ["mel", "stft", "visqol_audio"]
    assert list_metrics("speech") == ["mel", "stft", "stoi", "pesq", "visqol", "dnsmos", "plcmos", "wer"]
    assert list_metrics("speech", "wer", "visqol_audio", "mel") == ["mel", "wer"]


def test_what_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    reasons = {metric: explain_absence(metric) for metric in METRICS}
    assert reasons.pop("mel") is reasons.pop("stft") is None
    for metric, package in (("visqol", "visqol-python"), ("dnsmos", "speechmos"), ("plcmos", "speechmos")):
        assert package in str(reasons[metric])
    assert "apt-get install pocketsphinx pocketsphinx-en-us" in str(reasons["wer"])
    assert all(reasons.values())


@pytest.mark.slow
@needs("visqol")
@needs("dnsmos")
def test_nothing_is_downloaded(tmp_path: Path, golden: Path) -> None:
    """No look-up, no connection, no file outside the cache folders."""
    code = textwrap.dedent(BLOCKED) + textwrap.dedent(f"""
        import soundfile
        from bench.quality.clips import METRICS
        from bench.quality.metrics import explain_absence
        sound = soundfile.read({str(golden / "speech_12s.wav")!r}, dtype="float32", frames=32_000)[0]
        for name in ("visqol", "visqol_audio", "dnsmos", "plcmos", "wer"):
            if explain_absence(name) is None:
                METRICS[name](sound, sound)
    """)
    written = check_private([sys.executable, "-c", code], tmp_path)
    assert {parts[0] for parts in written} <= {".cache"}
