"""Music: generated tunes, written as MIDI and played by the recorded instruments of a General MIDI soundfont."""

from __future__ import annotations

import functools
import io
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.semanticodec.config import FRAME_SHIFT, SAMPLE_RATE, SEGMENT_FRAMES

from .composition import DRUMS, REST, SCALES, Score, draw_pattern, draw_score
from .instruments import Instrument, draw_bass, draw_instrument, list_singing
from .signals import Signal, band, filter_curve
from .sources import FLUID, FLUIDSYNTH, PRETTY_MIDI
from .splits import Split, draw_within, pick

if TYPE_CHECKING:
    from pretty_midi import Note, PrettyMIDI

RENDER_RATE = 48_000  #: Hz
GAIN = "0.3"  #: of FluidSynth; the output is float32, and clips are scaled afterwards
TIMEOUT = 120.0  #: seconds
LEAD = 4.0  #: seconds at most of a piece that are played before the clip begins

#: The parts of a piece. An ensemble's share is its count in this list.
ENSEMBLES = (
    *(("melody", "chords", "bass", "drums"),) * 2,
    ("melody", "chords", "bass"),
    ("melody", "chords", "drums"),
    *(("melody", "chords"),) * 2,
    ("melody", "melody", "bass"),
    ("chords", "bass", "drums"),
    ("chords",),
    *(("melody",),) * 4,
    ("bass",),
    *(("drums",),) * 2,
)


def make_music(rng: np.random.Generator, split: Split, length: int) -> Signal:
    """float32 [length] at 16 kHz: a tune of `split` by one to four parts, from some moment of it on.

    Raises MissingExtraError if FluidSynth, its soundfont or pretty_midi is not installed.
    """
    lead = round(rng.uniform(0, LEAD) * SAMPLE_RATE)
    score = draw_score(rng, split, (lead + length) / SAMPLE_RATE)
    piece = new_piece()
    for part in pick(rng, ENSEMBLES):
        if part == "drums":
            add_part(piece, 0, write_drums(rng, score, split), drums=True)
        elif part == "bass":
            bass = draw_bass(rng)
            add_part(piece, bass.program, write_bass(rng, score, bass))
        else:
            instrument = draw_instrument(rng, split)
            write = write_chords if part == "chords" else write_melody
            add_part(piece, instrument.program, write(rng, score, instrument))
    track = render(piece, lead + length, reverb=rng.random() < 0.4, chorus=rng.random() < 0.2)[lead:]
    if rng.random() < 0.15:  # an old or small loudspeaker
        track = filter_curve(track, band(float(rng.uniform(30, 250)), float(rng.uniform(2500, 7000)), 1.5))
    return track


def make_melody(rng: np.random.Generator, split: Split, length: int) -> tuple[Signal, Signal]:
    """A melody of one sustained voice: float32 [length] at 16 kHz, and the pitch of each 10 ms.

    The pitch is the written note's, float32 [length / 160] in Hz. It is 0 in rests and within 30 ms of a note's ends.
    """
    score = draw_score(rng, split, length / SAMPLE_RATE)
    instrument = pick(rng, list_singing())
    notes = write_melody(rng, score, instrument)
    piece = new_piece()
    add_part(piece, instrument.program, notes)
    return render(piece, length, reverb=False, chorus=False), list_pitches(notes, length // FRAME_SHIFT)


def list_pitches(notes: list[Note], frames: int = SEGMENT_FRAMES) -> Signal:
    """The fundamental of `notes` in each of `frames` frames of 10 ms, Hz; 0 where none sounds or one begins or ends."""
    margin = 0.03
    centres = (np.arange(frames) + 0.5) * FRAME_SHIFT / SAMPLE_RATE
    pitches = np.zeros(frames, np.float32)
    for note in notes:
        within = (centres > note.start + margin) & (centres < note.end - margin)
        pitches[within] = 440.0 * 2 ** ((note.pitch - 69) / 12)
    return pitches


def new_piece() -> PrettyMIDI:
    """A piece without parts, in MIDI ticks of about a millisecond."""
    try:
        from pretty_midi import PrettyMIDI
    except ImportError as error:
        raise MissingExtraError("pretty_midi is not installed", "pretty_midi", PRETTY_MIDI.install) from error
    return PrettyMIDI(resolution=480, initial_tempo=120)


def add_part(piece: PrettyMIDI, program: int, notes: list[Note], *, drums: bool = False) -> None:
    """Add `notes`, played by `program`, to `piece`."""
    from pretty_midi import Instrument as Part

    part = Part(program, is_drum=drums)
    part.notes = notes
    piece.instruments.append(part)


def new_note(pitch: int, start: float, duration: float, loudness: float) -> Note:
    """A note from `start` for `duration` seconds; `loudness` from 0 to 1."""
    from pretty_midi import Note

    start = max(0.0, start)
    return Note(int(np.clip(round(loudness * 127), 1, 127)), pitch, start, start + max(duration, 0.03))


def place_register(rng: np.random.Generator, score: Score, instrument: Instrument) -> int:
    """Octaves, as semitones, that move the tune to a random place in the instrument's register."""
    centre = int(rng.integers(instrument.low, instrument.high + 1))
    return 12 * round((centre - score.tune.pitch(3)) / 12)


def write_melody(rng: np.random.Generator, score: Score, instrument: Instrument) -> list[Note]:
    """The motif over and over, moved to the chord of the bar it starts in; no two notes sound together."""
    shift, size = place_register(rng, score, instrument), len(SCALES[score.tune.scale])
    loudness, held = rng.uniform(0.5, 0.95), rng.uniform(0.6, 0.98)
    notes: list[Note] = []
    time = 0.0
    while time < score.duration:
        moved = score.chord(int(time / score.bar))[0] % size - (size if rng.random() < 0.3 else 0)
        for degree, eighths in score.tune.motif:
            lasts = eighths * score.beat / 2
            if degree != REST and time < score.duration:
                pitch = instrument.fold(score.tune.pitch(degree + moved) + shift)
                notes.append(new_note(pitch, time, lasts * held, loudness * rng.uniform(0.7, 1.05)))
            time += lasts
    return notes


def write_chords(rng: np.random.Generator, score: Score, instrument: Instrument) -> list[Note]:
    """Chords held, repeated, broken or strummed, by bars."""
    shift, style = place_register(rng, score, instrument), pick(rng, ("held", "held", "repeated", "broken", "strummed"))
    order = pick(rng, ((0, 1, 2, 1), (0, 2, 1, 2), (2, 1, 0, 1), (0, 1, 2, 2)))
    loudness = rng.uniform(0.35, 0.8)
    notes: list[Note] = []
    for bar in range(score.bars):
        pitches = [instrument.fold(score.tune.pitch(degree) + shift) for degree in score.chord(bar)]
        start = bar * score.bar
        if style in ("held", "strummed"):
            apart = 0.03 if style == "strummed" else 0.0
            notes += [new_note(p, start + i * apart, score.bar * 0.98, loudness) for i, p in enumerate(pitches)]
        elif style == "repeated":
            for beat in range(score.beats):
                loud = loudness * (0.8 if beat else 1.0)
                notes += [new_note(pitch, start + beat * score.beat, score.beat * 0.5, loud) for pitch in pitches]
        else:
            for eighth in range(score.beats * 2):
                pitch = pitches[order[eighth % 4]]
                notes.append(new_note(pitch, start + eighth * score.beat / 2, score.beat * 0.9, loudness))
    return notes


def write_bass(rng: np.random.Generator, score: Score, instrument: Instrument) -> list[Note]:
    """The roots of the chords, with a fifth in one note of five."""
    every, loudness = pick(rng, (0.5, 1.0, 1.0, 2.0)), rng.uniform(0.6, 0.95)
    notes = []
    for bar in range(score.bars):
        chord = score.chord(bar)
        for step in range(max(1, int(score.beats / every))):
            degree = chord[2] if rng.random() < 0.2 else chord[0]
            pitch = instrument.fold(score.tune.pitch(degree) - 24)
            start = bar * score.bar + step * every * score.beat
            notes.append(new_note(pitch, start, every * score.beat * 0.9, loudness))
    return notes


def write_drums(rng: np.random.Generator, score: Score, split: Split) -> list[Note]:
    """A pattern of `split`, bar after bar, on one kit."""
    pattern = draw_within(split, functools.partial(draw_pattern, rng, score.beats), str)
    kit = {drum: pick(rng, keys) for drum, keys in DRUMS.items()}
    notes = []
    for bar in range(score.bars):
        for drum, steps in pattern.items():
            for step in steps:
                start = bar * score.bar + step * score.beat / 4 + rng.normal(0, 0.002)
                notes.append(new_note(kit[drum], start, 0.1, rng.uniform(0.5, 1.0)))
    return notes


def render(piece: PrettyMIDI, length: int, *, reverb: bool, chorus: bool) -> Signal:
    """`piece` as FluidSynth plays it: float32 [length] at 16 kHz, both channels averaged, at any level."""
    import soxr

    file = io.BytesIO()
    piece.write(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "piece.mid"
        path.write_bytes(file.getvalue())
        samples = run_fluidsynth(path, reverb, chorus)
    sound = soxr.resample(samples.mean(axis=1), RENDER_RATE, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(np.asarray(sound, np.float32), (0, length - len(sound)))


def run_fluidsynth(path: Path, reverb: bool, chorus: bool) -> npt.NDArray[np.float32]:
    """The MIDI file at `path` as float32 [samples, 2] at 48 kHz."""
    command = [str(FLUIDSYNTH.needs), "-n", "-i", "-q", "-r", str(RENDER_RATE), "-g", GAIN, "-R", str(int(reverb))]
    command += ["-C", str(int(chorus)), "-o", "synth.dynamic-sample-loading=1", "-T", "raw", "-O", "float", "-F", "-"]
    if not FLUID.is_installed():
        raise MissingExtraError(f"{FLUID.name} is not installed", "a soundfont", FLUID.install)
    try:
        result = subprocess.run(
            [*command, str(FLUID.needs), str(path)], capture_output=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise MissingExtraError(f"{FLUIDSYNTH.name} is not installed", "FluidSynth", FLUIDSYNTH.install) from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"fluidsynth: {error}", f"a rendering within {TIMEOUT:.0f} s") from error
    if result.returncode or not result.stdout or len(result.stdout) % 8:
        complaint = result.stderr.decode(errors="replace").strip()
        raise BackendError(
            f"fluidsynth: {complaint or f'{len(result.stdout)} bytes'}", "float32 samples of two channels"
        )
    return np.frombuffer(result.stdout, "<f4").reshape(-1, 2)
