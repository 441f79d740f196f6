"""The embedded model's data: clips as pure functions, splits that share nothing, arrays that survive interruptions."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

pytest.importorskip("filelock", reason="the export extra is not installed")

from rich.progress import Progress

from sc_runtime.cli.program import run_command
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError
from sc_runtime.export.embedded.corpus import (
    arrays,
    clips,
    command,
    composition,
    effects,
    environment,
    evaluation,
    instruments,
    music,
    prompts,
    sample,
    signals,
    sources,
    speech,
    speeds,
    splits,
    voices,
    words,
)
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

RATE = 16_000


def needs(*wanted: sources.Source) -> pytest.MarkDecorator:
    """Skips a test if one of the sources `wanted` is not installed."""
    missing = [source.name for source in wanted if not source.is_installed()]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def of_use(use: sources.Use) -> list[sources.Source]:
    return [source for source in sources.SOURCES if use in source.uses]


needs_espeak = needs(sources.ESPEAK)
needs_fluidsynth = needs(sources.FLUIDSYNTH, sources.FLUID, sources.PRETTY_MIDI)
needs_effects = needs(sources.SONIC_PI)
needs_training = needs(*of_use("training"))
CLIPS = [  #: domains and splits; training clips mix domains, so each domain needs all sources
    *(pytest.param(domain, "train", marks=needs_training) for domain in splits.DOMAINS),
    pytest.param("speech", "held-out", marks=needs(sources.ESPEAK, sources.FLITE)),
    pytest.param("music", "held-out", marks=needs_fluidsynth),
    ("sound", "held-out"),
]


def seeded(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def seed_clip(split: str, index: int) -> np.random.Generator:
    return clips.seed_generator("test", split, index)


def measure_spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frequencies in Hz, energy) of a whole signal, by a windowed transform in float64."""
    energy = np.abs(np.fft.rfft(sound.astype(np.float64) * np.hanning(len(sound)))) ** 2
    return np.fft.rfftfreq(len(sound), 1 / RATE), energy


def measure_share(sound: np.ndarray, low: float, high: float) -> float:
    """The share of the energy between two frequencies, Hz."""
    frequencies, energy = measure_spectrum(sound)
    return float(energy[(frequencies >= low) & (frequencies <= high)].sum() / energy.sum())


Voice = voices.EspeakVoice | voices.FliteVoice | voices.PiperVoice


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Voice, str]]:
    """Every synthetic voice with its text; in this test they make noise instead."""
    heard: list[tuple[Voice, str]] = []

    def speak(voice: Voice, text: str) -> np.ndarray:
        heard.append((voice, text))
        return signals.white(seeded(), 8000 + 4000 * len(text.split())) * np.float32(0.1)

    for kind in (voices.EspeakVoice, voices.FliteVoice, voices.PiperVoice):
        monkeypatch.setattr(kind, "speak", speak)
    monkeypatch.setattr(prompts.Recorded, "utter", lambda speaker, rng, split: signals.white(rng, 16_000))
    return heard


# Clips


@pytest.mark.parametrize(("domain", "split"), CLIPS)
def test_clips_are_pure_functions_within_their_bounds(domain: splits.Domain, split: splits.Split) -> None:
    made = [clips.make_clip(domain, split, index) for index in range(4)]
    assert np.array_equal(made[2], clips.make_clip(domain, split, 2))
    assert len({clip.tobytes() for clip in made}) == len(made)
    for clip in made:
        assert clip.dtype == np.float32
        assert clip.shape == (163_840,)
        assert np.isfinite(clip).all()
        assert np.abs(clip).max() < 1
        level = 10 * np.log10(np.mean(np.square(clip, dtype=np.float64)))
        assert -50 < level <= -13.99
        assert np.abs(clip.mean()) < 0.01


@needs_espeak
def test_numbers_in_arabic_are_said_alike_at_each_run() -> None:
    voice = voices.EspeakVoice("ar", "ar", "m1", 50, 150, 0, 1.0)
    assert len({voice.speak("147 1470.").tobytes() for _ in range(6)}) == 1


@needs_training
def test_splits_of_one_index_differ() -> None:
    assert not np.array_equal(clips.make_clip("sound", "train", 0), clips.make_clip("sound", "held-out", 0))


def test_unknown_names_are_said_in_one_line() -> None:
    with pytest.raises(SettingsError, match="'noise'; expected speech or music or sound"):
        clips.make_clip("noise", "train", 0)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="'test'; expected train or held-out"):
        clips.make_clip("sound", "test", 0)  # type: ignore[arg-type]


def test_training_mixes_and_held_out_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def note(domain: str) -> Callable[[np.random.Generator, splits.Split, int], np.ndarray]:
        def make(rng: np.random.Generator, split: splits.Split, length: int) -> np.ndarray:
            calls.append(domain)
            return np.zeros(length, np.float32)

        return make

    noted = {domain: note(domain) for domain in splits.DOMAINS}
    monkeypatch.setattr(clips, "record", lambda rng, sound: sound)
    count = 300
    for index in range(count):
        clips.make_clip("music", "train", index, noted)
    mixed = len(calls) - count
    assert 0.15 < mixed / count < 0.35  # a quarter, give or take four standard deviations
    assert set(calls) == set(splits.DOMAINS)
    calls.clear()
    for index in range(count):
        clips.make_clip("music", "held-out", index, noted)
    assert calls == ["music"] * count


def test_silence_comes_before_and_after() -> None:
    silences = [clips.draw_silence(seeded(number)) for number in range(400)]
    padded = [pair for pair in silences if any(pair)]
    assert 0.08 < len(padded) / len(silences) < 0.23
    assert {(lead > 0, tail > 0) for lead, tail in padded} == {(True, False), (False, True), (True, True)}
    assert max(lead + tail for lead, tail in silences) < SEGMENT_SAMPLES * 0.6


def test_reverberation_decays_evenly_and_keeps_the_direct_sound() -> None:
    """Energy falls by equal ratios in equal times, as an exponential does, and ends within 2.2 s."""
    impulse = np.zeros(4 * RATE, np.float32)
    impulse[100] = 1
    for number in range(5):
        tail = clips.reverberate(seeded(number), impulse)
        assert np.argmax(np.abs(tail)) == 100
        assert tail[100] == pytest.approx(1, abs=1e-4)
        assert np.abs(tail[:100]).max() < 1e-5
        assert np.abs(tail[100 + round(2.2 * RATE) :]).max() < 1e-5
        late = tail[100 + RATE // 25 : 100 + RATE // 25 + RATE // 8].reshape(5, -1)
        falls = np.diff(10 * np.log10(np.mean(np.square(late, dtype=np.float64), axis=1)))
        assert falls.sum() < -3


def test_level_is_reached_unless_the_peak_forbids() -> None:
    loud = clips.set_level(signals.white(seeded(), 16000), -20.0)
    assert 10 * np.log10(np.mean(np.square(loud))) == pytest.approx(-20, abs=1e-3)
    click = np.zeros(16000, np.float32)
    click[5] = -1
    assert np.abs(clips.set_level(click, -14.0)).max() == pytest.approx(clips.PEAK)
    assert not clips.set_level(np.zeros(10, np.float32), -14.0).any()


# Splits


def test_what_the_splits_draw_from_is_disjoint() -> None:
    train, held_out = splits.SPLITS
    assert not set(speech.variants_of(train)) & set(speech.variants_of(held_out))
    assert not set(speech.voices_of(train)) & set(speech.voices_of(held_out))
    assert prompts.TRAINED.source not in prompts.EVALUATED.values()
    assert not set(environment.programs_of(train)) & set(environment.programs_of(held_out))
    functions = set(environment.programs_of(train).values()) & set(environment.programs_of(held_out).values())
    assert not functions
    assert not set(effects.recordings_of(train)) & set(effects.recordings_of(held_out))
    assert len(set(words.HELD_OUT_LANGUAGES) - set(speech.languages_of(train))) >= 2
    assert set(words.HELD_OUT_LANGUAGES) <= set(speech.languages_of(held_out))
    assert not set(words.HELD_OUT_LANGUAGES) & set(words.ACCENTS)
    assert len(speech.languages_of(train)) >= 15
    assert len(environment.programs_of(train)) >= 14
    assert len(environment.programs_of(held_out)) >= 3
    assert len(set(instruments.instruments_of(held_out)) - set(instruments.instruments_of(train))) in (1, 2)
    assert len(instruments.instruments_of(train)) >= 8
    vocabularies = {
        split: {word for language in words.WORDS for word in speech.vocabulary(language, split)}
        for split in splits.SPLITS
    }
    assert not vocabularies[train] & vocabularies[held_out]
    for language in words.WORDS:
        assert len(speech.vocabulary(language, train)) >= 20, language
        assert len(speech.vocabulary(language, held_out)) >= 3, language


def test_speakers_and_what_they_say_are_of_one_split(said: list[tuple[Voice, str]]) -> None:
    spoken: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    languages: dict[str, set[str]] = {}
    for split in splits.SPLITS:
        said.clear()
        for index in range(250):
            speech.make_speech(seed_clip(split, index), split, 40_000)
        spoken[split] = {word.strip(",.?!") for _, text in said for word in text.split()}
        names[split] = {voice.name for voice, _ in said}
        languages[split] = {voice.language for voice, _ in said}
        assert {splits.split_of(word) for word in spoken[split]} == {split}
        assert names[split] >= set(speech.voices_of(split))
    assert not spoken["train"] & spoken["held-out"]
    assert not names["train"] & names["held-out"]
    assert not languages["train"] & set(words.HELD_OUT_LANGUAGES)
    assert languages["held-out"] >= set(words.HELD_OUT_LANGUAGES)
    assert len(languages["train"]) >= 20
    assert any(word.isdecimal() for word in spoken["train"])
    known = {word for language in words.WORDS for word in words.words_of(language)}
    assert sum(word not in known and not word.isdecimal() for word in spoken["train"]) > 200  # invented words


def test_recorded_speakers_are_for_training_or_for_evaluation() -> None:
    speakers = {split: [speech.draw_speaker(seed_clip(split, n), split) for n in range(400)] for split in splits.SPLITS}
    recorded = [speaker for speaker in speakers["train"] if isinstance(speaker, prompts.Recorded)]
    assert 0.15 < len(recorded) / 400 < 0.35
    assert {speaker.source for speaker in recorded} == {sources.RUSSIAN}
    assert not any(isinstance(speaker, prompts.Recorded) for speaker in speakers["held-out"])
    with pytest.raises(ValueError, match="not part of the held-out split"):
        prompts.TRAINED.utter(seeded(), "held-out")


def test_share_alike_and_english_prompts_do_not_train() -> None:
    """The English prompts are kept aside as a test. Their speaker also reads the Spanish prompts."""
    for source in of_use("training"):
        assert "SA" not in source.licence
    folders = [source.needs for source in sources.SOURCES if str(source.needs).startswith(str(sources.PROMPTS))]
    assert len(folders) == 3
    assert not any(Path(folder).name.startswith(("en", "es")) for folder in folders)


def test_the_model_card_lists_every_source() -> None:
    card = (ROOT / "export" / "embedded" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for source in sources.SOURCES:
        assert any(source.name in row and source.licence in row for row in rows), source.name


@needs_fluidsynth
def test_tunes_and_drum_patterns_are_of_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    tunes: list[composition.Tune] = []
    patterns: list[dict[str, tuple[int, ...]]] = []
    programs: list[int] = []
    draw_score, draw_within = music.draw_score, splits.draw_within

    def note_score(rng: np.random.Generator, split: splits.Split, duration: float) -> composition.Score:
        score = draw_score(rng, split, duration)
        tunes.append(score.tune)
        return score

    def note_within(
        split: splits.Split, draw: Callable[[], splits.Item], notation: Callable[[splits.Item], str]
    ) -> splits.Item:
        item = draw_within(split, draw, notation)
        if isinstance(item, dict):
            patterns.append(item)
        return item

    def note_programs(piece: PrettyMIDI, length: int, **effects: bool) -> np.ndarray:
        programs.extend(part.program for part in piece.instruments if not part.is_drum)
        return np.ones(length, np.float32)

    monkeypatch.setattr(music, "draw_score", note_score)
    monkeypatch.setattr(music, "draw_within", note_within)
    monkeypatch.setattr(music, "render", note_programs)
    seen: dict[str, dict[str, set[str]]] = {}
    for split in splits.SPLITS:
        for seen_before in (tunes, patterns, programs):
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
        assert bool(set(programs) & set(instruments.HELD_OUT_PROGRAMS)) == (split == "held-out")
        assert len(set(programs)) > 20
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


@needs_training
def test_speech_has_the_spectrum_and_the_pauses_of_speech() -> None:
    """Most energy lies from 200 to 4000 Hz. Loudness in frames of 20 ms varies more than in any steady sound."""
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


def espeak(language: str, variant: str, accent: str = "", tract: float = 1.0) -> voices.EspeakVoice:
    return voices.EspeakVoice(language, accent or language, variant, 50, 170, 0, tract)


@needs_espeak
def test_every_voice_speaks() -> None:
    for variant in (*speech.TRAINED_VARIANTS[::9], *speech.HELD_OUT_VARIANTS[::3]):
        sound = espeak("en-us", variant).speak("time and water")
        assert 0.4 * RATE < len(sound) < 4 * RATE
        assert 0.01 < np.sqrt(np.mean(np.square(sound))) < 0.5
    for language in words.WORDS:
        text = " ".join(words.words_of(language)[:3])
        for accent in (language, *words.ACCENTS.get(language, ())):
            assert len(espeak(language, "m3", accent).speak(text)) > 0.3 * RATE, accent


NATURAL_VOICES = [
    *(
        pytest.param(voices.FliteVoice(name, 1.0, 1.0), marks=needs(sources.FLITE))
        for name in ("rms", "slt", "kal16", "awb")
    ),
    pytest.param(voices.PiperVoice(7, 1.0, 1.0), marks=needs(sources.PIPER, sources.JOE)),
]


@pytest.mark.parametrize("voice", NATURAL_VOICES)
def test_natural_voices_speak(voice: Voice) -> None:
    sound = voice.speak("time and water")
    assert sound.dtype == np.float32
    assert 0.4 * RATE < len(sound) < 4 * RATE
    assert 0.01 < np.sqrt(np.mean(np.square(sound))) < 0.5
    assert np.array_equal(sound, voice.speak("time and water"))


@needs(sources.PIPER, sources.JOE)
def test_piper_speaks_otherwise_with_another_seed() -> None:
    one, other = (voices.PiperVoice(seed, 1.0, 1.0).speak("time and water") for seed in (1, 2))
    assert not np.array_equal(one, other)


@needs_espeak
def test_a_longer_tract_is_deeper_and_slower() -> None:
    short, long = (espeak("it", "m1", tract=tract).speak("amico") for tract in (0.9, 1.125))
    assert len(long) / len(short) == pytest.approx(1.25, rel=0.01)


@pytest.mark.parametrize(
    "source", [pytest.param(s, marks=needs(s, sources.FFMPEG)) for s in (sources.RUSSIAN, *prompts.EVALUATED.values())]
)
def test_prompts_hold_speech(source: sources.Source) -> None:
    """Some hundreds of prompts, no tones; evaluation clips have no prompt in common."""
    paths = prompts.list_prompts(source)
    assert len(paths) > 300
    assert not any(path.name.startswith(prompts.WITHOUT_SPEECH) for path in paths)
    sound = prompts.read_prompt(paths[0])
    assert sound.dtype == np.float32
    assert measure_share(sound, 100, 4000) > 0.8
    made = [prompts.make_recorded(source, index) for index in range(3)]
    assert all(clip.shape == (SEGMENT_SAMPLES,) for clip in made)
    assert not np.array_equal(made[0], made[1])
    with pytest.raises(IndexError, match="clips, not 1001"):
        prompts.make_recorded(source, 1000)


def test_a_tune_is_in_tune() -> None:
    """A is 440 Hz (69), an octave doubles, and a major scale is two, two, one, two, two, two and one semitones."""
    tune = composition.Tune(9, "major", (0,), ((0, 1),))
    assert [tune.pitch(degree) for degree in (0, 7, -7)] == [69, 81, 57]
    assert [tune.pitch(degree) - tune.pitch(0) for degree in range(8)] == [0, 2, 4, 5, 7, 9, 11, 12]


def test_instruments_stay_in_their_registers() -> None:
    for instrument in instruments.INSTRUMENTS:
        assert instrument.high - instrument.low >= 11
        assert {instrument.fold(pitch) % 12 for pitch in range(128)} == set(range(12))
        assert all(instrument.low <= instrument.fold(pitch) <= instrument.high for pitch in range(128))
    programs = [instrument.program for instrument in instruments.INSTRUMENTS]
    assert len(set(programs)) == len(programs)


@needs_fluidsynth
@pytest.mark.parametrize("instrument", instruments.list_singing()[::3], ids=lambda instrument: str(instrument.program))
def test_instruments_play_the_harmonics_of_their_note(instrument: instruments.Instrument) -> None:
    pitch = instrument.fold(69)
    piece = music.new_piece()
    music.add_part(piece, instrument.program, [music.new_note(pitch, 0.0, 1.5, 0.7)])
    sound = music.render(piece, RATE, reverb=False, chorus=False)[3200:14400]
    frequencies, energy = measure_spectrum(sound)
    fundamental = 440 * 2 ** ((pitch - 69) / 12)
    nearest = np.maximum(1, np.round(frequencies / fundamental)) * fundamental
    near = np.abs(frequencies - nearest) < 0.02 * nearest + 8
    assert energy[near].sum() > 0.9 * energy.sum()


@needs_fluidsynth
@pytest.mark.parametrize("end", ["low", "high"])
def test_instruments_play_high_and_low(end: str) -> None:
    """Every instrument sounds at both ends of its register; fifteen at a time, a second each."""
    every = list(instruments.INSTRUMENTS)
    for first in range(0, len(every), 15):
        group = every[first : first + 15]
        piece = music.new_piece()
        for number, instrument in enumerate(group):
            note = music.new_note(getattr(instrument, end), float(number), 0.6, 0.8)
            music.add_part(piece, instrument.program, [note])
        sound = music.render(piece, RATE * len(group), reverb=False, chorus=False)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        for instrument, part in zip(group, sound.reshape(len(group), RATE), strict=True):
            assert np.abs(part).max() > 3e-3, (instrument, end)


@needs_fluidsynth
def test_drums_sound_at_every_key() -> None:
    keys = [key for drum in composition.DRUMS.values() for key in drum]
    piece = music.new_piece()
    music.add_part(piece, 0, [music.new_note(key, i * 2.0, 0.1, 0.9) for i, key in enumerate(keys)], drums=True)
    sound = music.render(piece, 2 * RATE * len(keys), reverb=False, chorus=False)
    for key, part in zip(keys, sound.reshape(len(keys), 2 * RATE), strict=True):
        assert np.abs(part).max() > 1e-3, key


@needs_fluidsynth
def test_melodies_have_the_pitch_that_is_written() -> None:
    """pYIN finds the written pitch within 50 cents in nine frames of ten."""
    librosa = pytest.importorskip("librosa")
    within = []
    for index in range(4):
        clip, written = clips.make_melody_clip(index), clips.make_melody_pitch(index)
        assert clip.shape == (SEGMENT_SAMPLES,) and written.shape == (1024,)
        assert clip.dtype == written.dtype == np.float32
        found = librosa.pyin(clip, fmin=25, fmax=2500, sr=RATE, frame_length=2048, hop_length=160)[0][:1024]
        voiced = written > 0
        assert voiced.mean() > 0.2
        cents = 1200 * np.abs(np.log2(found[voiced] / written[voiced]))
        within.append(np.mean(np.nan_to_num(cents, nan=1e9) < 50))
    assert np.mean(within) > 0.9


@needs_fluidsynth
def test_melodies_are_held_out_tunes_of_one_voice() -> None:
    for index in range(20):
        rng = clips.seed_generator("melody", index)
        score = composition.draw_score(rng, "held-out", 10.24)
        assert splits.split_of(score.tune.notation()) == "held-out"
        notes = music.write_melody(rng, score, splits.pick(rng, instruments.list_singing()))
        assert all(one.end <= other.start + 1e-6 for one, other in itertools.pairwise(notes))


@needs_fluidsynth
def test_music_is_more_tonal_than_noise() -> None:
    """Geometric over arithmetic mean of the spectrum: 0.56 for white noise."""
    flatness = []
    for index in range(8):
        _, energy = measure_spectrum(music.make_music(seeded(index), "train", 80_000))
        flatness.append(np.exp(np.mean(np.log(energy + 1e-12))) / energy.mean())
    assert np.median(flatness) < 0.05


PROGRAMS = [
    *(name for name in environment.TRAINED_PROGRAMS if name != effects.PROGRAM),
    pytest.param(effects.PROGRAM, marks=needs_effects),
    *environment.HELD_OUT_PROGRAMS,
]


@pytest.mark.parametrize("name", PROGRAMS)
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
def test_programs_have_their_energy_in_the_expected_band(name: str, low: float, high: float) -> None:
    shares = [measure_share(environment.TRAINED_PROGRAMS[name](seeded(n), 5 * RATE), low, high) for n in range(5)]
    assert np.median(shares) > 0.8


#: CRC-32 of held-out clips of sound as int16, before there were recorded effects. The figures of sound are of these.
HELD_OUT_SOUND = {2: 0xDEF61AE8, 3: 0xC724ACB9, 5: 0xFD83AF86, 7: 0xAF8E3043, 12: 0xD8B49EE5}
SIMD = np.show_config(mode="dicts")["SIMD Extensions"]["found"]


@pytest.mark.skipif(not np.__version__.startswith("2.4.") or "X86_V3" not in SIMD, reason="bits of NumPy 2.4 with AVX2")
@pytest.mark.parametrize("index", HELD_OUT_SOUND)
def test_held_out_sound_is_what_it_was(index: int) -> None:
    clip = command.make_pcm(partial(clips.make_clip, "sound", "held-out"), index)
    assert zlib.crc32(clip.tobytes()) == HELD_OUT_SOUND[index]


# Recorded effects


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recordings whose files are read in this test."""
    names: list[str] = []
    read = soundfile.read

    def note(path: Path, **options: object) -> tuple[np.ndarray, int]:
        names.append(path.stem)
        return read(path, **options)

    monkeypatch.setattr(soundfile, "read", note)
    effects.decode_recording.cache_clear()
    effects.group_effects.cache_clear()
    return names


def read_copyright() -> dict[str, dict[str, str]]:
    """The fields of each file that the package's copyright file lists."""
    text = Path("/usr/share/doc/sonic-pi-samples/copyright").read_text(encoding="utf-8")
    listed = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(\S+):\s*(.*(?:\n .*)*)", paragraph, re.MULTILINE))
        listed.update(dict.fromkeys(fields.get("Files", "").split(), fields))
    return listed


@needs_effects
def test_every_recorded_effect_is_listed_as_cc0() -> None:
    """All that is listed of these families is used, but of the loops one. Each recording is listed once."""
    listed = read_copyright()
    entries = [listed[f"etc/samples/{name}.flac"] for name in effects.RECORDINGS]
    assert {entry["License"] for entry in entries} == {"CC0"}
    assert len({entry["Source"] for entry in entries}) == len(set(effects.RECORDINGS)) == 48
    families = ("ambi_", "elec_", "glitch_", "misc_", "perc_", "vinyl_")
    names = {Path(path).stem for path, fields in listed.items() if fields["License"] == "CC0"}
    assert {name for name in names if name.startswith(families)} == set(effects.RECORDINGS) - {"loop_safari"}


@needs_effects
def test_recorded_effects_are_of_one_split(opened: list[str]) -> None:
    """No recording is under two names. Each side reads its own files only."""
    for index in range(60):
        effects.make_recordings(seeded(index), RATE)
    assert set(opened) == set(effects.recordings_of("train"))
    opened.clear()
    made = [effects.make_effects(index) for index in range(len(effects.group_effects()))]
    assert sorted(opened) == sorted(effects.recordings_of("held-out"))
    assert len(made) >= 4
    contents = {effects.decode_recording(name).tobytes() for name in effects.RECORDINGS}
    assert len(contents) == len(effects.RECORDINGS)


@needs_effects
def test_evaluation_clips_hold_each_effect_once_at_its_own_speed() -> None:
    groups = effects.group_effects()
    assert sorted(itertools.chain(*groups)) == sorted(effects.recordings_of("held-out"))
    for index, group in enumerate(groups):
        clip, start = effects.make_effects(index), 0
        assert clip.dtype == np.float32 and clip.shape == (SEGMENT_SAMPLES,) and np.isfinite(clip).all()
        assert np.array_equal(clip, effects.make_effects(index))
        for name in group:
            sound = effects.read_recording(name)
            assert np.array_equal(clip[start : start + len(sound)], sound)
            start += len(sound) + round(evaluation.PAUSE * RATE)
        assert start <= SEGMENT_SAMPLES and not clip[start:].any()
        assert 10 * np.log10(np.mean(np.square(command.make_effects_clip(index)))) < -19.99
    with pytest.raises(IndexError, match=f"has {len(groups)} clips, not {len(groups) + 1}"):
        effects.make_effects(len(groups))


def test_training_recordings_differ_in_speed_level_and_number() -> None:
    """Against the pitch of a sine: a recording of 400 Hz is played at 240 to 640 Hz."""
    sine = signals.sine(400.0, RATE)
    pitches, levels = [], []
    for number in range(30):
        read: list[str] = []
        track = effects.make_recordings(seeded(number), 5 * RATE, lambda name, read=read: read.append(name) or sine)
        again = effects.make_recordings(seeded(number), 5 * RATE, lambda name: sine)
        assert np.array_equal(track, again)
        assert track.dtype == np.float32 and track.shape == (5 * RATE,) and np.isfinite(track).all()
        assert effects.FEWEST <= len(read) <= effects.MOST
        frequencies, energy = measure_spectrum(track)
        pitches.append(frequencies[energy.argmax()])
        levels.append(np.abs(track).max())
    assert min(pitches) > 235 and max(pitches) < 645 and max(pitches) / min(pitches) > 2
    assert max(levels) / min(levels) > 2


def test_missing_and_damaged_effects_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "SONIC_PI", replace(sources.SONIC_PI, needs=tmp_path))
    effects.decode_recording.cache_clear()
    with pytest.raises(MissingExtraError, match="recorded effects: apt install sonic-pi-samples"):
        environment.TRAINED_PROGRAMS[effects.PROGRAM](seeded(), RATE)
    for name in effects.RECORDINGS:
        (tmp_path / f"{name}.flac").write_bytes(b"fLaC")
    with pytest.raises(BackendError, match="expected a FLAC file: apt install --reinstall sonic-pi-samples"):
        effects.make_recordings(seeded(), RATE)
    monkeypatch.setattr(sources, "SOURCES", (replace(sources.SONIC_PI, needs=tmp_path / "nowhere"),))
    for use in ("training", "evaluation"):
        with pytest.raises(MissingExtraError, match=f"all sources of {use} clips: apt install sonic-pi-samples"):
            sources.check_sources(use)
    sources.check_sources("held-out")


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


def write(folder: Path, count: int, held_out: int = 0, **changes: Callable[[int], np.ndarray]) -> None:
    """Write clips that cost nothing; `changes` name an array and the function that makes its rows."""
    plans = [
        command.plan_sounds(folder / f"{split}-{domain}.npy", number, partial(make_noise, domain, split))
        for split, number in (("train", count), ("held-out", held_out))
        for domain in splits.DOMAINS
        if number
    ]
    plans = [
        replace(plan, make=partial(command.make_pcm, changes.get(plan.path.stem.replace("-", "_"), plan.make.args[0])))
        for plan in plans
    ]
    with Progress(disable=True) as progress:
        command.write_corpus(folder, plans, 1, progress)


made: list[int] = []  #: the numbers of the clips of make_noise since the last test began


@pytest.fixture(autouse=True)
def forget() -> None:
    made.clear()


def make_noise(domain: str, split: str, index: int) -> np.ndarray:
    made.append(index)
    return clips.set_level(signals.white(clips.seed_generator(domain, split, index), SEGMENT_SAMPLES), -20.0)


def test_arrays_hold_the_clips(tmp_path: Path) -> None:
    write(tmp_path, 3, held_out=2)
    names = {f"{split}-{domain}.npy" for split in splits.SPLITS for domain in splits.DOMAINS}
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".corpus")} == names
    stored = np.load(tmp_path / "train-music.npy")
    assert stored.dtype == np.int16
    assert stored.shape == (3, SEGMENT_SAMPLES)
    expected = np.round(make_noise("music", "train", 2).astype(np.float64) * 32767)
    assert np.abs(stored[2] - expected).max() <= 1
    made.clear()
    write(tmp_path, 3, held_out=2)
    assert made == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_corpus_goes_on_where_it_was(tmp_path: Path, stop: type[BaseException]) -> None:
    write(tmp_path / "whole", 4)
    made.clear()

    def fail(index: int) -> np.ndarray:
        if index == 2:
            raise stop
        return make_noise("music", "train", index)

    with pytest.raises(stop):
        write(tmp_path / "parts", 4, train_music=fail)
    assert made == [0, 1, 2, 3, 0, 1]
    assert not (tmp_path / "parts" / "train-music.npy").exists()
    made.clear()
    write(tmp_path / "parts", 4)
    assert made == [2, 3, 0, 1, 2, 3]
    for domain in splits.DOMAINS:
        name = f"train-{domain}.npy"
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_damaged_or_different_arrays_are_written_anew(tmp_path: Path) -> None:
    np.save(tmp_path / ".train-music.done.npy", np.ones(2, np.uint8))
    (tmp_path / ".train-music.partial.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "train-sound.npy").write_bytes(b"")
    np.save(tmp_path / "train-speech.npy", np.zeros((1, SEGMENT_SAMPLES), np.int16))
    write(tmp_path, 2)
    assert made == [0, 1] * 3
    assert all(np.load(tmp_path / f"train-{domain}.npy").any(axis=1).all() for domain in splits.DOMAINS)


def test_several_processes_write_the_same_as_one(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        for workers in (1, 2):
            folder = tmp_path / str(workers)
            folder.mkdir()
            arrays.write_array(command.plan_clips(folder, "sound", "held-out", 3), workers, progress)
    files = [(tmp_path / name / "held-out-sound.npy").read_bytes() for name in ("1", "2")]
    assert files[0] == files[1]


def test_a_plan_holds_the_arrays_that_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There are three clips of each recorded speaker and one of effects."""
    monkeypatch.setattr(command, "check_sources", lambda use: None)
    monkeypatch.setattr(command, "group_prompts", lambda source: [[], [], []])
    monkeypatch.setattr(command, "group_effects", lambda: [[]])
    plans = command.plan_arrays(tmp_path, 5, 2, 3, 2)
    assert {plan.path.name: plan.count for plan in plans} == {
        **{f"train-{domain}.npy": 5 for domain in splits.DOMAINS},
        **{f"sped{version}-{domain}.npy": 5 for domain in splits.DOMAINS for version in range(2)},
        **{f"held-out-{domain}.npy": 3 for domain in splits.DOMAINS},
        "held-out-melody.npy": 3,
        "held-out-melody-pitch.npy": 3,
        "recorded-french.npy": 2,
        "recorded-italian.npy": 2,
        "recorded-effects.npy": 1,
    }
    assert command.plan_arrays(tmp_path, 0, 1, 0, 0) == []


def test_other_training_clips_are_not_taken_for_those_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "check_sources", lambda use: None)
    monkeypatch.setattr(command, "write_array", lambda plan, workers, progress: np.save(plan.path, np.zeros(1)))
    other = ["--clips", "1", "--held-out", "0", "--first", "7"]
    for folder, arguments in ((tmp_path / "a", ["--clips", "1"]), (tmp_path / "b", other), (tmp_path / "b", other)):
        assert run_command(command.app, [str(folder), *arguments]) == 0
    assert run_command(command.app, [str(tmp_path / "b"), "--clips", "0"]) == 0, "held-out clips have other numbers"
    capsys.readouterr()
    for folder, found, first in ((tmp_path / "a", 0, 7), (tmp_path / "b", 7, 0)):
        assert run_command(command.app, [str(folder), "--clips", "1", "--first", str(first)]) != 0
        assert f"has training clips from number {found} on; expected --first {found}" in capsys.readouterr().err


def test_training_clips_are_numbered_from_the_first_on(tmp_path: Path) -> None:
    there = command.plan_clips(tmp_path, "sound", "train", 8, first=5).make(2)
    np.testing.assert_array_equal(there, command.plan_clips(tmp_path, "sound", "train", 8).make(7))


@needs(*of_use("evaluation"))
def test_recorded_arrays_have_as_many_clips_as_there_are(tmp_path: Path) -> None:
    for plan in command.plan_recorded(tmp_path, 10**6):
        assert plan.make(plan.count - 1).any()
        with pytest.raises(IndexError):
            plan.make(plan.count)


def test_a_missing_source_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = replace(sources.ESPEAK, needs="espeak-ng-that-is-not-there")
    monkeypatch.setattr(voices, "ESPEAK", absent)
    monkeypatch.setattr(sources, "SOURCES", (absent,))
    with pytest.raises(MissingExtraError, match=r"is not installed; expected .* on the PATH: apt install"):
        espeak("en-us", "m1").speak("word")
    assert run_command(command.app, [str(tmp_path), "--clips", "1", "--held-out", "0", "--workers", "1"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "espeak-ng: not installed; expected all sources of training clips: apt install espeak-ng" in errors[0]
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("size", [0, 44, 51])
def test_speech_that_is_cut_off_is_said_in_one_line(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "espeak"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\necho >> {tmp_path}/runs\nhead -c {size} /dev/zero\n")
    program.chmod(0o755)
    monkeypatch.setattr(voices, "ESPEAK", replace(sources.ESPEAK, needs=str(program)))
    with pytest.raises(BackendError, match=f"exit code 0, {size} bytes; expected speech: run it again"):
        espeak("en-us", "m1").speak("word")
    assert len((tmp_path / "runs").read_text()) == voices.ATTEMPTS


def test_speech_that_was_cut_off_once_is_spoken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "espeak"
    program.write_text(
        f"#!/bin/sh\ncat > /dev/null\nsize=51\nmkdir {tmp_path}/once || size=4044\nhead -c $size /dev/zero\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(voices, "ESPEAK", replace(sources.ESPEAK, needs=str(program)))
    assert len(espeak("en-us", "m1").speak("word")) == round(2000 / 22_050 * RATE)


@needs(*of_use("held-out"))
def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run_command(command.app, [str(tmp_path / "file" / "corpus"), "--clips", "0"]) == 1
    assert "a folder that can be written" in capsys.readouterr().err


# Shipped samples


@needs(sources.FLITE, sources.FLUIDSYNTH, sources.FLUID, sources.PRETTY_MIDI)
def test_the_sample_in_the_package_is_what_its_program_makes() -> None:
    """It holds a sentence by a held-out voice, then the written tune on a held-out instrument, in one window."""
    librosa = pytest.importorskip("librosa")
    made = sample.make_sample()
    shipped, rate = soundfile.read(SPEECH_AND_MUSIC, dtype="float32")
    assert rate == RATE and made.shape == shipped.shape == (160_000,)
    assert np.abs(made - shipped).max() < 1e-4
    assert sample.VOICE.name in speech.HELD_OUT_VOICES and sample.CLARINET in instruments.HELD_OUT_PROGRAMS
    quiet = np.abs(shipped).reshape(-1, 160).max(axis=1) < 1e-3
    pauses = np.flatnonzero(np.convolve(quiet[:700], np.ones(20), "valid") == 20)  # of 0.2 s, before the tune's end
    tune = shipped[160 * (pauses[-1] + 20) :]
    found = librosa.pyin(tune, fmin=100, fmax=1000, sr=RATE, frame_length=2048, hop_length=160)[0]
    ends = np.cumsum([beats for _, beats in sample.TUNE]) * sample.BEAT
    middles = [int(100 * (end - beats * sample.BEAT / 2)) for end, (_, beats) in zip(ends, sample.TUNE, strict=True)]
    wanted = [440 * 2 ** ((pitch - 69) / 12) for pitch, _ in sample.TUNE]
    assert len(tune) / RATE > ends[-1] - 0.3  # the tune is whole
    assert np.mean(np.abs(1200 * np.log2(found[middles] / wanted)) < 50) > 0.9


def test_a_clip_at_another_speed_moves_its_pitch_by_the_same_factor(tmp_path: Path) -> None:
    """Against the pitch of a sine, read from its spectrum. A faster clip goes on with the next clip."""
    time = np.arange(SEGMENT_SAMPLES) / SAMPLE_RATE
    for domain in splits.DOMAINS:
        rows = [np.round(8000 * np.sin(2 * np.pi * pitch * time)).astype(np.int16) for pitch in (400, 700, 1000)]
        np.save(speeds.locate_clips(tmp_path, domain), np.stack(rows))
    plans = speeds.plan_sped(tmp_path, 3, 2)
    with Progress(disable=True) as progress:
        for plan in plans:
            arrays.write_array(plan, 1, progress)
    factors = []
    for plan in plans:
        for pitch, following, clip in zip((400, 700, 1000), (700, 1000, 400), np.load(plan.path), strict=True):
            seconds = clip[:16000], clip[-16000:]
            begin, end = (np.abs(np.fft.rfft(second * np.hanning(16000))).argmax() for second in seconds)
            factors.append(begin / pitch)
            assert clip.shape == (SEGMENT_SAMPLES,) and np.abs(clip).max() < 8200
            if factors[-1] > 1.12:  # the last second is the next clip's
                assert end == pytest.approx(following * factors[-1], rel=0.01)
    assert len(set(factors)) > 12 and min(factors) >= 0.79 and max(factors) <= 1.26
    assert all(not 0.95 < factor < 1.05 for factor in factors)
    assert speeds.list_sets(tmp_path)[1:] == [
        [tmp_path / f"sped{version}-{domain}.npy" for domain in splits.DOMAINS] for version in range(2)
    ]
