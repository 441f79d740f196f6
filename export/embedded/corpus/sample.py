"""The sample in the package: a spoken sentence, then a tune. `python -m export.embedded.corpus.sample FILE` writes it.

Voice and instrument are held out: no training clip has them. The tune is the beginning of Beethoven's "Ode to Joy".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sc_runtime.cli.program import run_app
from sc_runtime.files import replacing
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .clips import EVALUATION_LEVEL, set_level
from .music import add_part, new_note, new_piece, render
from .signals import Signal, seconds
from .voices import FliteVoice, trim

SECONDS = 10.0  #: less than a window, so that decoding takes the time of one
PAUSE = 0.25  #: seconds of silence before the sentence and behind it
VOICE = FliteVoice("awb", 1.1, 1.0)
SENTENCE = "A hundred tokens a second hold this sentence, and the tune that comes next."
CLARINET = 71  #: of General MIDI, counted from 0
BEAT = 0.25  #: seconds
TUNE: tuple[tuple[int, float], ...] = ((64, 1), (64, 1), (65, 1), (67, 1), (67, 1), (65, 1), (64, 1), (62, 1))
TUNE += ((60, 1), (60, 1), (62, 1), (64, 1), (64, 1.5), (62, 0.5), (62, 2))  #: (MIDI pitch, beats)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def make_sample() -> Signal:
    """The sample, float32 [160000] at 16 kHz, both halves with an RMS of at most -20 dBFS.

    Raises MissingExtraError if flite, FluidSynth or the soundfont is not installed.
    """
    pause = np.zeros(seconds(PAUSE), np.float32)
    speech = np.concatenate([pause, set_level(trim(VOICE.speak(SENTENCE)), EVALUATION_LEVEL), pause])
    return np.concatenate([speech, set_level(play_tune(seconds(SECONDS) - len(speech)), EVALUATION_LEVEL)])


def play_tune(length: int) -> Signal:
    """The tune, float32 [length] at 16 kHz."""
    piece, notes, start = new_piece(), [], 0.0
    for pitch, beats in TUNE:
        notes.append(new_note(pitch, start, 0.92 * beats * BEAT, 0.75))
        start += beats * BEAT
    add_part(piece, CLARINET, notes)
    return render(piece, length, reverb=False, chorus=False)


@app.command()
def main(file: Annotated[Path, typer.Argument(help="The FLAC file to write.")]) -> None:
    """Write the sample of the package."""
    import soundfile

    with replacing(file) as temporary:
        soundfile.write(temporary, make_sample(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")


if __name__ == "__main__":
    run_app(app)
