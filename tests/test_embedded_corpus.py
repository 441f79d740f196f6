"""The embedded model's data: clips as pure functions, splits that share nothing, arrays that survive interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("filelock", reason="the export extra is not installed")

from rich.progress import Progress

from sc_runtime.cli.program import run_command
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError
from sc_runtime.export.embedded.corpus import command as corpus
from sc_runtime.export.embedded.corpus import environment, music, signals, speech, splits, words
from sc_runtime.semanticodec.config import SEGMENT_SAMPLES

RATE = 16_000
needs_espeak = pytest.mark.skipif(shutil.which(speech.PROGRAM) is None, reason="espeak-ng is not installed")
CLIPS = [  #: domains and splits; in training, speech is mixed with the others
    pytest.param(domain, split, marks=needs_espeak if split == "train" or domain == "speech" else ())
    for domain in splits.DOMAINS
    for split in splits.SPLITS
]


def seeded(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def seed_clip(split: str, index: int) -> np.random.Generator:
    return corpus.seed_generator("test", split, index)


def measure_spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frequencies in Hz, energy) of a whole signal, by a windowed transform in float64."""
    energy = np.abs(np.fft.rfft(sound.astype(np.float64) * np.hanning(len(sound)))) ** 2
    return np.fft.rfftfreq(len(sound), 1 / RATE), energy


def measure_share(sound: np.ndarray, low: float, high: float) -> float:
    """The share of the energy between two frequencies, Hz."""
    frequencies, energy = measure_spectrum(sound)
    return float(energy[(frequencies >= low) & (frequencies <= high)].sum() / energy.sum())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[speech.Speaker, str]]:
    """What every speaker says, who in this test makes noise instead."""
    heard: list[tuple[speech.Speaker, str]] = []

    def speak(speaker: speech.Speaker, text: str) -> np.ndarray:
        heard.append((speaker, text))
        return signals.white(seeded(), 8000 + 4000 * len(text.split())) * np.float32(0.1)

    monkeypatch.setattr(speech, "speak", speak)
    return heard


# Clips


@pytest.mark.parametrize(("domain", "split"), CLIPS)
def test_clips_are_pure_functions_within_their_bounds(domain: splits.Domain, split: splits.Split) -> None:
    clips = [corpus.make_clip(domain, split, index) for index in range(6)]
    assert np.array_equal(clips[4], corpus.make_clip(domain, split, 4))
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    for clip in clips:
        assert clip.dtype == np.float32
        assert clip.shape == (163_840,)
        assert np.isfinite(clip).all()
        assert np.abs(clip).max() < 1
        level = 10 * np.log10(np.mean(np.square(clip, dtype=np.float64)))
        assert -50 < level <= -13.99
        assert np.abs(clip.mean()) < 0.01


@needs_espeak
def test_splits_of_one_index_differ() -> None:
    assert not np.array_equal(corpus.make_clip("sound", "train", 0), corpus.make_clip("sound", "held-out", 0))


def test_unknown_names_are_said_in_one_line() -> None:
    with pytest.raises(SettingsError, match="'noise'; expected speech or music or sound"):
        corpus.make_clip("noise", "train", 0)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="'test'; expected train or held-out"):
        corpus.make_clip("sound", "test", 0)  # type: ignore[arg-type]


def test_training_mixes_and_held_out_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def note(domain: str) -> Callable[[np.random.Generator, splits.Split, int], np.ndarray]:
        def make(rng: np.random.Generator, split: splits.Split, length: int) -> np.ndarray:
            calls.append(domain)
            return np.zeros(length, np.float32)

        return make

    monkeypatch.setattr(corpus, "GENERATORS", {domain: note(domain) for domain in splits.DOMAINS})
    monkeypatch.setattr(corpus, "record", lambda rng, sound: sound)
    count = 300
    for index in range(count):
        corpus.make_clip("music", "train", index)
    mixed = len(calls) - count
    assert 0.15 < mixed / count < 0.35  # a quarter, give or take four standard deviations
    assert set(calls) == set(splits.DOMAINS)
    calls.clear()
    for index in range(count):
        corpus.make_clip("music", "held-out", index)
    assert calls == ["music"] * count


def test_silence_comes_before_and_after() -> None:
    silences = [corpus.draw_silence(seeded(number)) for number in range(400)]
    padded = [pair for pair in silences if any(pair)]
    assert 0.08 < len(padded) / len(silences) < 0.23
    assert {(lead > 0, tail > 0) for lead, tail in padded} == {(True, False), (False, True), (True, True)}
    assert max(lead + tail for lead, tail in silences) < SEGMENT_SAMPLES * 0.6


def test_reverberation_decays_evenly_and_keeps_the_direct_sound() -> None:
    """Falls of energy over equal times are alike, as of an exponential, and end within 2.2 s."""
    impulse = np.zeros(4 * RATE, np.float32)
    impulse[100] = 1
    for number in range(5):
        tail = corpus.reverberate(seeded(number), impulse)
        assert np.argmax(np.abs(tail)) == 100
        assert tail[100] == pytest.approx(1, abs=1e-4)
        assert np.abs(tail[:100]).max() < 1e-5
        assert np.abs(tail[100 + round(2.2 * RATE) :]).max() < 1e-5
        late = tail[100 + RATE // 25 : 100 + RATE // 25 + RATE // 8].reshape(5, -1)
        falls = np.diff(10 * np.log10(np.mean(np.square(late, dtype=np.float64), axis=1)))
        assert falls.sum() < -3


def test_level_is_reached_unless_the_peak_forbids() -> None:
    loud = corpus.set_level(signals.white(seeded(), 16000), -20.0)
    assert 10 * np.log10(np.mean(np.square(loud))) == pytest.approx(-20, abs=1e-3)
    click = np.zeros(16000, np.float32)
    click[5] = -1
    assert np.abs(corpus.set_level(click, -14.0)).max() == pytest.approx(corpus.PEAK)
    assert not corpus.set_level(np.zeros(10, np.float32), -14.0).any()


# Splits


def test_what_the_splits_draw_from_is_disjoint() -> None:
    train, held_out = splits.SPLITS
    assert not set(speech.variants_of(train)) & set(speech.variants_of(held_out))
    assert not set(environment.programs_of(train)) & set(environment.programs_of(held_out))
    functions = set(environment.programs_of(train).values()) & set(environment.programs_of(held_out).values())
    assert not functions
    assert len(set(words.HELD_OUT_LANGUAGES) - set(speech.languages_of(train))) >= 2
    assert set(words.HELD_OUT_LANGUAGES) <= set(speech.languages_of(held_out))
    assert not set(words.HELD_OUT_LANGUAGES) & set(words.ACCENTS)
    assert len(speech.languages_of(train)) >= 15
    assert len(environment.programs_of(train)) >= 14
    assert len(environment.programs_of(held_out)) >= 3
    assert len(set(music.instruments_of(held_out)) - set(music.instruments_of(train))) in (1, 2)
    assert len(music.instruments_of(train)) >= 8
    vocabularies = {
        split: {word for language in words.WORDS for word in speech.vocabulary(language, split)}
        for split in splits.SPLITS
    }
    assert not vocabularies[train] & vocabularies[held_out]
    for language in words.WORDS:
        assert len(speech.vocabulary(language, train)) >= 20, language
        assert len(speech.vocabulary(language, held_out)) >= 3, language


def test_speakers_and_what_they_say_are_of_one_split(said: list[tuple[speech.Speaker, str]]) -> None:
    spoken: dict[str, set[str]] = {}
    voices: dict[str, set[str]] = {}
    languages: dict[str, set[str]] = {}
    for split in splits.SPLITS:
        said.clear()
        for index in range(150):
            speech.make_speech(seed_clip(split, index), split, 40_000)
        spoken[split] = {word.strip(",.?!") for _, text in said for word in text.split()}
        voices[split] = {speaker.voice for speaker, _ in said}
        languages[split] = {speaker.language for speaker, _ in said}
        assert {splits.split_of(word) for word in spoken[split]} == {split}
    assert not spoken["train"] & spoken["held-out"]
    assert not voices["train"] & voices["held-out"]
    assert not languages["train"] & set(words.HELD_OUT_LANGUAGES)
    assert languages["held-out"] >= set(words.HELD_OUT_LANGUAGES)
    assert len(languages["train"]) >= 20
    assert any(word.isdecimal() for word in spoken["train"])
    known = {word for language in words.WORDS for word in words.words_of(language)}
    assert sum(word not in known and not word.isdecimal() for word in spoken["train"]) > 200  # pseudo-words


def test_tunes_and_drum_patterns_are_of_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    tunes: list[music.Tune] = []
    patterns: list[dict[str, tuple[int, ...]]] = []
    kinds: list[str] = []
    draw_tune = music.draw_tune

    def note_tune(rng: np.random.Generator, split: splits.Split) -> music.Tune:
        tunes.append(draw_tune(rng, split))
        return tunes[-1]

    def note_kind(name: str, kind: music.Kind) -> music.Kind:
        def make(rng: np.random.Generator) -> music.Play:
            kinds.append(name)
            kind(rng)
            return lambda frequency, duration, loudness: np.ones(100, np.float32)

        return make

    def note_within(
        split: splits.Split, draw: Callable[[], splits.Item], notation: Callable[[splits.Item], str]
    ) -> splits.Item:
        item = splits.draw_within(split, draw, notation)
        if isinstance(item, dict):
            patterns.append(item)
        return item

    monkeypatch.setattr(music, "draw_tune", note_tune)
    monkeypatch.setattr(music, "draw_within", note_within)
    for table in (music.TRAINED_INSTRUMENTS, music.HELD_OUT_INSTRUMENTS):
        for name, kind in list(table.items()):
            monkeypatch.setitem(table, name, note_kind(name, kind))
    seen: dict[str, dict[str, set[str]]] = {}
    for split in splits.SPLITS:
        for seen_before in (tunes, patterns, kinds):
            seen_before.clear()
        for index in range(100):
            music.make_music(seed_clip(split, index), split, 8000)
        seen[split] = {
            "tunes": {tune.notation() for tune in tunes},
            "progressions": {str(tune.progression) for tune in tunes},
            "motifs": {str(tune.motif) for tune in tunes},
            "patterns": {str(pattern) for pattern in patterns},
        }
        for notations in seen[split].values():
            assert notations
            assert {splits.split_of(notation) for notation in notations} == {split}
        assert bool(set(kinds) & set(music.HELD_OUT_INSTRUMENTS)) == (split == "held-out")
    assert len({tune.split(" (")[0] for tune in seen["train"]["tunes"]}) > 50  # keys with scales


def test_sound_programs_are_of_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def note(name: str) -> environment.Program:
        def program(rng: np.random.Generator, length: int) -> np.ndarray:
            made.append(name)
            return signals.white(rng, length)

        return program

    for table in (environment.TRAINED_PROGRAMS, environment.HELD_OUT_PROGRAMS):
        for name in list(table):
            monkeypatch.setitem(table, name, note(name))
    for split in splits.SPLITS:
        made.clear()
        for index in range(400):
            environment.make_sound(seed_clip(split, index), split, 1600)
        assert set(made) == set(environment.programs_of(split))


def test_what_cannot_be_drawn_is_an_error() -> None:
    always = next(str(number) for number in range(100) if splits.split_of(str(number)) == "train")
    with pytest.raises(RuntimeError, match="held-out"):
        splits.draw_within("held-out", lambda: always, str)


# Sounds


@needs_espeak
def test_speech_is_where_speech_is() -> None:
    """Most energy from 200 to 4000 Hz, and pauses: its loudness by 20 ms varies as no steady sound's does."""
    shares, ranges = [], []
    for index in range(8):
        sound = speech.make_speech(seeded(index), "train", 160_000)
        assert sound.dtype == np.float32
        assert sound.shape == (160_000,)
        shares.append(measure_share(sound, 200, 4000))
        loudness = 10 * np.log10(np.mean(np.square(sound.reshape(-1, 320)), axis=1) + 1e-9)
        ranges.append(np.percentile(loudness, 90) - np.percentile(loudness, 10))
    assert np.median(shares) > 0.7
    assert np.median(ranges) > 20


@needs_espeak
def test_every_voice_speaks() -> None:
    for variant in (*speech.TRAINED_VARIANTS[::9], *speech.HELD_OUT_VARIANTS[::3]):
        sound = speech.speak(speech.Speaker("en-us", "en-us", variant, 50, 170, 0, 1.0), "time and water")
        assert 0.4 * RATE < len(sound) < 4 * RATE
        assert 0.01 < np.sqrt(np.mean(np.square(sound))) < 0.5
    for language in words.WORDS:
        text = " ".join(words.words_of(language)[:3])
        for accent in (language, *words.ACCENTS.get(language, ())):
            sound = speech.speak(speech.Speaker(language, accent, "m3", 50, 170, 0, 1.0), text)
            assert len(sound) > 0.3 * RATE, accent


@needs_espeak
def test_a_longer_tract_is_deeper_and_slower() -> None:
    short, long = (speech.speak(speech.Speaker("it", "it", "m1", 50, 170, 0, tract), "amico") for tract in (0.9, 1.125))
    assert len(long) / len(short) == pytest.approx(1.25, rel=0.01)


def test_a_tune_is_in_tune() -> None:
    """A is 440 Hz, an octave doubles, and a major scale is two, two, one, two, two, two and one semitones."""
    tune = music.Tune(9, "major", (0,), ((0, 1),))
    assert tune.pitch(0) == pytest.approx(440, rel=1e-4)
    assert tune.pitch(7) == pytest.approx(880, rel=1e-4)
    assert tune.pitch(-7) == pytest.approx(220, rel=1e-4)
    semitones = [12 * np.log2(tune.pitch(degree) / tune.pitch(0)) for degree in range(8)]
    assert np.allclose(semitones, [0, 2, 4, 5, 7, 9, 11, 12])


@pytest.mark.parametrize("name", ["plucked", "organ", "flute", "bowed", "brass", "reed", "choir", "chip", "clarinet"])
def test_instruments_play_the_harmonics_of_their_note(name: str) -> None:
    kind = music.instruments_of("held-out")[name]
    sound = kind(seeded(3))(440.0, 1.0, 0.7)[1600:14400]
    frequencies, energy = measure_spectrum(sound)
    nearest = np.maximum(1, np.round(frequencies / 440)) * 440
    near = np.abs(frequencies - nearest) < 0.02 * nearest + 4
    assert energy[near].sum() > 0.9 * energy.sum()


@pytest.mark.parametrize("frequency", [60.0, 440.0, 3500.0])
@pytest.mark.parametrize("name", [*music.TRAINED_INSTRUMENTS, *music.HELD_OUT_INSTRUMENTS])
def test_instruments_play_high_and_low(name: str, frequency: float) -> None:
    sound = music.instruments_of("held-out")[name](seeded(1))(frequency, 0.4, 0.8)
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() > 0.01


def test_music_is_more_tonal_than_noise() -> None:
    """Geometric over arithmetic mean of the spectrum: 0.56 for white noise."""
    flatness = []
    for index in range(8):
        _, energy = measure_spectrum(music.make_music(seeded(index), "train", 80_000))
        flatness.append(np.exp(np.mean(np.log(energy + 1e-12))) / energy.mean())
    assert np.median(flatness) < 0.05


@pytest.mark.parametrize("name", [*environment.TRAINED_PROGRAMS, *environment.HELD_OUT_PROGRAMS])
def test_programs_sound_and_differ_from_clip_to_clip(name: str) -> None:
    programs = environment.TRAINED_PROGRAMS | environment.HELD_OUT_PROGRAMS
    sounds = [programs[name](seeded(number), 3 * RATE) for number in (0, 1)]
    for sound in sounds:
        assert sound.dtype == np.float32
        assert sound.shape == (3 * RATE,)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 0
    assert not np.array_equal(*sounds)


@pytest.mark.parametrize(("name", "low", "high"), [("birds", 900, 7700), ("wind", 0, 2500), ("crickets", 2000, 7700)])
def test_programs_sound_where_their_models_do(name: str, low: float, high: float) -> None:
    shares = [measure_share(environment.TRAINED_PROGRAMS[name](seeded(n), 5 * RATE), low, high) for n in range(5)]
    assert np.median(shares) > 0.8


# Building blocks, against brute force


def test_convolution_and_placing_are_exact() -> None:
    signal, response = signals.white(seeded(1), 700), signals.white(seeded(2), 300)
    expected = np.convolve(signal.astype(np.float64), response.astype(np.float64))[:700]
    assert np.allclose(signals.convolve(signal, response), expected, atol=1e-4)
    for start in (-500, -10, 0, 650, 699, 700, 900):
        track, wide = np.zeros(700, np.float32), np.zeros(3000)
        signals.place(track, response, start / RATE, 0.5)
        wide[1000 + start : 1300 + start] = 0.5 * response
        assert np.allclose(track, wide[1000:1700]), start


def test_fast_sizes_are_the_smallest_of_their_kind() -> None:
    sizes = sorted(base * 2**power for base in (1, 3, 5) for power in range(20))
    for length in (1, 2, 7, 100, 1025, 163_840, 163_841):
        assert signals.fast_size(length) == next(size for size in sizes if size >= length)


def test_a_mode_falls_by_60_decibels_in_its_time() -> None:
    mode = signals.ring((1000.0,), (0.5,), (1.0,), RATE)
    early, late = (np.abs(mode[start : start + 160]).max() for start in (160, 160 + round(0.25 * RATE)))
    assert 20 * np.log10(late / early) == pytest.approx(-30, abs=0.5)


def test_band_noise_is_of_its_band() -> None:
    noise = signals.band_noise(seeded(), 5 * RATE, 1000, 2000, 4)
    frequencies = np.arange(1.0, 8000.0)
    power = 1 / (1 + (frequencies / 2000) ** 8) / (1 + (1000 / frequencies) ** 8)
    for low, high in ((800, 2500), (1000, 2000), (0, 1000)):
        expected = power[(frequencies >= low) & (frequencies <= high)].sum() / power.sum()
        assert measure_share(noise, low, high) == pytest.approx(expected, abs=0.02)
    assert np.sqrt(np.mean(np.square(noise))) == pytest.approx(1, abs=1e-4)


# Arrays


def write(folder: Path, clips: int, workers: int = 1, held_out: int = 0) -> None:
    with Progress(disable=True) as progress:
        corpus.write_corpus(folder, {"train": clips, "held-out": held_out}, workers, progress)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clips that cost nothing; the numbers of those that were made."""
    numbers: list[int] = []

    def make_clip(domain: str, split: str, index: int) -> np.ndarray:
        numbers.append(index)
        return corpus.set_level(signals.white(corpus.seed_generator(domain, split, index), SEGMENT_SAMPLES), -20.0)

    monkeypatch.setattr(corpus, "make_clip", make_clip)
    monkeypatch.setattr(corpus, "check_program", lambda: None)
    return numbers


def test_arrays_hold_the_clips(tmp_path: Path, made: list[int]) -> None:
    write(tmp_path, 3, held_out=2)
    names = {f"{split}-{domain}.npy" for split in splits.SPLITS for domain in splits.DOMAINS}
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".corpus")} == names
    clips = np.load(tmp_path / "train-music.npy")
    assert clips.dtype == np.int16
    assert clips.shape == (3, SEGMENT_SAMPLES)
    expected = np.round(corpus.make_clip("music", "train", 2).astype(np.float64) * 32767)
    assert np.abs(clips[2] - expected).max() <= 1
    made.clear()
    write(tmp_path, 3, held_out=2)
    assert made == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_corpus_goes_on_where_it_was(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    make = corpus.make_clip
    write(tmp_path / "whole", 4)
    made.clear()

    def fail(domain: splits.Domain, split: splits.Split, index: int) -> np.ndarray:
        if domain == "music" and index == 2:
            raise stop
        return make(domain, split, index)

    monkeypatch.setattr(corpus, "make_clip", fail)
    with pytest.raises(stop):
        write(tmp_path / "parts", 4)
    assert made == [0, 1, 2, 3, 0, 1]
    assert not (tmp_path / "parts" / "train-music.npy").exists()
    made.clear()
    monkeypatch.setattr(corpus, "make_clip", make)
    write(tmp_path / "parts", 4)
    assert made == [2, 3, 0, 1, 2, 3]
    for domain in splits.DOMAINS:
        name = f"train-{domain}.npy"
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_or_other_beginning_is_begun_anew(tmp_path: Path, made: list[int]) -> None:
    np.save(tmp_path / ".train-music.done.npy", np.ones(2, np.uint8))
    (tmp_path / ".train-music.partial.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "train-sound.npy").write_bytes(b"")
    np.save(tmp_path / "train-speech.npy", np.zeros((1, SEGMENT_SAMPLES), np.int16))
    write(tmp_path, 2)
    assert made == [0, 1] * 3
    assert all(np.load(tmp_path / f"train-{domain}.npy").any(axis=1).all() for domain in splits.DOMAINS)


@needs_espeak
def test_processes_write_what_one_writes(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        for workers in (1, 2):
            folder = tmp_path / str(workers)
            folder.mkdir()
            corpus.write_clips(folder, "sound", "held-out", 3, workers, progress)
    files = [(tmp_path / name / "held-out-sound.npy").read_bytes() for name in ("1", "2")]
    assert files[0] == files[1]


def test_without_espeak_the_command_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speech, "PROGRAM", "espeak-ng-that-is-not-there")
    with pytest.raises(MissingExtraError, match=r"is not installed; expected .* on the PATH: apt install"):
        speech.speak(speech.Speaker("en-us", "en-us", "m1", 50, 170, 0, 1.0), "word")
    assert run_command(corpus.app, [str(tmp_path), "--clips", "1", "--held-out", "0", "--workers", "1"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "espeak-ng-that-is-not-there is not installed" in errors[0]
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("size", [0, 44, 51])
def test_speech_that_is_cut_off_is_said_in_one_line(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "espeak"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\nhead -c {size} /dev/zero\n")
    program.chmod(0o755)
    monkeypatch.setattr(speech, "PROGRAM", str(program))
    with pytest.raises(BackendError, match=f"exit code 0, {size} bytes; expected speech: run it again"):
        speech.speak(speech.Speaker("en-us", "en-us", "m1", 50, 170, 0, 1.0), "word")


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run_command(corpus.app, [str(tmp_path / "file" / "corpus"), "--clips", "1"]) == 1
    assert "a folder that can be written" in capsys.readouterr().err


# Shipped samples


@needs_espeak
def test_samples_are_held_out_speech_and_then_music() -> None:
    sample = corpus.make_sample()
    assert sample.dtype == np.float32
    assert sample.shape == (12 * RATE,)
    assert np.isfinite(sample).all()
    assert 0.1 < np.abs(sample).max() < 1
    assert np.array_equal(sample, corpus.make_sample(0))
    assert not np.array_equal(sample, corpus.make_sample(1))
    for half in (sample[: 5 * RATE], sample[7 * RATE :]):
        assert -30 < 10 * np.log10(np.mean(np.square(half))) < -14


def test_samples_use_what_is_held_out(said: list[tuple[speech.Speaker, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[splits.Split] = []
    make_music = corpus.make_music

    def note(rng: np.random.Generator, split: splits.Split, length: int) -> np.ndarray:
        asked.append(split)
        return make_music(rng, split, length)

    monkeypatch.setattr(corpus, "make_music", note)
    corpus.make_sample()
    assert asked == ["held-out"]
    assert {speaker.variant for speaker, _ in said} <= set(speech.HELD_OUT_VARIANTS)
