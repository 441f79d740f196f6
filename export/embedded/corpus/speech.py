"""Synthetic speech: espeak-ng in many languages and voices, saying words, numbers and words there are not."""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .splits import Split, draw_within, pick, split_of
from .words import ACCENTS, HELD_OUT_LANGUAGES, TRAINED_LANGUAGES, syllables_of, words_of

PROGRAM = "espeak-ng"
HEADER = 44  #: bytes of the WAV header that espeak-ng writes
ESPEAK_RATE = 22050  #: Hz
LOUDNESS = "60"  #: of 200; at the usual 100 some voices clip
TIMEOUT = 60.0  #: seconds, for some seconds of speech that take it some milliseconds

#: Variants of espeak-ng's voices. No variant is in both lists, so no speaker is in both splits.
TRAINED_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f5", "klatt", "klatt2", "klatt4", "klatt5"),
    *(
        "Alex",
        "Alicia",
        "Andrea",
        "Andy",
        "Annie",
        "antonio",
        "aunty",
        "belinda",
        "benjamin",
        "boris",
        "caleb",
        "david",
    ),
    *("Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "gustave", "Henrique", "Hugo", "iven", "iven2"),
    *("Jacky", "kaukovalta", "Lee", "linda", "Marco", "Mario", "max", "Michael", "michel", "mike", "Mr", "norbert"),
    *("paul", "pedro", "quincy", "RicishayMax", "RicishayMax2", "rob", "robert", "robosoft", "robosoft3", "robosoft5"),
    *("sandro", "shelby", "steph", "steph2", "travis", "Tweaky", "UniRobot", "victor", "whisper", "whisperf", "zac"),
    *("croak", "anikaRobot", "announcer"),
)
HELD_OUT_VARIANTS = ("m7", "f4", "klatt3", "adam", "anika", "iven3", "marcelo", "miguel", "Nguyen", "pablo", "steph3")


@dataclass(frozen=True)
class Speaker:
    """A voice and how it speaks."""

    language: str  #: whose words it says
    accent: str  #: espeak-ng's voice
    variant: str
    pitch: int  #: 0 to 99
    speed: int  #: words a minute
    gap: int  #: pause between words, about 10 ms each
    tract: float  #: length of the vocal tract over espeak-ng's; shifts formants and pitch alike

    @property
    def voice(self) -> str:
        return f"{self.accent}+{self.variant}"


def languages_of(split: Split) -> tuple[str, ...]:
    """The languages a split may speak: the held-out set has the trained ones too, by speakers of its own."""
    return TRAINED_LANGUAGES if split == "train" else TRAINED_LANGUAGES + HELD_OUT_LANGUAGES


def variants_of(split: Split) -> tuple[str, ...]:
    return TRAINED_VARIANTS if split == "train" else HELD_OUT_VARIANTS


def draw_speaker(rng: np.random.Generator, split: Split) -> Speaker:
    """A speaker of `split`; half of the held-out ones speak a language that is never trained on."""
    unheard = split == "held-out" and rng.random() < 0.5
    language = pick(rng, HELD_OUT_LANGUAGES if unheard else TRAINED_LANGUAGES)
    if not unheard and rng.random() < 0.15:  # as much of the world's recorded speech is English
        language = "en-us"
    return Speaker(
        language=language,
        accent=pick(rng, (language, *ACCENTS.get(language, ()))),
        variant=pick(rng, variants_of(split)),
        pitch=int(rng.integers(20, 81)),
        speed=int(rng.integers(115, 225)),
        gap=int(rng.integers(0, 9)) if rng.random() < 0.4 else 0,
        tract=float(rng.uniform(0.88, 1.14)),
    )


@functools.cache
def vocabulary(language: str, split: Split) -> tuple[str, ...]:
    """The words of `language` that belong to `split`."""
    return tuple(word for word in words_of(language) if split_of(word) == split)


@functools.cache
def syllable_list(language: str) -> tuple[str, ...]:
    return tuple(syllables_of(language))


def draw_word(rng: np.random.Generator, language: str, split: Split) -> str:
    """A word of the language (6 in 10), a pseudo-word (3 in 10) or a number (1 in 10) of `split`."""
    kind = rng.random()
    if kind < 0.6:
        return pick(rng, vocabulary(language, split))

    def draw() -> str:
        if kind < 0.7:
            return str(int(rng.integers(0, 10 ** int(rng.integers(1, 6)))))
        syllables = syllable_list(language)
        return "".join(pick(rng, syllables) for _ in range(int(rng.integers(1, 4))))

    return draw_within(split, draw, str)


def draw_sentence(rng: np.random.Generator, language: str, split: Split) -> str:
    """Two to eleven words with a comma here and there, and an end that shapes the melody."""
    words = [draw_word(rng, language, split) for _ in range(int(rng.integers(2, 12)))]
    marked = [word + ("," if rng.random() < 0.12 else "") for word in words[:-1]]
    return " ".join([*marked, words[-1]]) + pick(rng, (".", ".", ".", "?", "!"))


def speak(speaker: Speaker, text: str) -> npt.NDArray[np.float32]:
    """`text` as float32 [samples] at 16 kHz, full scale 1.

    Raises MissingExtraError where espeak-ng is not installed, BackendError where it cannot speak.
    """
    import soxr

    command = [PROGRAM, "-b", "1", "--stdin", "--stdout", "-a", LOUDNESS, "-v", speaker.voice]
    command += ["-p", str(speaker.pitch), "-s", str(speaker.speed), "-g", str(speaker.gap)]
    try:
        result = subprocess.run(command, input=text.encode(), capture_output=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise missing_program() from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{PROGRAM}: {error}", "speech", f"try {PROGRAM} by hand") from error
    complaint = result.stderr.decode(errors="replace").strip().splitlines()
    if result.returncode or len(result.stdout) <= HEADER or len(result.stdout) % 2:  # of 16 bits, half a sample
        line = complaint[-1] if complaint else f"exit code {result.returncode}, {len(result.stdout)} bytes"
        remedy = "run it again; if it stays so, install espeak-ng 1.51 or newer"
        raise BackendError(f"{PROGRAM} with voice {speaker.voice}: {line}", "speech", remedy)
    samples = np.frombuffer(result.stdout, "<i2", offset=HEADER).astype(np.float32) / 32768
    # Played slower or faster, a voice belongs to a longer or shorter body.
    return np.asarray(soxr.resample(samples, ESPEAK_RATE, SAMPLE_RATE * speaker.tract, quality="HQ"), np.float32)


def missing_program() -> MissingExtraError:
    return MissingExtraError(f"{PROGRAM} is not installed", f"{PROGRAM} on the PATH", f"apt install {PROGRAM}")


def check_program() -> None:
    """Raises MissingExtraError where espeak-ng is not installed."""
    if shutil.which(PROGRAM) is None:
        raise missing_program()


def make_speech(rng: np.random.Generator, split: Split, length: int) -> npt.NDArray[np.float32]:
    """float32 [length] at 16 kHz: one speaker, or in one clip of four two or three who take turns."""
    count = 1 if rng.random() < 0.75 else int(rng.integers(2, 4))
    speakers = [draw_speaker(rng, split) for _ in range(count)]
    pause = float(rng.uniform(0.05, 0.9))
    parts: list[npt.NDArray[np.float32]] = []
    missing = length
    while missing > 0:
        speaker = speakers[len(parts) // 2 % count]
        text = " ".join(draw_sentence(rng, speaker.language, split) for _ in range(int(rng.integers(1, 3))))
        speech = trim(speak(speaker, text))
        rest = np.zeros(int(SAMPLE_RATE * pause * rng.uniform(0.5, 1.5)), np.float32)
        parts += [speech * np.float32(0.1 / (np.sqrt(np.mean(np.square(speech))) + 1e-6)), rest]
        missing -= len(speech) + len(rest)
    return np.concatenate(parts)[:length]


def trim(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Without the silence before and after; a moment of silence where there is nothing else."""
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    if not len(loud):
        return np.zeros(SAMPLE_RATE // 10, np.float32)
    return samples[loud[0] : loud[-1] + 1]
